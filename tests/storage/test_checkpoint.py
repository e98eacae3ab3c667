import os
import subprocess
import sys

import pytest
import torch
import torch.distributed.checkpoint as stock

from ckptlab.errors import CorruptError, PathError, UnsafeError
from ckptlab.layout import Layout
from ckptlab.storage.checkpoint import FileProblem, open_checkpoint
from ckptlab.storage.sidecar import layout_file, write_layouts

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "step_1"
    state = {"model": {"w": torch.randn(64, 32), "b": torch.zeros(32, dtype=torch.bfloat16)}, "step": 7}
    stock.save(state, checkpoint_id=path, no_dist=True)
    return path


def test_what_is_in_it(saved):
    checkpoint = open_checkpoint(saved)
    assert checkpoint.path == str(saved)
    assert checkpoint.format == "dcp"
    assert [t.fqn for t in checkpoint.metadata.tensors] == ["model.w", "model.b"]
    assert checkpoint.check_files() == []
    assert checkpoint.missing_files() == []
    lines = repr(checkpoint).splitlines()
    assert lines[0] == f"Checkpoint {saved} (dcp)"
    assert lines[1] == "  2 tensors, 2,080 elements, 8.06 KiB, 1 object"
    assert lines[2] == "  2 chunks in 1 file, written by rank 0"
    assert lines[3] == "  no layouts recorded"
    assert lines[4] == f"  save_id {checkpoint.metadata.save_id}"
    assert lines[5] == "  keys model.w, model.b, step"
    assert len(lines) == 6


def test_recorded_layouts(saved):
    from dataclasses import replace

    layout = Layout.parse("replicate=2,shard=2", "Replicate, Shard(0)")
    plain = open_checkpoint(saved).metadata
    beside = saved / layout_file(plain.save_id)
    beside.write_bytes(write_layouts(replace(plain, layouts={"model.w": layout})))
    checkpoint = open_checkpoint(saved)
    assert checkpoint.metadata.layouts == {"model.w": layout}
    assert f"  {layout!r} for 1 tensor\n" in repr(checkpoint)
    beside.write_bytes(b"damaged")
    assert open_checkpoint(saved).metadata.layouts == {}


def test_opening_reads_no_data(saved):
    for name in os.listdir(saved):
        if name.endswith(".distcp"):
            (saved / name).unlink()
    checkpoint = open_checkpoint(saved)
    assert checkpoint.missing_files() == ["__0_0.distcp"]
    (problem,) = checkpoint.check_files()
    assert problem.size is None
    assert str(problem).startswith("__0_0.distcp is missing; it should hold ")
    repr(checkpoint)


def test_a_file_that_was_cut_short(saved):
    file = saved / "__0_0.distcp"
    whole = file.stat().st_size
    os.truncate(file, whole - 1)
    checkpoint = open_checkpoint(saved)
    assert checkpoint.check_files() == [FileProblem("__0_0.distcp", whole, whole - 1)]
    assert str(checkpoint.check_files()[0]) == (
        f"__0_0.distcp ends at byte {whole - 1}; what it should hold ends at byte {whole}"
    )
    assert checkpoint.missing_files() == []


def test_no_such_path(tmp_path):
    with pytest.raises(
        PathError, match=rf"does not exist; the nearest directory that does is {tmp_path}$"
    ) as caught:
        open_checkpoint(tmp_path / "a" / "b")
    assert caught.value.problems == (str(tmp_path / "a" / "b"),)


def test_one_file_of_it(saved):
    for name in (".metadata", "__0_0.distcp"):
        with pytest.raises(PathError, match=f"open its directory, {saved}"):
            open_checkpoint(saved / name)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "is empty"),
        (
            ["__0_0.distcp", "__1_0.distcp"],
            r"holds 2 \.distcp files but no \.metadata: the save did not finish",
        ),
        (["config.json", "model.safetensors"], "holds model.safetensors: not supported yet"),
        (["a.txt"], r"holds no checkpoint; it has a\.txt$"),
        (["a", "b", "c", "d"], r"it has a, b, c, \.\.\.$"),
        (["s1/.metadata"], "holds some; open one of s1$"),
        ([f"s{i}/.metadata" for i in range(5)], "holds some; open one of s0, s1, s2 and 2 more$"),
        (["logs/x"], "it has logs/$"),
    ],
)
def test_what_a_directory_holds_instead(tmp_path, names, message):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(PathError, match=message):
        open_checkpoint(tmp_path)


def test_a_file_of_another_format(tmp_path):
    for name, message in [("m.safetensors", "not supported yet"), ("x.txt", "a checkpoint is a directory")]:
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(PathError, match=message):
            open_checkpoint(tmp_path / name)


def test_damaged_and_hostile_metadata_name_the_file(saved):
    (saved / ".metadata").write_bytes(b"\x80\x04\x95")
    with pytest.raises(CorruptError, match=f"{saved}/.metadata: damaged"):
        open_checkpoint(saved)
    (saved / ".metadata").write_bytes(b"cos\nsystem\n.")
    with pytest.raises(UnsafeError, match=rf"{saved}/.metadata: asks for os\.system"):
        open_checkpoint(saved)


def test_without_torch(saved):
    code = (
        "import sys; from ckptlab.storage.checkpoint import open_checkpoint; "
        f"c = open_checkpoint({str(saved)!r}); repr(c); c.check_files(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=os.getcwd()).returncode == 0
