"""Meshes of three axes, and keys that some ranks only hold, as pipelines and experts have them."""

import crosswise_ops
import over_tp_ops
import parallel_ops as ops
import pytest
import stored_ops
from ranks_fixture import pool

CROSSWISE = [("ours", "ours"), ("ours", "stock"), ("stock", "ours")]
OF_EIGHT = list(crosswise_ops.CUBES)
OF_FOUR = ["hsdp", "tiles", "fsdp_tp"]
ON_EIGHT, ON_FOUR = ["cube", "hsdp_tp", "thrice_turned"], ["columns", "fsdp_tp"]


def right(out, sources, targets):
    for found in out:
        assert list(found) == targets
        for one in found.values():
            assert one.tensors == len(sources) * len(crosswise_ops.SHAPES)
            assert one.different == ()
    assert all(sum(found[target].elements for found in out) for target in targets)


@pytest.mark.parametrize(("saver", "loader"), CROSSWISE)
def test_three_axes_of_eight_ranks_to_each_other_to_four_ranks_and_back(tmp_path, saver, loader):
    there, back = str(tmp_path / "there"), str(tmp_path / "back")
    pool(8).run(stored_ops.save_grid, there, saver, OF_EIGHT)
    pool(4).run(stored_ops.save_grid, back, saver, OF_FOUR)
    right(pool(8).run(crosswise_ops.load_grid, there, loader, OF_EIGHT, ON_EIGHT), OF_EIGHT, ON_EIGHT)
    right(pool(4).run(crosswise_ops.load_grid, there, loader, OF_EIGHT, ON_FOUR), OF_EIGHT, ON_FOUR)
    right(pool(8).run(crosswise_ops.load_grid, back, loader, OF_FOUR, ON_EIGHT), OF_FOUR, ON_EIGHT)


@pytest.mark.parametrize("source", ops.WAYS)
@pytest.mark.parametrize(("saver", "loader"), CROSSWISE)
def test_keys_of_some_ranks_to_any_other_ranks(ranks4, tmp_path, saver, loader, source):
    out = ranks4.run(ops.keys_of_some_ranks, str(tmp_path), saver, loader, source)
    for target in ops.WAYS:
        asked = [keys for keys, _, _ in (found[target] for found in out)]
        assert {key for keys in asked for key in keys} == {f"layer{i}" for i in range(len(ops.SHAPES))}
        assert all(len(keys) < len(ops.SHAPES) for keys in asked) == (target != "all")
        for found in out:
            assert found[target][1:] == ([], [])


@pytest.mark.parametrize("rows", [7, 9, 17])
def test_fsdp2_over_tp_is_saved_where_it_lies_whatever_divides(tmp_path, rows):
    """Torch's own geometry puts some of these rows on other ranks than FSDP2 does, so stock fails."""
    for right, whole in pool(8).run(over_tp_ops.saved_and_loaded, str(tmp_path / "saved"), (4, 2), rows):
        assert right
        assert whole == [[i, i, i] for i in range(rows)]
