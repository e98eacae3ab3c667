"""Saves by torch's names, at once and while training goes on: through the engine, or as torch does it."""

import subprocess
import sys
import time
from concurrent.futures import Future

import pytest
import torch
import torch.distributed.checkpoint as stock
from dcp_ops import Memory, MemoryReader, MemoryWriter
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

import ckptlab.dcp as dcp
from ckptlab import engine
from ckptlab.dcp.state_dict_saver import AsyncSaveResponse
from ckptlab.errors import CheckpointError

# Torch warns whenever it works without a process group, and when it saves over an older checkpoint.
pytestmark = [
    pytest.mark.filterwarnings("ignore:torch.distributed is "),
    pytest.mark.filterwarnings("ignore:Detected an existing checkpoint"),
]


def state():
    return {"w": torch.arange(6.0).reshape(2, 3), "n": {"k": 5}}


def loaded(path=None, **kwargs):
    target = {"w": torch.zeros(2, 3), "n": {"k": 0}}
    dcp.load(target, checkpoint_id=path, **kwargs)
    return torch.equal(target["w"], state()["w"]) and target["n"] == {"k": 5}


@pytest.fixture
def engine_used(monkeypatch):
    calls = []
    for name in ("save", "async_save"):
        real = getattr(engine, name)

        def counted(*args, name=name, real=real, **kwargs):
            calls.append(name)
            return real(*args, **kwargs)

        monkeypatch.setattr(engine, name, counted)
    return calls


def test_old_and_new_names_do_the_same(tmp_path, engine_used):
    said = dcp.save_state_dict(state(), dcp.FileSystemWriter(tmp_path / "a"), no_dist=True)
    assert said.state_dict_metadata["w"].size == torch.Size([2, 3])
    dcp.save(state(), checkpoint_id=tmp_path / "b")
    dcp.save(state(), storage_writer=stock.FileSystemWriter(tmp_path / "c"))
    dcp.save(state(), checkpoint_id=tmp_path / "d", storage_writer=dcp.FileSystemWriter(tmp_path / "x"))
    with pytest.warns(UserWarning, match="argument order of save"):
        dcp.save(state(), dcp.FileSystemWriter(tmp_path / "e"))
    assert all(loaded(tmp_path / name) for name in "abcde")
    assert engine_used == ["save"] * 5


def test_the_writer_knows_the_id_of_its_save(tmp_path):
    writer = dcp.FileSystemWriter(tmp_path)
    dcp.save(state(), storage_writer=writer)
    assert dcp.FileSystemReader(tmp_path).read_metadata().storage_meta.save_id == writer.save_id


def test_somewhere_must_be_named():
    for kind in (CheckpointError, RuntimeError):
        with pytest.raises(kind, match="give checkpoint_id"):
            dcp.save(state())
        with pytest.raises(kind, match="give checkpoint_id"):
            dcp.async_save(state())


class Halving(dcp.DefaultSavePlanner):
    """Saves another tensor than is in the state, and other objects."""

    def lookup_object(self, index):
        found = super().lookup_object(index)
        return found * 2 if index.fqn == "w" else found

    def transform_object(self, write_item, object):
        if write_item.index.fqn == "w":
            object = object / 4
        elif write_item.index.fqn == "n.k":
            object = object + 1
        return super().transform_object(write_item, object)


def test_a_planner_that_overrides_what_is_saved_is_asked(tmp_path, engine_used):
    dcp.save(state(), checkpoint_id=tmp_path, planner=Halving())
    target = {"w": torch.zeros(2, 3), "n": {"k": 0}}
    dcp.load(target, checkpoint_id=tmp_path)
    assert torch.equal(target["w"], state()["w"] / 2)
    assert target["n"] == {"k": 6}
    assert engine_used == []


def test_a_writer_of_somebody_elses_is_driven_by_torchs_protocol(engine_used):
    memory = Memory()
    said = dcp.save(state(), storage_writer=MemoryWriter(memory))
    assert set(said.state_dict_metadata) == {"w", "n.k"}
    assert len(memory) == 2
    assert loaded(storage_reader=MemoryReader(memory))
    assert engine_used == []


class Failing(MemoryWriter):
    def write_data(self, plan, planner):
        raise OSError("no room")


def test_the_state_may_change_as_soon_as_the_call_returns(tmp_path, engine_used):
    training = state()
    future = dcp.async_save(training, checkpoint_id=tmp_path)
    training["w"].zero_()
    assert isinstance(future, Future)
    assert set(future.result().state_dict_metadata) == {"w", "n.k"}
    assert loaded(tmp_path)
    assert engine_used == ["async_save"]


@pytest.mark.parametrize("cached", [True, False])
def test_a_writer_may_stage_as_in_torch(tmp_path, cached, engine_used):
    writer = dcp.FileSystemWriter(tmp_path, cache_staged_state_dict=cached, thread_count=2)
    for _ in range(2):
        training = state()
        future = dcp.async_save(training, storage_writer=writer)
        training["w"].zero_()
        future.result()
        assert loaded(tmp_path)
    assert dcp.FileSystemReader(tmp_path).read_metadata().storage_meta.save_id == writer.save_id
    assert engine_used == ["async_save"] * 2


@pytest.mark.parametrize("way", ["engine", "protocol"])
def test_the_future_carries_the_error(tmp_path, way):
    dcp.save(state(), checkpoint_id=tmp_path)
    if way == "engine":
        writer, words = dcp.FileSystemWriter(tmp_path, overwrite=False), "Checkpoint already exists"
    else:
        writer, words = Failing(Memory()), "no room"
    future = dcp.async_save(state(), storage_writer=writer)
    with pytest.raises(dcp.CheckpointException, match=words):
        future.result()
    assert isinstance(future.exception(), CheckpointError)
    assert future.done()


def test_a_failure_that_nobody_asked_for_is_said(tmp_path):
    dcp.save(state(), checkpoint_id=tmp_path)
    future = dcp.async_save(state(), storage_writer=dcp.FileSystemWriter(tmp_path, overwrite=False))
    until = time.monotonic() + 60
    while not future.done() and time.monotonic() < until:
        time.sleep(0.01)
    with pytest.warns(RuntimeWarning, match="nobody asked for its result"):
        dcp.async_save(state(), checkpoint_id=tmp_path).result()


def test_a_stager_of_ones_own_is_used(tmp_path, engine_used):
    stager = DefaultStager(StagingOptions(False, False, True, False))
    training = state()
    response = dcp.async_save(training, checkpoint_id=tmp_path, async_stager=stager)
    assert isinstance(response, AsyncSaveResponse)
    response.staging_completion.result()
    training["w"].zero_()
    response.upload_completion.result()
    stager.close()
    assert loaded(tmp_path)
    assert engine_used == []


PROCESS = """
import sys, warnings
import torch, torch.distributed as dist
import ckptlab.dcp as dcp
from ckptlab.dcp.state_dict_saver import AsyncCheckpointerType

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}/store", rank=0, world_size=1)
    state = {"w": torch.arange(6.0).reshape(2, 3), "n": {"k": 5}}
    future = dcp.async_save(
        state,
        checkpoint_id=f"{sys.argv[1]}/saved",
        async_checkpointer_type=AsyncCheckpointerType.PROCESS,
    )
    state["w"].zero_()
    future.result()
    dist.destroy_process_group()
"""


@pytest.mark.timeout(300)
def test_another_process_can_do_it(tmp_path):
    (tmp_path / "program.py").write_text(PROCESS)
    subprocess.run([sys.executable, str(tmp_path / "program.py"), str(tmp_path)], check=True)
    assert loaded(tmp_path / "saved")


def test_each_rank_by_itself(tmp_path, engine_used):
    dcp.save(state(), checkpoint_id=tmp_path, use_collectives=False)
    assert sorted(it.name for it in tmp_path.iterdir()) == ["__0.metadata", "__0_0.distcp"]
    assert loaded(tmp_path)
    assert engine_used == []
