import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from s3server import far, gate, server

from ckptlab.errors import CheckpointError, PathError
from ckptlab.layout import Box, Boxes
from ckptlab.metadata import ChunkColumns, Metadata, Tensor, Tensors, human_bytes
from ckptlab.storage.dcp import read_metadata
from ckptlab.storage.dcp_write import write_metadata
from ckptlab.storage.local import LocalFiles
from ckptlab.storage.opened import Checkpoint
from ckptlab.storage.remote import FsspecFiles
from ckptlab.storage.retention import PruneReport, prune

__all__ = ["far", "gate", "server"]

DATA = bytes(1000)
FILES = (".metadata", "__0_0.distcp", "__1_0.distcp")


def metadata_bytes():
    columns = ChunkColumns()
    columns.add(Boxes.of([Box((0,), (4,)), Box((4,), (4,))], 1), [0, 1], [0, 0], [1000, 900])
    metadata = Metadata(
        Tensors.of([Tensor("w", "float32", (8,))]), columns.build(), FILES[1:], (0, 1), {}, {"w": ("w",)}, {}
    )
    return write_metadata(metadata, "")


METADATA = metadata_bytes()


def make(files, *names, without=(), extra=()):
    """Whole checkpoints of two data files, without some of them or with more."""
    for name in names:
        below = files.folder(name)
        below.make()
        for file in {*FILES, *extra} - set(without):
            below.publish(file, METADATA if file == ".metadata" else DATA, sync=False)


def whole(files):
    """The folders that hold a whole checkpoint."""
    found = []
    for name, kind in files.entries().items():
        below = files.folder(name)
        if kind == "folder" and ".metadata" in below.names():
            metadata = read_metadata(below.read(".metadata", 0, below.size(".metadata")), name)
            assert Checkpoint(name, "dcp", metadata, below).check_files() == [], (
                f"{name} looks whole and is not"
            )
            found.append(name)
    return found


@pytest.fixture(params=["local", "s3", "memory"])
def files(request, tmp_path):
    """An empty root in each kind of storage."""
    if request.param == "local":
        (tmp_path / "run").mkdir()
        return LocalFiles(tmp_path / "run")
    if request.param == "memory":
        return FsspecFiles(f"memory://{tmp_path.name}/{os.urandom(8).hex()}")
    return FsspecFiles(request.getfixturevalue("far"))


@pytest.fixture
def local(tmp_path):
    return LocalFiles(tmp_path)


def test_the_last_and_every_nth_stay(files):
    make(files, *(f"step-{n}" for n in range(100, 1300, 100)))
    report = prune(files.root, keep_last=3, keep_every=500)
    assert report.last == ("step-1000", "step-1100", "step-1200")
    assert report.every == ("step-500",)
    assert report.kept == ("step-500", "step-1000", "step-1100", "step-1200")
    assert report.removed == tuple(f"step-{n}" for n in (100, 200, 300, 400, 600, 700, 800, 900))
    assert (report.unfinished, report.left, report.dry_run) == ({}, {}, False)
    assert report.freed == 8 * (len(METADATA) + 2000)
    assert sorted(files.entries()) == sorted(report.kept)
    assert sorted(whole(files)) == sorted(report.kept)
    again = prune(files.root, keep_last=3, keep_every=500)
    assert (again.kept, again.removed) == (report.kept, ())


def test_a_dry_run_tells_and_removes_nothing(files):
    make(files, "step-1", "step-2", "step-10")
    report = prune(files.root, keep_last=1, dry_run=True)
    assert report.removed == ("step-1", "step-2")
    assert whole(files) == ["step-1", "step-10", "step-2"]
    assert repr(report) == (
        f"{files.root}: would remove 2 ({human_bytes(2 * (len(METADATA) + 2000))}), 1 kept\n"
        "  last: step-10\n"
        "  would remove: step-1, step-2"
    )


def test_the_last_number_in_a_name_is_its_step(local):
    make(local, "epoch=9-step=1", "epoch=1-step=20", "checkpoint_3", "007", "no number", "step-3")
    report = prune(local.root, keep_last=2)
    assert report.last == ("007", "epoch=1-step=20")
    # Of two with one step the name decides.
    assert report.removed == ("epoch=9-step=1", "checkpoint_3", "step-3")
    assert set(local.entries()) == {"007", "epoch=1-step=20", "no number"}


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda f: f.remove(".metadata"), "2 files but no .metadata"),
        (lambda f: f.remove("__1_0.distcp"), "__1_0.distcp is missing"),
        (lambda f: f.publish("__1_0.distcp", bytes(899), sync=False), "__1_0.distcp ends at byte 899"),
        (lambda f: f.publish(".metadata", METADATA[:-20], sync=False), ".metadata"),
        (lambda f: [f.remove(name) for name in FILES], ""),
        (lambda f: (f.remove(".metadata"), f.publish("config.json", b"{}", sync=False)), "3 files but no"),
    ],
    ids=["no metadata", "missing", "short", "damaged", "empty", "no metadata, more"],
)
def test_what_is_not_whole_does_not_count(local, spoil, why):
    make(local, *(f"step-{n}" for n in range(1, 7)))
    for n in (2, 5, 6):
        spoil(local.folder(f"step-{n}"))
    report = prune(local.root, keep_last=2, dry_run=True)
    there = [name for name in ("step-6", "step-5", "step-2") if name in local.entries()]
    assert list(report.unfinished) == there
    assert all(why in reason for reason in report.unfinished.values())
    assert report.last == ("step-3", "step-4")
    assert report.removed == ("step-1",)
    assert prune(local.root, keep_last=2).removed == ("step-1",)
    assert sorted(local.entries()) == sorted({"step-3", "step-4", *there})
    assert prune(local.root, keep_last=2, remove_unfinished=True).removed == tuple(
        name for name in ("step-2",) if name in there
    )
    assert sorted(local.entries()) == sorted({"step-3", "step-4", *there} - {"step-2"})


def test_an_unfinished_nth_goes_only_when_asked(local):
    make(local, "step-20", "step-30")
    make(local, "step-10", without=["__0_0.distcp"])
    assert prune(local.root, keep_last=1, keep_every=10).every == ("step-10", "step-20")
    report = prune(local.root, keep_last=1, keep_every=10, remove_unfinished=True)
    assert (report.every, report.removed) == (("step-20",), ("step-10",))


def test_without_a_whole_one_nothing_goes(local):
    make(local, "step-1", "step-2", without=["__0_0.distcp"])
    report = prune(local.root, keep_last=1, remove_unfinished=True)
    assert (report.kept, report.removed, list(report.unfinished)) == ((), (), ["step-2", "step-1"])
    assert "unfinished, still there: step-2, __0_0.distcp is missing" in repr(report)


def test_kept_nths_are_not_read_again(far, gate):
    files = FsspecFiles(far)
    make(files, *(f"step-{n}" for n in range(1, 8)))
    gate.clear()
    prune(far, keep_last=1, keep_every=1)
    assert {r.path.split("/")[-2] for r in gate.asked(".metadata")} == {"step-7"}


def test_what_is_no_checkpoint_is_left_alone(files):
    make(files, *(f"step-{n}" for n in range(1, 6)))
    make(files, "step-1/eval")
    other = files.folder("step-2")
    for name in FILES:
        other.remove(name)
    other.publish("notes.txt", b"mine", sync=False)
    files.publish("log-1", b"mine", sync=False)
    unsafe = b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R."
    files.folder("step-3").publish(".metadata", unsafe, sync=False)
    report = prune(files.root, keep_last=1, remove_unfinished=True)
    assert report.removed == ("step-4",)
    assert report.left["step-1"] == "it holds eval, which is no plain file"
    assert report.left["step-2"] == "no DCP checkpoint"
    assert "system" in report.left["step-3"]
    assert set(files.entries()) == {"step-1", "step-2", "step-3", "step-5", "log-1"}
    assert set(files.folder("step-1").names()) == set(FILES)
    assert files.folder("step-1/eval").names() == FILES
    assert "left alone: step-2, no DCP checkpoint" in repr(report)


def test_links_are_left_alone_and_not_followed(local, tmp_path_factory):
    away = LocalFiles(tmp_path_factory.mktemp("away"))
    make(away, "step-1", "step-2")
    make(local, "step-3", "step-4", "step-5")
    os.symlink(Path(away.root, "step-1"), Path(local.root, "step-1"))
    os.symlink(Path(away.root, "step-2"), Path(local.root, "latest"))
    os.symlink(Path(away.root, "step-2", "__0_0.distcp"), Path(local.root, "step-3", "linked"))
    report = prune(local.root, keep_last=1, remove_unfinished=True)
    assert report.removed == ("step-4",)
    assert report.left == {"step-1": "a link", "step-3": "it holds linked, which is no plain file"}
    assert whole(away) == ["step-1", "step-2"]
    assert set(local.entries()) == {"step-1", "latest", "step-3", "step-5"}


def test_all_plain_files_of_a_checkpoint_go_with_it(files):
    make(files, "step-1", "step-2", extra=["config.json", ".ckptlab-1.json", ".metadata.12.tmp"])
    assert prune(files.root, keep_last=1).removed == ("step-1",)
    assert list(files.entries()) == ["step-2"]


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2"])
@pytest.mark.parametrize("name", ["keep_last", "keep_every"])
def test_senseless_numbers_are_refused(local, name, value):
    make(local, "step-1", "step-2")
    with pytest.raises(CheckpointError, match=f"{name} is {value!r}; it must be a whole number, at least 1"):
        prune(local.root, **{"keep_last": 1, name: value})
    assert len(whole(local)) == 2


def test_a_root_that_is_a_checkpoint_is_refused(files):
    make(files, "step-1")
    with pytest.raises(PathError, match="step-1 is a checkpoint itself"):
        prune(f"{files.root}/step-1", keep_last=1)
    with pytest.raises(PathError, match=r"nothing does not exist"):
        prune(f"{files.root}/nothing", keep_last=1)


def test_what_cannot_be_removed_is_told(local, monkeypatch):
    make(local, "step-1", "step-2")

    def refuse(self, name):
        raise PermissionError(13, "Permission denied", name)

    monkeypatch.setattr(LocalFiles, "remove", refuse)
    with pytest.raises(PathError, match=r"step-1: cannot be removed: .*Permission denied"):
        prune(local.root, keep_last=1)


def test_a_server_that_fails_stops_it_before_anything_goes(far, gate):
    files = FsspecFiles(far)
    make(files, "step-1", "step-2", "step-3")
    gate.fail("403", 100, "GET", "step-2/.metadata")
    with pytest.raises(PathError, match=r"step-2/\.metadata: cannot read"):
        prune(far, keep_last=1)
    gate.clear()
    assert whole(files) == ["step-1", "step-2", "step-3"]


@settings(max_examples=40, deadline=None)
@given(
    steps=st.sets(st.integers(0, 40), min_size=1, max_size=9),
    broken=st.sets(st.integers(0, 40), max_size=4),
    keep_last=st.integers(1, 5),
    keep_every=st.none() | st.integers(1, 12),
    remove_unfinished=st.booleans(),
)
def test_what_stays_is_as_promised(tmp_path_factory, steps, broken, keep_last, keep_every, remove_unfinished):
    local = LocalFiles(tmp_path_factory.mktemp("run"))
    broken &= steps
    make(local, *(f"step-{n}" for n in steps - broken))
    make(local, *(f"step-{n}" for n in broken), without=["__0_0.distcp"])

    def run():
        return prune(
            local.root, keep_last=keep_last, keep_every=keep_every, remove_unfinished=remove_unfinished
        )

    report = run()

    there = {int(name.removeprefix("step-")) for name in local.entries()}
    good = steps - broken
    last = set(sorted(good)[-keep_last:])
    every = {n for n in good if keep_every and n % keep_every == 0}
    assert there & good == last | every
    gone = {n for n in broken if good and n < max(good)} if remove_unfinished else set()
    assert there & broken == broken - gone
    assert report.last == tuple(f"step-{n}" for n in sorted(last))
    assert set(report.removed) == {f"step-{n}" for n in steps - there}
    again = run()
    assert (again.removed, again.last) == ((), report.last)
    shutil.rmtree(local.root)


KILLED = """
import os, signal, sys
from ckptlab.storage.local import LocalFiles
from ckptlab.storage.retention import prune
left = int(sys.argv[2])

def dying(real):
    def step(*args):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return real(*args)
    return step

for name in ("remove", "unmake"):
    setattr(LocalFiles, name, dying(getattr(LocalFiles, name)))
prune(sys.argv[1], keep_last=2, keep_every=10)
"""
OPERATIONS = 2 * 4


@pytest.mark.parametrize("before", range(OPERATIONS + 1))
def test_killed_at_any_file_operation_the_last_are_there(local, before):
    make(local, *(f"step-{n}" for n in (1, 2, 10, 11, 12)))
    done = subprocess.run([sys.executable, "-c", KILLED, local.root, str(before)], check=False, timeout=120)
    assert done.returncode == (-9 if before < OPERATIONS else 0)
    assert set(whole(local)) >= {"step-10", "step-11", "step-12"}
    assert set(whole(local)) == set(local.entries()) - {f"step-{1 + before // 4}"} or before % 4 == 0
    # The next one cleans up: at once what is whole, if asked what is not.
    prune(local.root, keep_last=2, keep_every=10)
    assert whole(local) == ["step-10", "step-11", "step-12"]
    prune(local.root, keep_last=2, keep_every=10, remove_unfinished=True)
    assert list(local.entries()) == ["step-10", "step-11", "step-12"]


@pytest.mark.parametrize("before", range(6))
def test_cut_off_from_the_server_the_last_are_there(far, gate, before):
    files = FsspecFiles(far, patience=0.1)
    make(files, "step-1", "step-2", "step-3")
    seen = []

    def gone(method, path, query):
        seen.extend([path] * (method == "DELETE"))
        return "reset" if len(seen) > before else None

    gate.fault = gone
    with pytest.raises(PathError, match="cannot delete it"):
        prune(far, keep_last=1, patience=0.1)
    gate.clear()
    assert "step-3" in whole(files)
    prune(far, keep_last=1, remove_unfinished=True)
    assert list(files.entries()) == ["step-3"]


def test_a_report_is_a_value():
    report = PruneReport("/run", ("b",), ("a",), ("c",), {}, {}, 10, False)
    assert report == PruneReport("/run", ("b",), ("a",), ("c",), {}, {}, 10, False)
    assert repr(report) == "/run: removed 1 (10 B), 2 kept\n  last: b\n  every: a\n  removed: c"
