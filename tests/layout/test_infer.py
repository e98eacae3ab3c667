"""Meshes inferred from what stock DCP would have stored: the same boxes, held by those who wrote them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stock_writers import stored_by_stock

from ckptlab.layout import Boxes, Layout, Mesh, Replicate, Shard, StridedShard
from ckptlab.layout.infer import Pieces, infer
from ckptlab.layout.infer.effort import Effort
from ckptlab.layout.infer.fit import Grid, fit
from ckptlab.layout.infer.pieces import kinds
from ckptlab.plan.holding import fitted

BLOCK = {"q": (16, 16), "down": (16, 40), "up": (40, 16), "norm": (16,)}
MODEL = [(f"layers.{i}.{name}", shape) for i in range(4) for name, shape in BLOCK.items()] + [
    ("head", (50, 16))
]


def boxes_of(layout, shape):
    found = layout.shards(shape).distinct.boxes
    return {(tuple(o), tuple(s)) for o, s in zip(found.offsets.tolist(), found.shapes.tolist(), strict=True)}


def explains(pieces, layout):
    """Whether a layout makes exactly these boxes, and every writer holds what it wrote."""
    seen = zip(pieces.boxes.offsets.tolist(), pieces.boxes.shapes.tolist(), strict=True)
    full = {(tuple(o), tuple(s)) for o, s in seen if 0 not in s}
    if full != boxes_of(layout, pieces.shape):
        return False
    for i, rank in enumerate(pieces.writers.tolist()):
        box = pieces.boxes[i]
        offset, local = layout.first_offset(pieces.shape, rank), layout.local_shape(pieces.shape, rank)
        if (box.offset, box.shape) != (offset, local):
            return False
    return True


@st.composite
def strided(draw, mesh, ndim):
    """Placements that leave each rank one box: of axes that cut one dim, some go behind all after them."""
    dims = [draw(st.none() | st.integers(0, ndim - 1)) if ndim else None for _ in mesh]
    placements = []
    for axis, dim in enumerate(dims):
        later = math.prod(n for n, d in zip(mesh[axis + 1 :], dims[axis + 1 :], strict=True) if d == dim)
        if dim is None:
            placements.append(Replicate())
        elif later > 1 and draw(st.booleans()):
            placements.append(StridedShard(dim, later))
        else:
            placements.append(Shard(dim))
    return tuple(placements)


@st.composite
def saved(draw):
    mesh = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    tensors, layouts = [], []
    for i in range(draw(st.integers(1, 5))):
        shape = tuple(draw(st.lists(st.integers(0, 13), max_size=3)))
        layout = Layout(Mesh(mesh), draw(strided(mesh, len(shape))))
        shards = layout.shards(shape)
        if len(set(shards.rank.tolist())) == len(shards):
            tensors.append((f"t{i}", shape))
            layouts.append(layout)
    return stored_by_stock(tensors, layouts, math.prod(mesh), draw(st.booleans()))


@settings(max_examples=120, deadline=None)
@given(saved())
def test_what_is_inferred_makes_the_same_boxes_and_agrees_with_the_writers(pieces):
    found = infer(pieces)
    assert 0 < sum(candidate.certainty for candidate in found.candidates) <= 1
    for candidate in found.candidates:
        assert candidate.against == ()
        for tensor in pieces:
            assert explains(tensor, candidate.layouts[tensor.name]), (candidate.mesh, tensor.name)


def tp(mesh, axis, rest):
    """A layout for each tensor of the model: rows, columns and copies along `axis`, `rest` along all else."""

    def one(name):
        own = {"down": Shard(1), "norm": Replicate()}.get(name.rpartition(".")[2], Shard(0))
        placements = list(rest)
        if own == Shard(0):
            placements = [StridedShard(0, mesh.shape[axis]) if p == Shard(0) else p for p in placements]
        placements.insert(axis, own)
        return Layout(mesh, tuple(placements))

    return [one(name) for name, _ in MODEL]


FSDP2, FSDP4 = Mesh((2,), ("fsdp",)), Mesh((4,), ("fsdp",))
SHARD, COPY = Shard(0), Replicate()
MESHES = {
    "fsdp=4": [Layout(FSDP4, (SHARD,))] * 17,
    "replicate=2, fsdp=2": [Layout(Mesh((2, 2)), (COPY, SHARD))] * 17,
    "fsdp=2, replicate=2": [Layout(Mesh((2, 2)), (SHARD, COPY))] * 17,
    "replicate=2, fsdp=4": [Layout(Mesh((2, 4)), (COPY, SHARD))] * 17,
    "tp=4": tp(Mesh((4,)), 0, ()),
    "dp=2, tp=2": tp(Mesh((2, 2)), 1, (COPY,)),
    "fsdp=2, tp=2": tp(Mesh((2, 2)), 1, (SHARD,)),
    "replicate=2, fsdp=2, tp=2": tp(Mesh((2, 2, 2)), 2, (COPY, SHARD)),
    "a=2, b=2": [Layout(Mesh((2, 2)), (SHARD, SHARD))] * 17,
    "replicate=4": [Layout(Mesh((4,)), (COPY,))] * 17,
}


@pytest.mark.parametrize("mesh", MESHES)
def test_a_model_s_mesh_its_names_and_its_placements(mesh):
    layouts = MESHES[mesh]
    best = infer(stored_by_stock(MODEL, layouts, layouts[0].mesh.size)).best
    assert best.mesh == Mesh.parse(mesh)
    assert [best.layouts[name].placements for name, _ in MODEL] == [one.placements for one in layouts]
    assert best.certainty > 0.8
    assert best.against == ()


def halves(**writers):
    """Matrices cut into two, by the ranks that wrote the pieces."""
    boxes = Boxes(np.array([[0, 0], [4, 0]]), np.array([[4, 6], [4, 6]]))
    return [Pieces(name, (8, 6), boxes, np.array(wrote), 192) for name, wrote in writers.items()]


def meshes(found):
    return [str(candidate.mesh) for candidate in found.candidates]


def test_two_axes_on_one_dim_look_like_one_and_both_are_told():
    found = infer(stored_by_stock([("w", (8, 4))], [Layout(FSDP4, (SHARD,))], 4))
    assert meshes(found) == ["Mesh(fsdp=4)", "Mesh(a=2, b=2)"]
    first, second = found.candidates
    assert first.certainty > 5 * second.certainty > 0
    assert "no checkpoint tells them apart" in second.why[-1]


def test_uneven_cuts_tell_one_axis_from_two():
    flat = infer(stored_by_stock([("w", (9, 4))], [Layout(FSDP4, (SHARD,))], 4))
    nested = infer(stored_by_stock([("w", (9, 4))], [Layout(Mesh((2, 2)), (SHARD, SHARD))], 4))
    assert meshes(flat) == ["Mesh(fsdp=4)"]
    assert meshes(nested) == ["Mesh(a=2, b=2)"]


def test_one_tensor_shows_no_copies_unless_the_other_ranks_are_known():
    hsdp = [Layout(Mesh((2, 2)), (COPY, SHARD))]
    alone = infer(stored_by_stock([("w", (8, 6))], hsdp, 4))
    assert meshes(alone) == ["Mesh(fsdp=2)"]
    assert "would leave no trace" in alone.untold[0]
    known = infer(stored_by_stock([("w", (8, 6))], hsdp, 4), ranks=range(4))
    assert meshes(known) == ["Mesh(replicate=2, fsdp=2)"]


def test_rows_of_tp_and_of_fsdp_are_the_same_and_it_is_said():
    (best, *_) = infer(stored_by_stock(MODEL[:2], [Layout(FSDP4, (SHARD,))] * 2, 4)).candidates
    assert "TP by rows of all of these would look the same" in best.why[-1]


def test_ranks_that_wrote_nothing_are_thought_of_where_a_mesh_needs_them():
    found = infer(halves(a=[0, 1], b=[2, 1], c=[0, 1]))
    assert meshes(found)[0] == "Mesh(replicate=2, fsdp=2)"


def test_a_mesh_of_some_ranks_only():
    found = infer(halves(a=[4, 5], b=[4, 5]))
    assert found.best.mesh == Mesh((2,), ("fsdp",), (4, 5))


def test_what_contradicts_is_named_with_tensor_box_and_writer():
    pieces = stored_by_stock(MODEL, [Layout(FSDP4, (SHARD,))] * 17, 4)
    writers = pieces[3].writers.copy()
    writers[2] = 0
    pieces[3] = Pieces("odd", pieces[3].shape, pieces[3].boxes, writers, pieces[3].nbytes)
    best = infer(pieces).best
    assert best.mesh == FSDP4
    (found,) = best.against
    assert (found.name, str(found.box), found.writer) == ("odd", "Box[8:12]", 0)
    assert str(found) == "odd Box[8:12]: written by rank 0, held by rank 2"
    assert "Ranks 0 to 3 wrote pieces 0 to 3, in this order." in best.why
    assert "67 of 68 pieces" in " ".join(best.why)


def test_boxes_are_believed_where_one_rank_wrote_all():
    pieces = stored_by_stock(MODEL, [Layout(FSDP4, (SHARD,))] * 17, 4)
    best = infer([Pieces(p.name, p.shape, p.boxes, p.writers * 0, p.nbytes) for p in pieces]).best
    assert best.mesh == FSDP4
    assert len(best.against) == 17 * 3
    assert best.sure == "a guess"


@pytest.mark.parametrize("lengths", [(3, 2), (2, 2), (1, 4)], ids=["overlap", "the end", "the middle"])
def test_chunks_that_make_no_grid_are_told_as_such(lengths):
    boxes = Boxes(np.array([[0], [2]]), np.array(lengths).reshape(2, 1))
    best = infer([*halves(a=[0, 1], b=[0, 1]), Pieces("hole", (6,), boxes, np.array([0, 1]), 24)]).best
    assert best.certainty < 0.7
    assert best.mesh == FSDP2
    assert [(found.name, found.why) for found in best.against] == [
        ("hole", "its pieces make no grid: a hole or an overlap")
    ]


def test_unknown_writers_leave_the_boxes():
    pieces = stored_by_stock(MODEL, MESHES["fsdp=2, tp=2"], 4)
    best = infer([Pieces(p.name, p.shape, p.boxes, p.writers * 0 - 1, p.nbytes) for p in pieces]).best
    assert best.mesh.size == 4
    assert best.certainty <= 0.5
    assert "only the boxes speak" in " ".join(best.why)


def test_what_writers_leave_open_follows_what_the_others_do():
    """By boxes alone either axis may cut dim 0 of a matrix, but it is the one that cuts vectors too."""
    tiles = Layout(Mesh((2, 2)), (SHARD, Shard(1)))
    layouts = [fitted(tiles, shape) for _, shape in MODEL]
    pieces = stored_by_stock(MODEL, layouts, 4)
    best = infer([Pieces(p.name, p.shape, p.boxes, p.writers * 0 - 1, p.nbytes) for p in pieces]).best
    assert best.mesh == Mesh.parse("fsdp=2, tp=2")
    assert [best.layouts[name].placements for name, _ in MODEL] == [one.placements for one in layouts]


def test_ranks_with_others_between_them_may_be_all_or_a_part():
    first, second = infer(halves(a=[0, 2], b=[0, 2])).candidates
    assert first.mesh == Mesh.parse("fsdp=2, replicate=2")
    assert second.mesh == Mesh((2,), ("fsdp",), (0, 2))
    assert first.certainty < 2 * second.certainty


def test_a_rank_left_empty_holds_no_cell():
    (kind,) = kinds(
        stored_by_stock([("w", (4, 3))], [Layout(Mesh((2, 4)), (SHARD, Shard(1)))], 8, unlisted=True)
    )
    found = fit(kind, Grid((2, 4), np.arange(8)), Effort(1 << 30))
    assert [option.hold.tolist() for option in found.options] == [[0, 1, 2, -1, 3, 4, 5, -1]]


def test_numbers_that_only_some_tensors_follow_prove_nothing():
    whole = Boxes(np.array([[0]]), np.array([[3]]))
    wrote = {"x": [0, 0, 1, 1], "y": [0, 1, 1, 0, 1, 0, 0, 1]}
    found = infer(
        [
            Pieces(f"{k}.{i}", (3,), whole, np.array([w]), 12)
            for k, row in wrote.items()
            for i, w in enumerate(row)
        ]
    )
    assert meshes(found) == ["Mesh(replicate=2)"]


@pytest.mark.parametrize("writer", [0, -1])
def test_whole_tensors_of_one_writer_or_of_none(writer):
    whole = [
        Pieces(f"w{i}", (3,), Boxes(np.array([[0]]), np.array([[3]])), np.array([writer]), 12) for i in "ab"
    ]
    found = infer(whole)
    assert meshes(found) == ["Mesh(rank=1)"]
    assert "one process, or any number of ranks" in found.untold[0]


def test_no_tensor_at_all():
    assert infer([]).untold == ("There is no tensor.",)


def stages(name):
    """Which of two stages holds a tensor: the first two layers, or the rest."""
    return int(not name.startswith(("layers.0", "layers.1")))


def test_pipeline_stages_of_one_rank_each():
    layouts = [Layout(Mesh((1,), ranks=(stages(name),)), (COPY,)) for name, _ in MODEL]
    best = infer(stored_by_stock(MODEL, layouts, 2)).best
    assert best.mesh == Mesh((2,), ("pp",))
    assert {name: best.layouts[name].mesh.rank_list for name, _ in MODEL} == {
        name: (stages(name),) for name, _ in MODEL
    }
    assert best.certainty > 0.9


def test_pipeline_stages_under_fsdp():
    ranks = {0: (0, 1, 2, 3), 1: (4, 5, 6, 7)}
    layouts = [Layout(Mesh((4,), ranks=ranks[stages(name)]), (SHARD,)) for name, _ in MODEL]
    best = infer(stored_by_stock(MODEL, layouts, 8)).best
    assert best.mesh == Mesh.parse("pp=2, fsdp=4")
    assert best.layouts["layers.2.q"] == Layout(Mesh((4,), ("fsdp",), (4, 5, 6, 7)), (SHARD,))
    assert any("follows the number in 'layers.#'" in line for line in best.why)


def test_stages_of_several_sizes_are_told_apart_with_a_mesh_each():
    ranks = {0: (0, 1, 2, 3), 1: (4, 5)}
    layouts = [Layout(Mesh((len(r),), ranks=r), (SHARD,)) for r in (ranks[stages(name)] for name, _ in MODEL)]
    found = infer(stored_by_stock(MODEL, layouts, 6))
    best = found.best
    assert best.mesh == Mesh((6,), ("rank",))
    assert best.layouts["layers.1.down"] == Layout(Mesh((4,), ("fsdp",)), (SHARD,))
    assert best.layouts["head"] == Layout(Mesh((2,), ("fsdp",), (4, 5)), (SHARD,))
    assert "Mesh(fsdp=2, ranks=(4, 5)) of ranks 4, 5 shares no tensor with the others." in best.why
    assert sum(one.certainty for one in found.candidates) <= 1


def test_experts_of_their_own_beside_layers_that_all_share():
    experts = [(f"layers.{i}.experts.{e}.w", (16, 24)) for i in range(4) for e in range(4)]
    layouts = [Layout(FSDP4, (SHARD,))] * 17
    layouts += [
        Layout(Mesh((2,), ranks=(0, 1) if int(name.split(".")[3]) < 2 else (2, 3)), (SHARD,))
        for name, _ in experts
    ]
    best = infer(stored_by_stock(MODEL + experts, layouts, 4)).best
    assert best.mesh == Mesh.parse("ep=2, fsdp=2")
    assert best.layouts["layers.0.experts.3.w"] == Layout(Mesh((2,), ("fsdp",), (2, 3)), (SHARD,))


def test_grouped_experts_on_a_mesh_that_dense_layers_see_as_one_axis():
    tensors = [*MODEL, ("layers.0.experts", (4, 16, 24)), ("uneven", (9, 3))]
    layouts = [Layout(FSDP4, (SHARD,))] * 19
    layouts[17] = Layout(Mesh((2, 2)), (Shard(1), SHARD))
    best = infer(stored_by_stock(tensors, layouts, 4)).best
    assert best.mesh.shape == (2, 2)
    assert best.layouts["layers.0.experts"].placements == (Shard(1), SHARD)
    assert best.layouts["uneven"].mesh.shape == (4,)


def test_copies_are_told_from_stages_by_how_they_were_shared_out():
    """Two layers of one tensor each: both stories fit, and both are told."""
    tensors = [("layers.0", (8, 6)), ("layers.1", (8, 6))]
    found = infer(stored_by_stock(tensors, [Layout(Mesh((2,)), (COPY,))] * 2, 2))
    assert sorted(meshes(found)) == ["Mesh(pp=2)", "Mesh(replicate=2)"]
    more = [(f"layers.{i}", (8, 6)) for i in range(4)]
    found = infer(stored_by_stock(more, [Layout(Mesh((2,)), (COPY,))] * 4, 2))
    assert meshes(found) == ["Mesh(replicate=2)", "Mesh(pp=2)"]
    assert found.best.certainty > 5 * found.candidates[1].certainty
    assert "4 times of 4, as stock DCP chooses" in found.best.why[-1]


def shuffled(world, tensors=3):
    """Rows of ranks that stood in no order: no mesh explains them."""
    layouts, some = [Layout(Mesh((world,)), (SHARD,))] * tensors, np.random.default_rng(7)
    pieces = stored_by_stock([(f"w{i}", (4096, 8)) for i in range(tensors)], layouts, world)
    return [Pieces(p.name, p.shape, p.boxes, some.permutation(p.writers), p.nbytes) for p in pieces]


def test_a_search_in_vain_ends_and_says_that_it_looked_no_further(monkeypatch):
    monkeypatch.setattr("ckptlab.layout.infer.search._MOST", 400_000)
    monkeypatch.setattr("ckptlab.layout.infer.effort._TOLD", 1000)
    heard = []
    found = infer(shuffled(64), heard=lambda done, of: heard.append((done, of)))
    assert "Not looked further" in found.untold[-1]
    assert found.best.mesh.size == 64
    assert len(found.best.against) == 100
    assert all(0 < done <= of for done, of in heard)
    assert len(heard) > 10


def test_whoever_listens_can_end_a_search(monkeypatch):
    monkeypatch.setattr("ckptlab.layout.infer.effort._TOLD", 1000)

    def enough(done, of):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        infer(shuffled(64), heard=enough)


@pytest.mark.parametrize("ranks", [64, 9000], ids=["in turn", "each its own"])
def test_thousands_of_pieces_of_one_tensor(ranks):
    """Written in turn by 64 ranks of many pieces each: no mesh says that, and none is sought for long."""
    rows = np.arange(9000)
    boxes = Boxes(np.stack([rows, 0 * rows], 1), np.tile([1, 8], (9000, 1)))
    found = infer([Pieces(name, (9000, 8), boxes, rows % ranks, 288_000) for name in "ab"])
    assert found.best.mesh == Mesh((9000,), ("fsdp",))
    assert (found.best.certainty > 0.9) == (ranks > 64)
