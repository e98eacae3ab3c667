"""Lesson 7: the rows of real ranks, the pictures, and what is said to answers."""

import pytest

from ckptlab import Layout, Mesh, Shard, open_checkpoint
from ckptlab.lessons import strided

FSDP_TP = Layout.parse("dp=2, tp=2", "StridedShard(0, split_factor=2), Shard(0)")
GATHERED = Layout.parse("dp=2, tp=2", "StridedShard(0, split_factor=2), Replicate")
PLAIN = Layout(Mesh((2, 2), ("tp", "dp"), ranks=(0, 2, 1, 3)), (Shard(0), Shard(0)))


def test_ranks_are_held_against_the_geometry():
    held = [strided.Rows(rank, rows, "") for rank, rows in enumerate([(0, 1), (4, 5), (2, 3), (6, 7)])]
    assert strided.agree(FSDP_TP, 8, held)
    assert strided.agree(PLAIN, 8, held)
    said = repr(strided.agree(Layout.parse("dp=2, tp=2", "Shard(0), Shard(0)"), 8, held))
    assert said.startswith(
        "No: rank 1 holds rows 4, 5, and Layout(Mesh(dp=2, tp=2), [Shard(0), Shard(0)]) tells"
    )


def test_stock_takes_two_boxes_for_one_and_refuses(ranks4, tmp_path):
    assert strided.agree(GATHERED, 8, ranks4.run(strided.under, GATHERED, 8))
    said = ranks4.run(strided.saved_by_both, GATHERED, 8, str(tmp_path))[0]
    assert "overlapping chunks" in said.stock
    assert repr(said).splitlines()[1].endswith("rank 0 holds 2 boxes, and each is a chunk")
    saved = open_checkpoint(tmp_path / "ckptlab")
    assert len(saved.metadata.chunks) == 4
    assert saved["weight"][:, 0].tolist() == list(range(8))


def test_the_pictures_show_what_the_ranks_hold():
    b = strided.three_ways(8)["B"].panels[0].marks
    assert b.labels == ("rank 0", "rank 2", "rank 1", "rank 3")
    both = strided.cuts_scene(8, {"a": FSDP_TP, "b": GATHERED}, "both")
    assert [len(panel.marks) for panel in both.panels] == [4, 4]
    assert [key.text for key in both.legend][1:] == ["hatched: one of several copies"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "Not answered yet."),
        (PLAIN, "Right: "),
        (Layout.parse("tp=2, dp=2", "Shard(0), Shard(0)"), "No: of 8 rows, rank 1 gets rows 2, 3 and should"),
        (FSDP_TP, "No: that has a strided shard in it."),
        (Layout.parse("8", "Shard(0)"), "No: Mesh(shard=8) is not of the ranks 0 to 3."),
    ],
)
def test_the_same_without_a_stride(answer, said):
    assert repr(strided.check_plain(answer)).startswith(said)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "Not answered yet."),
        (13, "Right: of 13 rows nothing is left for rank 7"),
        (10, "No: of 10 rows nothing is left for rank 7, true; but there is a larger number."),
        (14, "No: of 14 rows every rank holds some; the least has rank"),
        (0, "No: a weight has at least one row."),
    ],
)
def test_the_largest_number_of_rows_that_leaves_a_rank_without(answer, said):
    assert repr(strided.check_empty(answer)).startswith(said)
