"""What FSDP1 still offers beside DTensors: any ShardedTensor, flat parameters, a whole state on rank 0."""

import pytest
import sharded_ops as ops
from faults import agreed

CROSSWISE = [("ours", "ours"), ("ours", "stock"), ("stock", "ours")]


@pytest.mark.parametrize(("saver", "loader"), CROSSWISE)
def test_sharded_tensors_of_any_cut_to_any(ranks4, tmp_path, saver, loader):
    out = ranks4.run(ops.from_any_cut_to_any, str(tmp_path), saver, loader)
    for target in [*ops.CUTS, "dtensors"]:
        assert [found[target][0] for found in out] == [[]] * 4
        assert sum(found[target][1] for found in out) == (len(ops.CUTS) + 1) * 7 * 5


@pytest.mark.parametrize(("saver", "loader"), CROSSWISE)
def test_a_flat_parameter_and_its_adam_state(ranks4, tmp_path, saver, loader):
    for rank, (keys, differed, equal, after) in enumerate(
        ranks4.run(ops.flat_parameters, str(tmp_path), saver, loader)
    ):
        moments = [f"optim.{rank}.{name}" for name in ("step", "exp_avg", "exp_avg_sq")]
        assert keys == ["model._flat_param", *moments]
        assert differed == [True, False, True, True]
        assert equal == [True] * 4
        assert after == [True]


def test_parts_under_the_names_of_whole_tensors_are_refused(ranks4, tmp_path):
    """Stock keeps one rank's part of each, and says nothing."""
    failure = agreed(ranks4.run(ops.flat_parameters_beside_their_parts, str(tmp_path)))
    assert failure.problems == tuple(f"{i}.{kind}" for i in (0, 2, 4) for kind in ("bias", "weight"))
    assert "0.weight: ranks 0, 1 differ" in failure.message


@pytest.mark.parametrize(("saver", "loader"), CROSSWISE)
def test_a_whole_state_on_the_first_rank_alone(ranks4, tmp_path, saver, loader):
    out = ranks4.run(ops.whole_on_the_first_rank, str(tmp_path), saver, loader)
    assert out == [(6, True, True), *[(0, True, True)] * 3]
