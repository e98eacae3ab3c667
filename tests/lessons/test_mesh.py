"""Lesson 1: the right answers, wrong ones, and none."""

import re

import pytest

from ckptlab.layout import Layout
from ckptlab.lessons.ask import WAITING
from ckptlab.lessons.mesh import cards, check_quarter, check_share, draw, holders

HSDP = Layout.parse("2x2", "Replicate, Shard(0)")


def test_who_holds_a_row():
    assert holders(Layout.parse("4", "Shard(0)"), (8, 4), 3) == [1]
    assert holders(HSDP, (8, 4), 3) == [0, 2]
    assert "[0:4, 0:4]" in repr(draw(HSDP, (8, 4)))


def test_cards_do_not_say_what_they_are():
    scenes = cards([HSDP, Layout.parse("2x2", "Shard(0), Replicate")], (8, 4))
    assert list(scenes) == ["A", "B"]
    assert scenes["A"].panels[0].notes == ()
    assert scenes["A"].panels[0].marks.colour[-4:].tolist() == [0, 1, 0, 1]
    assert scenes["B"].panels[0].marks.colour[-4:].tolist() == [0, 0, 2, 2]


@pytest.mark.parametrize("placements", ["Shard(0), Replicate, Shard(1)", "Shard(1), R, Shard(0)"])
def test_the_quarter(placements):
    said = check_quarter(Layout.parse("2x2x2", placements))
    assert said.right
    assert "ranks 5 and 7 hold the same" in said.text


@pytest.mark.parametrize(
    ("mesh", "placements", "said"),
    [
        (
            "2x2x2",
            "Replicate, Shard(0), Shard(1)",
            r"rank 5 stands at axis0 1, axis1 0, axis2 1 and holds \[0:4, 3:6\]",
        ),
        ("8", "Shard(0)", r"holds \[5:6, 0:6\], not \[4:8, 3:6\]"),
        ("2x2", "Shard(0), Shard(1)", "has ranks 0 to 3; the puzzle has ranks 0 to 7"),
        ("8", "Shard(2)", "needs a tensor with a dim 2"),
    ],
)
def test_no_quarter(mesh, placements, said):
    answer = check_quarter(Layout.parse(mesh, placements))
    assert answer.right is False
    assert re.search(said, answer.text), answer


def test_the_share():
    assert check_share(Layout.parse("2x2", "Shard(0), Shard(1)"))
    assert check_share(Layout.parse("2x2", "Shard(1), Shard(0)"))
    by_rows = check_share(Layout.parse("4", "Shard(0)"))
    assert by_rows.right is False
    assert "rank 0 holds 12 elements, [0:2, 0:6], while rank 3 holds 0. 9 can" in by_rows.text
    by_columns = check_share(Layout.parse("4", "Shard(1)"))
    assert by_columns.right is False
    assert "rank 0 holds 10" in by_columns.text
    assert "element [0, 0] is on 2" in check_share(HSDP).text
    assert check_share(None) is check_quarter(None) is WAITING
