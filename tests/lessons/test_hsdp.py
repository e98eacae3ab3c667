"""Lesson 5: what real ranks bring back, what is refused, and which hosts may die."""

import pytest

from ckptlab.errors import CheckpointError
from ckptlab.layout import Layout
from ckptlab.lessons.ask import WAITING, Verdict
from ckptlab.lessons.hsdp import HSDP, adam_run, check_hosts, diverged, draw, gathered, model_runs, rows_scene


def test_the_model_comes_back(ranks4, tmp_path):
    said = model_runs(ranks4, str(tmp_path / "saved"))
    assert said.right
    assert "6 tensors on 4 ranks into HSDP and 6 tensors on 4 ranks into FSDP" in said.text


def test_the_trap_of_the_optimizer(ranks4, tmp_path):
    stock, ours = (adam_run(ranks4, str(tmp_path / "saved"), by) for by in ("stock DCP", "ckptlab"))
    assert (stock.model, stock.adam) == ((6, 6), (0, 12)), (
        "does stock DCP bring it back now? Say so in the lesson"
    )
    assert (ours.model, ours.adam) == ((6, 6), (12, 12))
    assert "rank 3 has rows [6, 7, -1, -1], should have [4, 5, 6, 7]" in repr(stock.view)
    assert "2 of 16 rows are where they should be" in repr(stock.view)
    assert "16 of 16 rows are where they should be" in repr(ours.view)
    assert stock.verdict.right is False
    assert ours.verdict
    assert "Adam: 0 of 12 right" in stock._repr_mimebundle_()["text/plain"]


def test_replicas_that_went_apart(ranks4, tmp_path):
    stock = diverged(ranks4, str(tmp_path / "stock"), "stock DCP")
    assert isinstance(stock, Verdict)
    assert stock.text == "stock DCP saved without a word. The first row in the file: -1, -1, -1, -1 ..."
    ours = diverged(ranks4, str(tmp_path / "ours"), "ckptlab")
    assert isinstance(ours.error, CheckpointError)
    assert "rank 2 is not the same as rank 0 is, 24 elements differ" in repr(ours)
    assert "24 elements differ" in ours._repr_html_()


def test_what_is_gathered_from_other_hosts():
    assert gathered(Layout.parse("replicate=2, shard=4", "Replicate, Shard(0)"), 0, 4) == []
    assert gathered(Layout.parse("shard=4, replicate=2", "Shard(0), Replicate"), 0, 4) == [4, 6]
    assert "host" in repr(draw(HSDP, 2))


def test_marks_of_rows():
    left, right = rows_scene("stock DCP", [[0, 1, -1, -1], [2, 3, -2, -1], [4, 5, 2, 3], [4, 5, 6, 7]]).panels
    assert set(left.marks.style.tolist()) == {0}
    assert right.marks.style.tolist() == [0, 0, 1, 1, 2, 2, 1, 1, 2, 2, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("mesh", "placements"),
    [("replicate=2, shard=8", "Replicate, Shard(0)"), ("2x2x4", "Shard(0), Replicate, Shard(0)")],
)
def test_the_hosts(mesh, placements):
    said = check_hosts(Layout.parse(mesh, placements))
    assert said.right
    assert "each rank gathers 4 of 8 shards from other hosts" in said.text


@pytest.mark.parametrize(
    ("mesh", "placements", "said"),
    [
        ("shard=8, replicate=2", "Shard(0), Replicate",
         "ranks 0 and 1 hold [0:8, 0:8] and nobody else does: if host 0 dies, it is gone"),
        ("replicate=4, shard=4", "Replicate, Shard(0)", "rank 0 has no room: it holds as much as 16 rows"),
        ("16", "Shard(0)", "there is but one copy"),
        ("2x4", "Replicate, Shard(0)", "has 8 ranks; there are 16"),
        ("2x8", "Replicate, Shard(2)", "needs a tensor with a dim 2"),
    ],
)  # fmt: skip
def test_other_orders(mesh, placements, said):
    verdict = check_hosts(Layout.parse(mesh, placements))
    assert verdict.right is False
    assert said in verdict.text
    assert check_hosts(None) is WAITING
