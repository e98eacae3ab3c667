"""Optimizer state of real models: groups of parameters, frozen and idle ones, lazily made state."""

import optimizer_ops as ops
import pytest
from faults import agreed

CROSSWISE = [("ours", "ours"), ("ours", "stock"), ("stock", "ours")]
PER_PARAMETER = {"adamw": 3, "amsgrad": 4, "sgd": 1}


@pytest.mark.parametrize(
    ("source", "target", "kind", "flat"),
    [("fsdp", "fsdp", "adamw", False), ("hsdp", "fsdp", "amsgrad", False), ("fsdp", "hsdp", "sgd", True)],
)
@pytest.mark.parametrize(("saver", "loader"), CROSSWISE)
def test_groups_of_parameters(ranks4, tmp_path, saver, loader, source, target, kind, flat):
    for came in ranks4.run(
        ops.groups_of_parameters, str(tmp_path), saver, loader, source, target, kind, flat
    ):
        of_optimizer = [key for key in came.tensors if key.startswith("optim.")]
        # Weight and bias of body and head; what is frozen or idle has no state.
        assert len(of_optimizer) == 2 * 2 * PER_PARAMETER[kind]
        assert len(came.tensors) - len(of_optimizer) == 4 * 2
        assert came.same_before == ()
        assert came.wrong == ()
        assert not came.groups_before
        assert came.groups
        assert came.same_step or source != target


@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "after a step"])
@pytest.mark.parametrize(("saver", "loader"), CROSSWISE)
def test_state_that_differs_between_ranks(ranks4, tmp_path, saver, loader, fresh):
    out = ranks4.run(ops.lazy_state, str(tmp_path), saver, loader, fresh)
    for rank, came in enumerate(out):
        experts = {key.split(".")[3] for key in came.tensors if key.startswith("optim.state.experts.")}
        assert experts == {f"{rank}_{i}" for i in range(rank % 3)}
        assert came.wrong == ()
        assert came.groups
        assert came.same_step


def test_groups_that_differ_between_ranks_are_refused_with_the_way_out(ranks4, tmp_path):
    """Stock keeps one rank's list of parameters, and says nothing."""
    failure = agreed(ranks4.run(ops.groups_that_differ, str(tmp_path)))
    assert failure.problems == ("optim.param_groups.0.params",)
    assert "flatten_optimizer_state_dict=True" in failure.message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("saver", ["ours", "stock"])
def test_a_model_without_memory_is_filled_under_its_own_sharding(ranks4, tmp_path, saver):
    assert ranks4.run(ops.model_without_memory, str(tmp_path), saver) == [(True, [], True, 8, True)] * 4
