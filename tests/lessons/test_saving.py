"""Lesson 3: real ranks write as planned; the puzzle's right answer, wrong ones, and none."""

import pytest

from ckptlab.layout import Layout
from ckptlab.lessons.ask import WAITING
from ckptlab.lessons.saving import (
    HSDP,
    MODEL,
    bytes_by_rank,
    check_sharing,
    compare,
    draw,
    draw_sharing,
    in_order,
    plan,
)
from ckptlab.lessons.small import saved
from ckptlab.plan.holding import holdings
from ckptlab.plan.save import plan_save

BEST = {"embed": 0, "head": 0, "gate": 1, "up": 1, "down": 1}


def test_ranks_write_as_planned(ranks4, tmp_path):
    checkpoint = saved(ranks4, HSDP, str(tmp_path / "a"), MODEL)
    assert "of all 8 chunks" in compare(checkpoint).text
    assert sum(bytes_by_rank(checkpoint)) == sum(tensor.nbytes for tensor in MODEL)
    assert bytes_by_rank(checkpoint) == plan_save(holdings(MODEL, HSDP), 4).bytes_by_rank.tolist()
    assert in_order(checkpoint)[-1] == ".metadata"
    assert len(in_order(checkpoint)) == 5
    other = Layout.parse("2x2", "Shard(0), Replicate")
    said = compare(saved(ranks4, other, str(tmp_path / "b"), MODEL))
    assert said.right is False
    assert "the plan says" in said.text


def test_the_best_sharing():
    said = check_sharing(BEST)
    assert said.right
    assert "all ranks write 2,400 bytes; the default's busiest writes 2,800" in said.text


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            BEST | {"up": 0},
            "rank 0 writes 3,200 bytes (its halves of embed, head, up). That is no less than the 2,800",
        ),
        ({"embed": 0, "head": 1, "gate": 0, "up": 1, "down": 0}, "rank 0 writes 2,800"),
        ({"embed": 0, "head": 0}, "nobody writes gate, up, down"),
        (BEST | {"tail": 1}, "there is no tensor 'tail'"),
        (BEST | {"up": 2}, "up: there is no copy 2"),
    ],
)
def test_others(answer, said):
    verdict = check_sharing(answer)
    assert verdict.right is False
    assert said in verdict.text
    assert "Your sharing-out" in repr(draw_sharing(answer))


def test_pictures():
    assert "embed.weight" in repr(draw())
    assert repr(plan()).startswith("1. proposed: ")


def test_none():
    assert check_sharing(None) is WAITING
    assert "2,800 bytes: embed[0:30, 0:10], gate[0:20, 0:10], down[0:20, 0:10]" in repr(draw_sharing(None))
