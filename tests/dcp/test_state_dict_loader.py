"""Loads by torch's names: the same arguments and effects, warnings instead of silence, hooks that work."""

import os
from dataclasses import replace

import pytest
import torch
import torch.distributed.checkpoint as stock
from dcp_ops import Memory, MemoryReader, MemoryWriter, load_in_any_order

import ckptlab.dcp as dcp
from ckptlab import engine
from ckptlab.dcp.state_dict_loader import _load_state_dict_from_keys
from ckptlab.errors import CheckpointError

# Torch warns whenever it works without a process group.
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is ")
STATE = {"w": torch.arange(6.0).reshape(2, 3), "n": {"k": 5, "l": [torch.ones(2), {"m": "text"}]}}


def blank():
    return {"w": torch.zeros(2, 3), "n": {"k": 0, "l": [torch.zeros(2), {"m": ""}]}}


def same(a, b):
    return (
        torch.equal(a["w"], b["w"]) and torch.equal(a["n"]["l"][0], b["n"]["l"][0]) and plain(a) == plain(b)
    )


def plain(state):
    return state["n"]["k"], state["n"]["l"][1]


@pytest.fixture
def saved(tmp_path):
    dcp.save(STATE, checkpoint_id=tmp_path)
    return tmp_path


@pytest.fixture
def engine_used(monkeypatch):
    calls = []
    load = engine.load

    def counted(*args, **kwargs):
        calls.append(kwargs)
        return load(*args, **kwargs)

    monkeypatch.setattr(engine, "load", counted)
    return calls


def test_the_state_is_filled_in_place(saved, engine_used):
    target = blank()
    memory = target["w"].data_ptr()
    assert dcp.load(target, checkpoint_id=str(saved)) is None
    assert same(target, STATE)
    assert target["w"].data_ptr() == memory
    assert len(engine_used) == 1


def test_a_planner_knows_afterwards_what_was_loaded(saved, engine_used):
    ours, theirs = dcp.DefaultLoadPlanner(), stock.DefaultLoadPlanner()
    dcp.load(blank(), checkpoint_id=saved, planner=ours)
    stock.load(blank(), checkpoint_id=saved, planner=theirs)
    assert len(engine_used) == 1
    # Each load has an id of its own.
    known = [replace(planner.metadata, storage_meta=None) for planner in (ours, theirs)]
    assert known[0] == known[1]
    assert ours.metadata.storage_meta.save_id == theirs.metadata.storage_meta.save_id
    assert ours.is_coordinator is theirs.is_coordinator is True


def test_the_older_name_does_the_same(saved, engine_used):
    target = blank()
    dcp.load_state_dict(target, dcp.FileSystemReader(saved), no_dist=True)
    assert same(target, STATE)
    assert len(engine_used) == 1


def test_the_storage_may_come_second(saved):
    target = blank()
    with pytest.warns(UserWarning, match="argument order of load"):
        dcp.load(target, dcp.FileSystemReader(saved))
    assert same(target, STATE)


def test_a_reader_is_led_to_the_path_that_is_given(saved, tmp_path):
    target = blank()
    dcp.load(target, checkpoint_id=saved, storage_reader=dcp.FileSystemReader(tmp_path / "nowhere"))
    assert same(target, STATE)


def test_torchs_own_reader_and_planner_go_through_the_engine(saved, engine_used):
    target = blank()
    dcp.load(target, storage_reader=stock.FileSystemReader(saved), planner=stock.DefaultLoadPlanner())
    assert same(target, STATE)
    assert len(engine_used) == 1


def test_a_stateful_gets_its_state_on_both_ways(saved, engine_used):
    class Holds:
        def __init__(self):
            self.state, self.loaded = blank()["n"], []

        def state_dict(self):
            return self.state

        def load_state_dict(self, state):
            self.loaded.append(state)

    for planner in (None, Doubling()):
        target = {"n": Holds()}
        dcp.load(target, checkpoint_id=saved, planner=planner)
        (loaded,) = target["n"].loaded
        assert (loaded["k"], loaded["l"][1]) == (5, {"m": "text"})
    assert len(engine_used) == 1


def test_ranks_may_hold_their_keys_in_any_order(ranks4, tmp_path):
    for heard, same in ranks4.run(load_in_any_order, str(tmp_path), deadline=60):
        assert heard == {"a": ["a"] * 4, "b": ["b"] * 4}
        assert same


@pytest.mark.parametrize("planner", ["ours", "torch's"])
def test_a_partial_load_leaves_what_is_not_there(tmp_path, planner):
    dcp.save({"a": torch.ones(2)}, checkpoint_id=tmp_path)
    target = {"a": torch.zeros(2), "b": torch.full((2,), 7.0)}
    with pytest.raises(CheckpointError, match=r"missing +b"):
        dcp.load(target, checkpoint_id=tmp_path)
    assert target["a"].tolist() == [0, 0]
    kind = dcp.DefaultLoadPlanner if planner == "ours" else stock.DefaultLoadPlanner
    dcp.load(target, checkpoint_id=tmp_path, planner=kind(allow_partial_load=True))
    assert (target["a"].tolist(), target["b"].tolist()) == ([1, 1], [7, 7])


def test_a_cast_is_done_as_torch_does_it_but_said(tmp_path):
    dcp.save({"a": torch.tensor([1.0, 1 / 3])}, checkpoint_id=tmp_path)
    target = {"a": torch.zeros(2, dtype=torch.bfloat16)}
    with pytest.warns(UserWarning, match="a, now bfloat16: 1 of 2 elements changed"):
        dcp.load(target, checkpoint_id=tmp_path)
    assert target["a"].equal(torch.tensor([1.0, 1 / 3]).bfloat16())


def test_somewhere_must_be_named(tmp_path):
    for kind in (CheckpointError, RuntimeError):
        with pytest.raises(kind, match="`checkpoint_id` must be specified"):
            dcp.load({"a": torch.ones(1)})
        with pytest.raises(kind, match="Cannot detect which storage 'abc://d'"):
            dcp.load({"a": torch.ones(1)}, checkpoint_id="abc://d")


def test_an_object_takes_the_place_of_a_tensor_as_with_torch(tmp_path):
    dcp.save({"step": 5, "w": torch.ones(2)}, checkpoint_id=tmp_path)
    target = {"step": torch.zeros(1), "w": torch.zeros(2)}
    dcp.load(target, checkpoint_id=tmp_path)
    assert (target["step"], target["w"].tolist()) == (5, [1, 1])


def test_a_checkpoint_of_before_2_4_is_read(tmp_path, monkeypatch):
    state = {"w": torch.ones(2), "d": {"a": {"b": 1}, "c": 2}, "l": [0, 1]}
    with monkeypatch.context() as old:
        old.setattr(stock._version, "_derived_version", "2_3")
        stock.save(state, checkpoint_id=tmp_path)
    assert "d" in dcp.FileSystemReader(tmp_path).read_metadata().state_dict_metadata
    target = {"w": torch.zeros(2), "d": {"a": {"b": 0}, "c": 0}, "l": [9, 9]}
    dcp.load(target, checkpoint_id=tmp_path)
    assert target["w"].tolist() == [1, 1]
    assert (target["d"], target["l"]) == (state["d"], state["l"])
    with pytest.raises(CheckpointError, match="missing"):
        dcp.load({"d": {"a": {"b": 0}}, "e": {"a": 1}}, checkpoint_id=tmp_path)


class Doubling(dcp.DefaultLoadPlanner):
    """Loads into a tensor of its own, and doubles it when it is there."""

    def __init__(self, **options):
        super().__init__(**options)
        self.asked, self.bytes = [], []

    def resolve_tensor(self, read_item):
        self.asked.append(read_item.dest_index.fqn)
        self.target = super().resolve_tensor(read_item)
        return torch.empty_like(self.target)

    def commit_tensor(self, read_item, tensor):
        self.target.copy_(tensor * 2)

    def load_bytes(self, read_item, value):
        self.bytes.append(read_item.dest_index.fqn)
        super().load_bytes(read_item, value)


@pytest.mark.parametrize("saver", ["torch", "ckptlab"])
def test_a_planner_that_overrides_what_is_loaded_is_asked(tmp_path, saver, engine_used):
    (stock if saver == "torch" else dcp).save(STATE, checkpoint_id=tmp_path)
    target, planner = blank(), Doubling()
    dcp.load(target, checkpoint_id=tmp_path, planner=planner)
    assert torch.equal(target["w"], STATE["w"] * 2)
    assert plain(target) == plain(STATE)
    assert sorted(planner.asked) == ["n.l.0", "w"]
    assert sorted(planner.bytes) == ["n.k", "n.l.1.m"]
    assert engine_used == []


def test_a_method_put_into_a_class_later_is_called(saved, monkeypatch):
    called = []
    monkeypatch.setattr(dcp.FileSystemReader, "read_data", lambda *_: called.append(1) or 1 / 0)
    with pytest.raises(dcp.CheckpointException, match="ZeroDivisionError"):
        dcp.load(blank(), checkpoint_id=saved)
    assert called


def test_a_reader_of_somebody_elses_is_driven_by_torchs_protocol(engine_used):
    memory = Memory()
    dcp.save(STATE, storage_writer=MemoryWriter(memory))
    target = blank()
    dcp.load(target, storage_reader=MemoryReader(memory))
    assert same(target, STATE)
    assert engine_used == []


def test_a_state_that_is_not_flattened(tmp_path):
    flat = {"a.b": torch.ones(2), "o": {"k": 1}}
    dcp.save(flat, checkpoint_id=tmp_path, planner=dcp.DefaultSavePlanner(flatten_state_dict=False))
    assert dcp.FileSystemReader(tmp_path).read_metadata().planner_data is None
    target = {"a.b": torch.zeros(2), "o": None}
    dcp.load(target, checkpoint_id=tmp_path, planner=dcp.DefaultLoadPlanner(flatten_state_dict=False))
    assert (target["a.b"].tolist(), target["o"]) == ([1, 1], {"k": 1})


class Runs:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


@pytest.mark.parametrize("planner", [None, Doubling], ids=["engine", "protocol"])
def test_objects_are_not_unpickled_blindly(tmp_path, planner):
    stock.save({"o": Runs(tmp_path / "canary")}, checkpoint_id=tmp_path / "saved")
    with pytest.raises(dcp.CheckpointException, match="not made of plain values"):
        dcp.load({"o": None}, checkpoint_id=tmp_path / "saved", planner=planner and planner())
    assert not (tmp_path / "canary").exists()
    stock.load({"o": None}, checkpoint_id=tmp_path / "saved")
    assert (tmp_path / "canary").exists()


def test_all_or_some_keys_without_a_target(saved):
    assert same(_load_state_dict_from_keys(checkpoint_id=saved), STATE)
    assert _load_state_dict_from_keys({"n"}, checkpoint_id=saved).keys() == {"n"}
    assert list(_load_state_dict_from_keys("w", checkpoint_id=saved)) == ["w"]
