"""What all ranks are found to hold before a save: keys of some ranks only, and values that disagree."""

import engine_ops as ops
import torch

from ckptlab import open_checkpoint
from ckptlab.engine.agree import announce, offer, settle
from ckptlab.engine.ranks import Team
from ckptlab.engine.state import flatten


def test_keys_that_only_some_ranks_have_are_all_saved(ranks4, tmp_path):
    out = ranks4.run(ops.keys_of_their_own, str(tmp_path))
    assert all(equal for equal, _, _ in out)
    # Four keys of their own, two that pairs share, and rows for three ranks.
    assert sum(chunks for _, chunks, _ in out) == 4 + 2 + 3
    # A key is unexpected only when no rank asks for it.
    assert all(unexpected == () for _, _, unexpected in out)
    metadata = open_checkpoint(tmp_path).metadata
    assert {f"rng.{rank}" for rank in range(4)} | {"stage.0", "stage.1", "all"} == metadata.rows.keys()
    assert metadata.objects.keys() == {f"seed.{rank}" for rank in range(4)}
    assert metadata.layouts.keys() == {"all"}
    for rank in range(4):
        chunk = metadata.chunk_rows(metadata.rows[f"rng.{rank}"]).start
        assert metadata.writers[metadata.chunks.file[chunk]] == rank
        assert metadata.writers[metadata.objects[f"seed.{rank}"].file] == rank


def test_one_key_of_two_shapes_is_refused(ranks4, tmp_path):
    for failure in ranks4.run(ops.apart, str(tmp_path), "shape"):
        assert failure.kind == "LayoutError"
        assert "'w': float32[1, 2] and float32[2, 1]" in failure.message
    assert list(tmp_path.iterdir()) == []


def test_one_key_of_a_tensor_and_of_an_object_is_refused(ranks4, tmp_path):
    for failure in ranks4.run(ops.apart, str(tmp_path), "type"):
        assert failure.problems == ("w",)
        assert "tensors on some ranks, objects on others: w" in failure.message
    assert list(tmp_path.iterdir()) == []


def test_a_pending_sum_is_refused(ranks4, tmp_path):
    for failure in ranks4.run(ops.partial, str(tmp_path)):
        assert failure.kind == "LayoutError"
        assert "'w': placement" in failure.message
        assert "redistribute it first" in failure.message


def test_one_process_agrees_with_itself():
    leaves = flatten({"w": torch.ones(2, 3), "n": {"step": 4}})
    team = Team.of()
    mine = offer(leaves, team)
    found = settle([announce(mine, team)], mine, team)
    assert [h.tensor.fqn for h in found.held] == ["w"]
    assert list(found.objects) == ["n.step"]
    assert found.paths == {"w": ("w",), "n.step": ("n", "step")}
    assert found.layouts == {}
