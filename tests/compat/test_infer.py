"""What stock DCP really stored, and the mesh inferred from it: every layout of the engine's tests.

The truth is what torch was told: the mesh and placements of `DTensor`s. Nothing in the files records it.
"""

import crosswise_ops
import parallel_ops
import pytest
import seed_ops
import sharded_ops
import stored_ops
from ranks_fixture import pool
from torch.distributed.tensor import Replicate as TorchReplicate
from torch.distributed.tensor.placement_types import _StridedShard

from ckptlab.explorer.inferred import inferred
from ckptlab.layout import Layout, Mesh, Replicate, Shard, StridedShard
from ckptlab.plan.holding import fitted
from ckptlab.storage import open_checkpoint

OF_FOUR = {name: way for name, way in crosswise_ops.LAYOUTS.items() if name != "stripes"}


def saved(path, world, op, *arguments):
    pool(world).run(op, str(path), *arguments)
    metadata = open_checkpoint(path).metadata
    assert metadata.layouts == {}
    return metadata


def boxes_of(boxes):
    return {
        (tuple(o), tuple(s))
        for o, s in zip(boxes.offsets.tolist(), boxes.shapes.tolist(), strict=True)
        if 0 not in s
    }


def explained(metadata, candidate):
    """Every tensor has a layout that makes its very boxes, each written by a rank that holds it."""
    for row, tensor in enumerate(metadata.tensors):
        layout, boxes = candidate.layouts[tensor.fqn], metadata.boxes(row)
        assert boxes_of(layout.shards(tensor.shape).distinct.boxes) == boxes_of(boxes), tensor.fqn
        for i, rank in enumerate(metadata.chunk_writers(row).tolist()):
            own = layout.first_offset(tensor.shape, rank), layout.local_shape(tensor.shape, rank)
            assert own == (boxes[i].offset, boxes[i].shape), (tensor.fqn, rank)


def as_ours(placement):
    if isinstance(placement, TorchReplicate):
        return Replicate()
    if isinstance(placement, _StridedShard):
        return StridedShard(placement.dim, placement.split_factor)
    return Shard(placement.dim)


@pytest.mark.parametrize("name", [*OF_FOUR, *crosswise_ops.CUBES])
def test_every_layout_saved_alone(tmp_path, name):
    shape, placements = (crosswise_ops.LAYOUTS | crosswise_ops.CUBES)[name]
    world = 8 if name in crosswise_ops.CUBES else 4
    metadata = saved(tmp_path, world, stored_ops.save_grid, "stock", [name])
    found = inferred(metadata)
    best = found.best
    explained(metadata, best)
    assert best.mesh.shape == shape
    assert best.against == ()
    assert best.certainty >= 0.9
    # Tensors that every rank left whole, or that have no elements, may be thought of as copies.
    for size in ((8, 8), (7, 5), (3, 4, 5)):
        wanted = fitted(Layout(Mesh(shape, best.mesh.axes), tuple(map(as_ours, placements))), size)
        assert best.layouts[f"{name}.{size}"] == wanted
    assert [one for one in found.candidates if one.certainty > 0.1] == [best]


def test_all_layouts_in_one_checkpoint(tmp_path):
    metadata = saved(tmp_path, 4, stored_ops.save_grid, "stock", list(OF_FOUR))
    best = inferred(metadata).best
    explained(metadata, best)
    assert best.mesh.shape == (2, 2)
    for name in ("hsdp", "hsdp_columns", "tiles", "tiles_turned", "nested", "fsdp_tp"):
        wanted = tuple(map(as_ours, OF_FOUR[name][1]))
        assert best.layouts[f"{name}.(7, 5)"].placements == wanted
    assert best.layouts["columns.(7, 5)"].mesh.shape == (4,)


MODELS = {
    "FSDP1, HSDP": (seed_ops.hsdp_round_trip, (), "replicate=2, fsdp=2"),
    "FSDP1 and Adam": (seed_ops.fsdp_with_adam, (False,), "fsdp=4"),
    "FSDP1 and Adam, HSDP": (seed_ops.fsdp_with_adam, (True,), "replicate=2, fsdp=2"),
    "FSDP2 and Adam": (seed_ops.fsdp2_round_trip, ("fsdp", "fsdp"), "fsdp=4"),
    "FSDP2 and Adam, HSDP": (seed_ops.fsdp2_round_trip, ("hsdp", "hsdp"), "replicate=2, fsdp=2"),
    "FSDP2 over TP and Adam": (seed_ops.fsdp2_round_trip, ("fsdp_tp", "fsdp_tp"), "fsdp=2, tp=2"),
}


@pytest.mark.parametrize(
    ("model", "kind"), [("FSDP2 and Adam", "even"), *((model, "uneven") for model in MODELS)]
)
def test_models_that_torch_sharded(tmp_path, model, kind):
    op, how, mesh = MODELS[model]
    found = inferred(metadata := saved(tmp_path, 4, op, kind, "stock", "stock", *how))
    explained(metadata, found.best)
    assert found.best.mesh == Mesh.parse(mesh)
    assert found.best.certainty >= 0.89
    # Even rows of four ranks are the rows of two axes, too; uneven ones are not.
    told = (
        ["Mesh(fsdp=4)", "Mesh(a=2, b=2)"] if mesh == "fsdp=4" and kind == "even" else [str(found.best.mesh)]
    )
    assert [str(one.mesh) for one in found.candidates] == told
    if mesh == "replicate=2, fsdp=2":
        assert any("as stock DCP chooses" in line for line in found.best.why)


STAGES = {
    "stages": ("pp", {0: (0, 1), 1: (2, 3)}),
    "experts": ("pp", {0: (0, 2), 1: (1, 3)}),
    "ranks": ("pp", {0: (0,), 1: (1,), 2: (2,), 3: (3,)}),
    "uneven": ("rank", {0: (3,), 1: (0, 1, 2)}),
}


@pytest.mark.parametrize("way", STAGES)
def test_ranks_that_hold_different_keys(ranks4, tmp_path, way):
    metadata = saved(tmp_path, 4, parallel_ops.keys_of_some_ranks, "stock", "stock", way)
    best = inferred(metadata).best
    explained(metadata, best)
    axis, groups = STAGES[way]
    assert axis in best.mesh.axes
    for i in range(len(parallel_ops.SHAPES)):
        for part in ("weight", "scale"):
            assert best.layouts[f"layer{i}.{part}"].mesh.rank_list == groups[i % len(groups)]


def test_cuts_that_no_mesh_makes_are_named(tmp_path):
    metadata = saved(tmp_path, 4, sharded_ops.from_any_cut_to_any, "stock", "stock")
    best = inferred(metadata).best
    assert best.layouts["dtensor"].placements == (Shard(0), Shard(1))
    assert {found.name for found in best.against} == {"bands", "tiles", "empty", "columns"}
    assert best.certainty < 0.5
