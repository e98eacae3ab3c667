"""Torch's storage with each of its options, on one rank and on four; what fails is not passed over."""

import io
import os
from pathlib import Path

import dcp_ops as ops
import pytest
import torch
import torch.distributed.checkpoint as stock
from torch.distributed.checkpoint._extension import ExtensionRegistry, StreamTransformExtension
from torch.distributed.checkpoint.planner import SavePlanner

import ckptlab.dcp as dcp
from ckptlab.dcp.filesystem import SerializationFormat
from ckptlab.errors import CheckpointError

# Torch warns whenever it works without a process group, and when it saves over an older checkpoint.
pytestmark = [
    pytest.mark.filterwarnings("ignore:torch.distributed is "),
    pytest.mark.filterwarnings("ignore:Detected an existing checkpoint"),
]
STATE = {"w": torch.arange(6.0).reshape(2, 3), "v": torch.ones(300), "n": {"k": 5}}


def loaded(reader):
    target = {"w": torch.zeros(2, 3), "v": torch.zeros(300), "n": {"k": 0}}
    dcp.load(target, storage_reader=reader)
    return all(torch.equal(target[k], STATE[k]) for k in "wv") and target["n"] == STATE["n"]


def data_files(path):
    return sorted(it.name for it in Path(path).iterdir() if it.suffix == ".distcp")


def test_they_are_torchs_own_classes_and_carry_their_options(tmp_path):
    writer = dcp.FileSystemWriter(tmp_path, sync_files=False, per_thread_copy_ahead=7)
    assert isinstance(writer, stock.FileSystemWriter)
    assert (writer.path, writer.sync_files, writer.per_thread_copy_ahead) == (tmp_path, False, 7)
    assert isinstance(dcp.FileSystemReader(tmp_path), stock.FileSystemReader)


@pytest.mark.parametrize("single_file_per_rank", [True, False])
def test_one_file_a_rank_or_one_an_item(tmp_path, single_file_per_rank):
    writer = dcp.FileSystemWriter(tmp_path, single_file_per_rank=single_file_per_rank)
    dcp.save(STATE, storage_writer=writer)
    assert loaded(dcp.FileSystemReader(tmp_path))
    assert single_file_per_rank or len(data_files(tmp_path)) == 3


@pytest.mark.parametrize("single_file_per_rank", [True, False])
def test_several_writer_threads(tmp_path, single_file_per_rank):
    state = {f"w{i}": torch.full((300_000,), float(i)) for i in range(6)}
    writer = dcp.FileSystemWriter(tmp_path, thread_count=3, single_file_per_rank=single_file_per_rank)
    dcp.save(state, storage_writer=writer)
    assert len(data_files(tmp_path)) == (3 if single_file_per_rank else 6)
    target = {key: torch.zeros_like(value) for key, value in state.items()}
    dcp.load(target, checkpoint_id=tmp_path)
    assert all(torch.equal(target[key], value) for key, value in state.items())


@pytest.mark.parametrize("single_file_per_rank", [True, False])
@pytest.mark.parametrize("sync_files", [True, False])
def test_waiting_for_the_disk(tmp_path, sync_files, single_file_per_rank, monkeypatch):
    synced = []
    for name in ("fsync", "fdatasync"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda fd, real=real: (synced.append(os.fstat(fd).st_size), real(fd)))
    writer = dcp.FileSystemWriter(tmp_path, sync_files=sync_files, single_file_per_rank=single_file_per_rank)
    dcp.save(STATE, storage_writer=writer)
    sizes = {(tmp_path / name).stat().st_size for name in data_files(tmp_path)}
    assert (sizes <= set(synced)) is sync_files


@pytest.mark.parametrize("single_file_per_rank", [True, False])
def test_an_older_checkpoint_may_be_protected(tmp_path, single_file_per_rank):
    dcp.save(STATE, checkpoint_id=tmp_path)
    before = (tmp_path / ".metadata").read_bytes()
    protects = dcp.FileSystemWriter(tmp_path, overwrite=False, single_file_per_rank=single_file_per_rank)
    with pytest.raises(dcp.CheckpointException, match="Checkpoint already exists and"):
        dcp.save(STATE, storage_writer=protects)
    assert (tmp_path / ".metadata").read_bytes() == before
    dcp.save(STATE, storage_writer=dcp.FileSystemWriter(tmp_path))
    assert (tmp_path / ".metadata").read_bytes() != before
    assert loaded(dcp.FileSystemReader(tmp_path))


class Flipped(StreamTransformExtension):
    """Every byte the other way round."""

    @staticmethod
    def from_descriptor(version):
        return Flipped()

    @staticmethod
    def registry_name():
        return "flipped"

    def get_descriptor(self):
        return "flipped/1"

    def transform_to(self, output):
        class Writer(io.RawIOBase):
            def write(self, data):
                return output.write(bytes(255 - b for b in bytes(data)))

            def flush(self):
                output.flush()

        return Writer()

    def transform_from(self, source):
        return io.BytesIO(bytes(255 - b for b in source.read()))


def test_a_transform_of_the_stream(tmp_path):
    dcp.save(STATE, storage_writer=dcp.FileSystemWriter(tmp_path, _extensions=[Flipped()]))
    assert b"PK" not in (tmp_path / data_files(tmp_path)[0]).read_bytes()[:4]
    registry = ExtensionRegistry()
    registry.extensions[Flipped.registry_name()] = Flipped
    assert loaded(dcp.FileSystemReader(tmp_path, _extension_registry=registry))
    with pytest.raises(CheckpointError, match="flipped"):
        loaded(dcp.FileSystemReader(tmp_path))


def test_files_of_safetensors(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    writer = dcp.FileSystemWriter(tmp_path, serialization_format=SerializationFormat.SAFETENSORS)
    dcp.save({"w": STATE["w"]}, storage_writer=writer)
    (name,) = data_files(tmp_path)
    assert torch.equal(safetensors.load_file(tmp_path / name)["w"], STATE["w"])


def test_a_thread_that_fails_fails_the_save(tmp_path, monkeypatch):
    planner = FailsOnce()
    monkeypatch.setattr("threading.excepthook", lambda _: None)
    writer = dcp.FileSystemWriter(tmp_path / "ours", thread_count=2)
    with pytest.raises(dcp.CheckpointException, match="of 3 items were not written"):
        dcp.save(STATE, storage_writer=writer, planner=planner)
    assert not (tmp_path / "ours" / ".metadata").exists()
    # Torch itself says that all went well.
    planner = FailsOnce()
    stock.save(
        STATE, storage_writer=stock.FileSystemWriter(tmp_path / "torch", thread_count=2), planner=planner
    )
    assert (tmp_path / "torch" / ".metadata").exists()


class FailsOnce(dcp.DefaultSavePlanner):
    """Fails in a thread that is not the caller's."""

    def resolve_data(self, write_item):
        import threading
        import time

        if threading.current_thread() is threading.main_thread():
            time.sleep(0.5)
        else:
            raise OSError("the thread broke")
        return super().resolve_data(write_item)


@pytest.mark.parametrize(
    ("save", "load"),
    [
        ({}, {}),
        ({"writer": {"thread_count": 2, "single_file_per_rank": False}}, {}),
        ({"planner": {"flatten_sharded_tensors": False}}, {"planner": {"flatten_sharded_tensors": False}}),
        ({"planner": {"dedup_replicated_tensors": True}}, {}),
        ({"use_collectives": False}, {}),
        ({"coordinator_rank": 2}, {"coordinator_rank": 1}),
        ({"planner": {"enable_plan_caching": True}}, {}),
    ],
    ids=str,
)
def test_every_option_on_four_ranks(ranks4, tmp_path, save, load):
    for found in ranks4.run(ops.there_and_back, str(tmp_path), save, load):
        assert found["equal"]
        assert found["plain"]


def test_copies_are_written_by_the_lowest_rank_if_so_told(ranks4, tmp_path):
    told = {"planner": {"dedup_save_to_lowest_rank": True}}
    found = ranks4.run(ops.there_and_back, str(tmp_path), told, {})[0]
    assert found["places"]["r"] == "__0_0.distcp"
    assert found["equal"]


def test_plans_are_kept_if_so_told(tmp_path):
    kept = SavePlanner._cached_save_plan
    kept.clear()
    dcp.save(STATE, checkpoint_id=tmp_path, planner=dcp.DefaultSavePlanner(enable_plan_caching=True))
    assert list(kept) == ["DefaultSavePlanner"]
    dcp.save(STATE, checkpoint_id=tmp_path, planner=dcp.DefaultSavePlanner(enable_plan_caching=True))
    assert loaded(dcp.FileSystemReader(tmp_path))
    for cache in vars(SavePlanner).values():
        if isinstance(cache, dict):
            cache.clear()
