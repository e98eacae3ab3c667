"""Audits of checkpoints that were damaged by real deeds: each is found, and named."""

import dataclasses
import io
import os
import shutil
import signal
import subprocess
import sys
import textwrap

import pytest
import stored_ops as ops
import torch
import torch.distributed.checkpoint as stock
from damage import SAVERS, STATE, alone, flip, place, put, whats
from ranks_fixture import pool

from ckptlab import save
from ckptlab.errors import RankError
from ckptlab.live import LocalRanks
from ckptlab.metadata import Tensor, Tensors
from ckptlab.storage import open_checkpoint
from ckptlab.storage.dcp_write import write_metadata
from ckptlab.storage.remote import FsspecFiles
from ckptlab.storage.sidecar import write_sidecar
from ckptlab.storage.verify import verify

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled", "ignore:Detected an existing")


@pytest.fixture(params=SAVERS)
def path(tmp_path, request):
    alone(request.param, STATE, tmp_path / "step")
    return tmp_path / "step"


# ---------------------------------------------------------------- one file


@pytest.mark.parametrize(("fqn", "what"), [("model.w", "tensor"), ("model.b", "tensor"), ("step", "object")])
def test_a_flipped_byte_is_named_by_key_and_place(path, fqn, what):
    file, start, length = place(path, fqn)
    data = file.read_bytes()[start : start + length]
    at = start + (data.index(b"PK\x07\x08") - 3 if what == "object" else 704 + 5)
    flip(file, at)
    found = verify(path)
    assert whats(found) == [("damage", "crc")]
    [finding] = found.findings
    assert (finding.file, finding.keys) == (file.name, (fqn,))
    assert f"{what} '{fqn}', bytes {start} to {start + length}" in finding.detail
    assert f"then bit 2 of byte {at} of {file.name}: flip it back" in finding.remedy
    assert not found.whole
    assert found.damaged_keys == (fqn,)
    assert "is DAMAGED: 1 finding, 1 key concerned\n" in repr(found)
    flip(file, at)
    assert verify(path).whole


def test_the_box_of_a_flipped_byte_is_named(tmp_path):
    pool(4).run(ops.save_rows, str(tmp_path), "stock", 64)
    flip(tmp_path / "__2_0.distcp", place(tmp_path, "model.a")[2] - 1100)
    [finding] = verify(tmp_path).findings
    assert "chunk Box[32:48, 0:16] of tensor 'model.a'" in finding.detail


@pytest.mark.parametrize("at", [0, 30, -22, -98])
def test_a_flip_in_the_wrapping(path, at):
    file, start, length = place(path, "model.w")
    flip(file, start + at % length)
    found = verify(path)
    assert whats(found) == [("damage", "wrapping")]
    assert found.damaged_keys == ("model.w",)


def test_an_object_that_is_no_archive(tmp_path):
    """Another planner may store objects as bytes of its own."""

    class Raw(stock.DefaultSavePlanner):
        def resolve_data(self, item):
            found = super().resolve_data(item)
            return io.BytesIO(b"raw bytes, " * 300) if isinstance(found, io.BytesIO) else found

    writer = stock.FileSystemWriter(tmp_path)
    stock.save(STATE, storage_writer=writer, planner=Raw(), no_dist=True)
    found = verify(tmp_path)
    assert whats(found) == [("doubt", "wrapping")] * 2
    assert found.whole
    assert {key for f in found.findings for key in f.keys} == {"step", "history"}


def test_a_file_that_was_cut_off(path):
    file, start, length = place(path, "history")
    whole = file.read_bytes()
    put(file, whole[: start + length - 1])
    found = verify(path)
    assert ("damage", "short") in whats(found)
    assert "history" in found.damaged_keys
    assert f"ends at byte {start + length - 1}, and should at {len(whole)}" in found.of("damage")[0].detail


def test_a_file_that_is_not_there(path):
    file, *_ = place(path, "model.w")
    file.unlink()
    found = verify(path)
    assert whats(found) == [("damage", "missing")]
    assert "model.w" in found.damaged_keys
    assert f"{file.name} is not there" in found.findings[0].detail


# ---------------------------------------------------------------- what the metadata says


@pytest.mark.parametrize("at", [0, 200])
def test_metadata_with_a_flipped_byte(path, at):
    """It opens by the file beside it where ckptlab wrote one; stock DCP has only this."""
    data = bytearray((path / ".metadata").read_bytes())
    data[at] ^= 0x80
    put(path / ".metadata", data)
    assert ("damage", "metadata") in whats(verify(path))


def test_the_file_beside_the_metadata(tmp_path):
    alone("ours", STATE, tmp_path)
    [beside] = tmp_path.glob(".ckptlab-*")
    whole = beside.read_bytes()
    flip(beside, len(whole) // 2)
    found = verify(tmp_path)
    assert whats(found) == [("doubt", "metadata")]
    assert found.findings[0].file == beside.name
    recorded = open_checkpoint(tmp_path).metadata
    swapped = dict(zip(recorded.objects, reversed(recorded.objects.values()), strict=True))
    other = dataclasses.replace(recorded, objects=swapped)
    beside.write_bytes(write_sidecar(other, (tmp_path / ".metadata").read_bytes()))
    [finding] = verify(tmp_path).findings
    assert (finding.severity, finding.what) == ("damage", "metadata")
    assert set(finding.keys) == {"step", "history"}


def rewrite(path, change):
    metadata = open_checkpoint(path).metadata
    for beside in path.glob(".ckptlab-*"):
        beside.unlink()
    (path / ".metadata").write_bytes(write_metadata(change(metadata), str(path)))


def test_elements_that_are_in_no_chunk(path):
    def grown(metadata):
        row = metadata.rows["model.b"]
        tensors = list(metadata.tensors)
        tensors[row] = Tensor("model.b", "bfloat16", (9,))
        return dataclasses.replace(metadata, tensors=Tensors.of(tensors))

    rewrite(path, grown)
    [finding] = verify(path).findings
    assert (finding.what, finding.keys) == ("hole", ("model.b",))
    assert "has no chunk for Box[7:9]" in finding.detail


def test_a_dtype_that_is_not_the_stored_one(path):
    def turned(metadata):
        tensors = [t._replace(dtype="int32") if t.fqn == "model.w" else t for t in metadata.tensors]
        return dataclasses.replace(metadata, tensors=Tensors.of(tensors))

    rewrite(path, turned)
    [finding] = verify(path).findings
    assert (finding.what, finding.keys) == ("mixed", ("model.w",))
    assert "holds a float32 tensor of shape [100, 60], but the metadata says int32" in finding.detail


def test_two_chunks_in_one_place(path):
    def moved(metadata):
        chunks = metadata.chunks
        first, second = (int(chunks.first[metadata.rows[k]]) for k in ("model.w", "model.b"))
        file, start = chunks.file.copy(), chunks.start.copy()
        file[second], start[second] = file[first], start[first] + 64
        return dataclasses.replace(metadata, chunks=dataclasses.replace(chunks, file=file, start=start))

    rewrite(path, moved)
    found = verify(path)
    assert ("damage", "bytes") in whats(found)
    assert found.damaged_keys == ("model.w", "model.b")


def test_bytes_that_nothing_refers_to(path):
    file, *_ = place(path, "model.w")
    whole = file.read_bytes()
    put(file, whole + bytes(5000))
    assert verify(path).findings == ()
    put(file, whole + b"something else")
    assert whats(verify(path)) == [("note", "bytes")]


# ---------------------------------------------------------------- saves over saves


def test_stock_saves_by_four_and_then_by_two_ranks(tmp_path):
    pool(4).run(ops.save_rows, str(tmp_path), "stock", 64)
    pool(2).run(ops.save_rows, str(tmp_path), "stock", 48)
    found = verify(tmp_path)
    assert whats(found) == [("note", "stale")]
    assert found.whole
    assert "2 data files of another save by ranks 2, 3" in found.findings[0].detail


def test_ours_over_stock_leaves_nothing(tmp_path):
    pool(4).run(ops.save_rows, str(tmp_path), "stock", 64)
    pool(2).run(ops.save_rows, str(tmp_path), "ours", 48)
    pool(4).run(ops.save_rows, str(tmp_path), "ours", 32)
    assert verify(tmp_path).findings == ()


def killed(path, *, height, after, threads=1):
    """Stock DCP saves over a checkpoint in place, and dies by SIGKILL after so many items."""
    code = f"""
        import os, signal, warnings
        import torch, torch.distributed.checkpoint as dcp
        warnings.simplefilter("ignore")

        class Dies(dcp.DefaultSavePlanner):
            left = {after}

            def resolve_data(self, item):
                self.left -= 1
                if self.left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return super().resolve_data(item)

        state = {{f"w{{i}}": torch.full(({height}, 100), i + 100.0) for i in range(8)}}
        writer = dcp.FileSystemWriter({str(path)!r}, thread_count={threads})
        dcp.save(state, storage_writer=writer, planner=Dies(), no_dist=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


def older(path, threads=1):
    state = {f"w{i}": torch.full((200, 100), float(i)) for i in range(8)}
    stock.save(state, storage_writer=stock.FileSystemWriter(path, thread_count=threads), no_dist=True)
    for file in path.iterdir():
        os.utime(file, (1e9, 1e9))
    assert verify(path).findings == ()


def test_stock_is_killed_while_it_writes_other_shapes_over_a_checkpoint(tmp_path):
    older(tmp_path)
    killed(tmp_path, height=300, after=4)
    found = verify(tmp_path)
    assert set(whats(found)) == {("damage", "mixed"), ("damage", "short"), ("doubt", "time")}
    [mixed] = [f for f in found.findings if f.what == "mixed"]
    assert mixed.file == "__0_0.distcp"
    assert "does not hold what .metadata says" in mixed.detail
    assert "Another save wrote over this file" in mixed.remedy
    assert set(found.damaged_keys) == {f"w{i}" for i in range(8)}


def test_stock_is_killed_when_it_wrote_more_than_was_there(tmp_path):
    older(tmp_path)
    killed(tmp_path, height=300, after=7)
    assert whats(verify(tmp_path)) == [("damage", "mixed"), ("doubt", "time")]


def test_stock_is_killed_while_it_writes_the_same_shapes_over_a_checkpoint(tmp_path):
    """What was written fits the old metadata to the byte: only the end that is missing and the times tell."""
    older(tmp_path)
    killed(tmp_path, height=200, after=5)
    found = verify(tmp_path)
    assert set(whats(found)) == {("damage", "short"), ("doubt", "time")}
    assert "younger than .metadata" in found.of("doubt")[0].detail


def test_one_file_of_two_is_the_killed_saves(tmp_path):
    older(tmp_path, threads=2)
    before = {f.name: f.read_bytes() for f in tmp_path.glob("*.distcp")}
    killed(tmp_path, height=300, after=6)
    found = verify(tmp_path)
    touched = {f.name for f in tmp_path.glob("*.distcp") if f.read_bytes() != before[f.name]}
    assert touched == {"__0_0.distcp"}
    assert {f.file for f in found.of("damage")} == touched
    assert 0 < len(found.damaged_keys) < 8


def test_two_of_four_ranks_are_killed_while_stock_saves_over_a_checkpoint(tmp_path):
    """The other two had written theirs: two files of one generation, two of the other, cut off or old."""
    pool(4).run(ops.save_rows, str(tmp_path), "stock", 64)
    for file in tmp_path.iterdir():
        os.utime(file, (1e9, 1e9))
    with LocalRanks(4) as ranks, pytest.raises(RankError):
        ranks.run(ops.die_saving_rows, str(tmp_path), 128, (2, 3))
    found = verify(tmp_path)
    mixed = {f.file for f in found.of("damage") if f.what == "mixed"}
    assert {"__0_0.distcp", "__1_0.distcp"} <= mixed
    assert {f.file for f in found.of("damage")} == {f"__{rank}_0.distcp" for rank in range(4)}
    assert ("doubt", "time") in whats(found)


def test_a_save_that_died_before_it_published(path):
    shutil.copy(path / ".metadata", path / ".metadata.tmp")
    found = verify(path)
    assert whats(found) == [("doubt", "unfinished")]
    assert found.whole


# ---------------------------------------------------------------- far storage


def test_far_files_are_asked_for_few_times(monkeypatch):
    state = {f"w{i}": torch.full((30,), float(i)) for i in range(300)}
    save(state, "memory://verify/step", no_dist=True)
    asked = []
    fetch = FsspecFiles._fetch
    monkeypatch.setattr(
        FsspecFiles, "_fetch", lambda self, *what: asked.append(what) or fetch(self, *what), raising=True
    )
    found = verify("memory://verify/step")
    assert (found.findings, found.chunks) == ((), 300)
    assert len(asked) < 30
