"""Lesson 9: a large model on paper, and what is said to a layout."""

import pytest

from ckptlab import Layout
from ckptlab.lessons import paper
from ckptlab.plan.holding import holdings
from ckptlab.plan.save import plan_save


@pytest.fixture(scope="module")
def tensors():
    return paper.llama405b()


def test_the_model_has_405_billion_parameters(tensors):
    weights = [tensor for tensor in tensors if tensor.fqn.startswith("model.")]
    assert round(sum(tensor.nbytes for tensor in weights) / 2e9) == 406
    assert len({tensor.fqn for tensor in tensors}) == len(tensors) == 3 * len(weights)


@pytest.mark.parametrize("layout", [("64", "Shard(0)"), ("replicate=4, shard=16", "Replicate, Shard(1)")])
def test_what_is_weighed_is_what_would_be_planned(tensors, layout):
    chosen = Layout.parse(*layout)
    found = paper.weigh(tensors, chosen)
    assert found.chunks == len(paper.plan(tensors, chosen).metadata.chunks)
    foretold = paper.load(paper.plan(tensors, chosen).metadata, chosen).forecast
    assert found.fullest == foretold.memory.max() == foretold.memory[found.rank]
    some = holdings(tensors[:20], chosen)
    assert paper.weigh(tensors[:20], chosen).chunks == sum(
        group.writer.size for group in plan_save(some, chosen.mesh.size).writes
    )


def test_copies_add_no_chunks_and_stock_reads_whole_ones(tensors):
    few = paper.plan(tensors, Layout.parse("16", "Shard(0)"))
    assert repr(few).startswith("3,411 tensors, 3.69 TiB, in 54,576 chunks of 16 files; planned in ")
    assert paper.weigh(tensors, Layout.parse("replicate=8, shard=16", "Replicate, Shard(0)")).chunks == 54_576
    told = paper.load(few.metadata, Layout.parse("64", "Shard(0)"))
    assert told.stock == 4 * few.metadata.nbytes
    assert "stock DCP: 4.00x" in repr(told)


def test_a_plan_is_sent_by_its_chunks_and_a_digest_is_not(tensors):
    layout = Layout.parse("64", "Shard(0)")
    few, all_of_them = paper.sent(tensors[:100], layout), paper.sent(tensors, layout)
    assert 25 < all_of_them.stock / few.stock < 40
    assert all_of_them.ckptlab == few.ckptlab < 200
    assert "from 64 ranks" in repr(all_of_them)


def test_growth_tells_what_was_planned_and_what_was_counted(tensors):
    rows = repr(paper.growth(tensors, [16, 32], [64])).splitlines()
    assert [row.split()[:2] for row in rows[1:]] == [["16", "54,576"], ["32", "109,152"], ["64", "218,304"]]
    assert [row.endswith("not tried   20.0 MiB") or "not tried" in row for row in rows[1:]] == [
        False,
        False,
        True,
    ]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "Not answered yet."),
        (("replicate=32, shard=512", "Replicate, Shard(0)"), "Right: rank 0 holds 7.38 GiB, and"),
        (("replicate=32, shard=512", "Replicate, Shard(1)"), "Right: rank 0 holds 7.42 GiB, and"),
        (("16384", "Shard(0)"), "No: rank 0 holds 303 MiB, which fits; but there are 41,949,120 chunks"),
        (("replicate=128, shard=128", "Replicate, Shard(0)"), "No: rank 0 holds 29.5 GiB, and has room"),
        (("512", "Shard(0)"), "No: Mesh(shard=512) has 512 ranks; all 16,384 must have a place."),
    ],
)  # fmt: skip
def test_the_layout_with_the_fewest_chunks(tensors, answer, said):
    assert repr(paper.check_mesh(tensors, answer and Layout.parse(*answer))).startswith(said)
