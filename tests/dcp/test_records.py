"""The safe way to a `.metadata`: the same records as torch's reader gives, and no code run."""

import pickle
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as stock
from hostile import ATTEMPTS

import ckptlab.dcp as dcp
from ckptlab.dcp.records import read_records
from ckptlab.errors import CorruptError, UnsafeError

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
STATE = {
    "w": torch.arange(6.0).reshape(2, 3),
    "half": torch.ones(2, dtype=torch.bfloat16),
    "scalar": torch.tensor(3),
    "n": {"k": 5, "l": [torch.ones(1), {"m": "text"}]},
}


class Mark:  # noqa: PLW1641
    """What a checkpoint of somebody's own may hold."""

    def __init__(self, at):
        self.at = at

    def __eq__(self, other):
        return self.at == other.at


class MarkedPlanner(stock.DefaultSavePlanner):
    def create_global_plan(self, all_plans):
        plans, metadata = super().create_global_plan(all_plans)
        metadata.planner_data = {"mark": Mark(7), "paths": metadata.planner_data}
        return plans, metadata


@pytest.mark.parametrize("saver", ["torch", "ckptlab"])
def test_the_records_are_those_that_torch_reads(tmp_path, saver):
    (stock if saver == "torch" else dcp).save(STATE, checkpoint_id=tmp_path)
    ours, theirs = (kind(tmp_path).read_metadata() for kind in (dcp.FileSystemReader, stock.FileSystemReader))
    assert ours.storage_meta.load_id != theirs.storage_meta.load_id
    ours.storage_meta.load_id = theirs.storage_meta.load_id
    assert ours == theirs
    assert type(ours) is type(theirs)
    for fqn, entry in theirs.state_dict_metadata.items():
        assert type(ours.state_dict_metadata[fqn]) is type(entry)
    assert type(ours.state_dict_metadata["w"].size) is torch.Size
    assert {type(place) for place in ours.storage_data.values()} == {
        type(place) for place in theirs.storage_data.values()
    }


def test_every_property_of_a_tensor_is_kept():
    properties = stock.metadata.TensorProperties(
        torch.float16, torch.sparse_coo, True, torch.channels_last, True
    )
    entry = stock.TensorStorageMetadata(properties, torch.Size([2]), [])
    saved = stock.Metadata({"w": entry}, version="1.0.0")
    assert read_records(pickle.dumps(saved), "here") == saved


def test_a_path_and_a_nested_planner_data_are_kept():
    meta = stock.metadata.StorageMeta(checkpoint_id=Path("/some/where"), modules=["m"])
    saved = stock.Metadata({}, {"a": [("x", 1), {2, 3}]}, {}, meta)
    assert read_records(pickle.dumps(saved), "here") == saved


@pytest.mark.parametrize("attempt", list(ATTEMPTS))
def test_no_code_of_a_metadata_is_run(tmp_path, attempt):
    canary = tmp_path / "canary"
    dcp.save({"w": torch.ones(2)}, checkpoint_id=tmp_path)
    (tmp_path / ".metadata").write_bytes(ATTEMPTS[attempt](str(canary)))
    with pytest.raises((UnsafeError, CorruptError)):
        dcp.FileSystemReader(tmp_path).read_metadata()
    with pytest.raises(dcp.CheckpointException):
        dcp.load({"w": torch.ones(2)}, storage_reader=dcp.FileSystemReader(tmp_path))
    assert not canary.exists()


def test_a_class_of_ones_own_is_refused_until_it_is_allowed(tmp_path):
    stock.save({"w": torch.ones(2)}, checkpoint_id=tmp_path, planner=MarkedPlanner())
    with pytest.raises(UnsafeError, match="Mark"):
        dcp.FileSystemReader(tmp_path).read_metadata()
    with torch.serialization.safe_globals([Mark]):
        assert dcp.FileSystemReader(tmp_path).read_metadata().planner_data["mark"] == Mark(7)


def test_damage_is_told_as_damage():
    whole = pickle.dumps(stock.Metadata({"w": stock.BytesStorageMetadata()}))
    with pytest.raises(CorruptError, match="here: damaged"):
        read_records(whole[:-9], "here")
    with pytest.raises(CorruptError, match="here: holds a dict"):
        read_records(pickle.dumps({"w": 1}), "here")
    with pytest.raises(CorruptError, match="a value is not what it must be"):
        read_records(whole.replace(b"planner_data", b"planner_dat_"), "here")


def test_what_a_save_returns_is_made_when_it_is_looked_at(tmp_path):
    said = [dcp.save(STATE, checkpoint_id=tmp_path / name) for name in "abcd"]
    shutil.rmtree(tmp_path)
    assert all(isinstance(it, stock.Metadata) for it in said)
    assert "state_dict_metadata" not in vars(said[0])
    assert set(said[0].state_dict_metadata) == {"w", "half", "scalar", "n.k", "n.l.0", "n.l.1.m"}
    assert type(said[0]) is stock.Metadata
    assert said[1] != said[0]
    assert type(said[1]) is stock.Metadata
    assert repr(said[2]).startswith("Metadata(state_dict_metadata={'")
    assert pickle.loads(pickle.dumps(said[3])) == said[3]


def test_it_says_what_torch_reads_from_the_disk(tmp_path):
    said = dcp.save(STATE, checkpoint_id=tmp_path)
    read = stock.FileSystemReader(tmp_path).read_metadata()
    read.storage_meta.load_id = None
    assert said == read
