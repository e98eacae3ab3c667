"""The planner that applies a transform, in stock torch.distributed.checkpoint.load and in ours."""

import warnings

import dcp_ops
import pytest
import torch
import torch.distributed.checkpoint as stock

import ckptlab.dcp as dcp
from ckptlab import save
from ckptlab.engine import load as engine_load
from ckptlab.plan.transform import Part, Transform

# Torch warns whenever it works without a process group.
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is ")
TURNED = Transform(
    rename=((r"^m\.", ""),),
    parts={"w": Part("m.w", dims=(1, 0), into=((0, 3), (0, 2))), "n.lr": Part("rate")},
    leave=("w", "new"),
)


@pytest.fixture(params=[stock, dcp], ids=["stock", "ours"])
def module(request):
    return request.param


@pytest.fixture
def path(tmp_path):
    save({"m": {"w": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3)}, "step": 5, "rate": 0.5}, tmp_path)
    return tmp_path


def target():
    return {
        "w": torch.full((4, 2), -1.0), "b": torch.zeros(3), "new": torch.zeros(1),
        "step": 0, "n": {"lr": 0.0},
    }  # fmt: skip


def test_tensors_and_objects(module, path):
    state = target()
    module.load(state, checkpoint_id=path, planner=dcp.TransformPlanner(TURNED))
    assert state["w"].tolist() == [[0, 3], [1, 4], [2, 5], [-1, -1]]
    assert state["b"].tolist() == [1, 1, 1]
    assert (state["new"].tolist(), state["step"], state["n"]) == ([0], 5, {"lr": 0.5})


def test_every_mismatch_is_in_one_error_and_nothing_is_loaded(module, path):
    state = {**target(), "x": torch.zeros(1), "b": torch.zeros(4), "step": torch.zeros(1)}
    # Torch's own exception is none of the kind that `pytest.raises(Exception)` takes.
    with pytest.raises(BaseException, match="3 mismatches") as caught:
        module.load(state, checkpoint_id=path, planner=dcp.TransformPlanner(TURNED))
    assert isinstance(caught.value, stock.api.CheckpointException)
    for words in ("missing    x", "shape      b", "type       step"):
        assert words in str(caught.value)
    assert state["w"].unique().tolist() == [-1]
    assert state["n"] == {"lr": 0.0}


def test_keys_may_be_missing_if_that_is_allowed(module, path):
    state = {**target(), "x": torch.zeros(1)}
    planner = dcp.TransformPlanner(TURNED, allow_partial_load=True)
    module.load(state, checkpoint_id=path, planner=planner)
    assert (state["x"].tolist(), state["b"].tolist()) == ([0], [1, 1, 1])


def test_dtypes_are_converted_as_the_transform_allows(module, path):
    state = {**target(), "b": torch.zeros(3, dtype=torch.float16)}
    with pytest.raises(BaseException, match="b: checkpoint float32, target float16"):
        module.load(state, checkpoint_id=path, planner=dcp.TransformPlanner(TURNED))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        planner = dcp.TransformPlanner(TURNED | Transform(dtype="narrow"))
        module.load(state, checkpoint_id=path, planner=planner)
    assert state["b"].tolist() == [1, 1, 1]


def test_the_engine_does_it_unless_the_planner_was_changed(path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "ckptlab.dcp.state_dict_loader.engine.load", lambda *a, **k: asked.append(k) or engine_load(*a, **k)
    )

    class Mine(dcp.TransformPlanner):
        def resolve_tensor(self, read_item):
            asked.append(read_item.storage_index.fqn)
            return super().resolve_tensor(read_item)

    dcp.load(target(), checkpoint_id=path, planner=dcp.TransformPlanner(TURNED))
    assert [(k["transform"], k["dtype"]) for k in asked] == [(TURNED, "exact")]
    asked.clear()
    dcp.load(target(), checkpoint_id=path, planner=Mine(TURNED))
    assert sorted(asked) == ["m.b", "m.w"]


def test_storage_of_somebodys_own_and_of_safetensors(module, tmp_path):
    memory, state = dcp_ops.Memory(), {"m": {"w": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3)}}
    stock.save(state, storage_writer=dcp_ops.MemoryWriter(memory))
    flat = {f"m.{key}": tensor for key, tensor in state["m"].items()}
    stock.save(flat, storage_writer=stock.HuggingFaceStorageWriter(path=str(tmp_path)))
    readers = dcp_ops.MemoryReader(memory), stock.HuggingFaceStorageReader(path=str(tmp_path))
    for reader in readers:
        found = {key: tensor for key, tensor in target().items() if key in {"w", "b"}}
        module.load(found, storage_reader=reader, planner=dcp.TransformPlanner(TURNED))
        assert found["w"].tolist() == [[0, 3], [1, 4], [2, 5], [-1, -1]]
        assert found["b"].tolist() == [1, 1, 1]
