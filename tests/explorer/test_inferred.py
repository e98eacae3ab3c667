"""The mesh that a checkpoint does not record: found, drawn with its certainty, and told in words."""

import numpy as np
import pytest
from saved import HSDP, TENSORS, hsdp_metadata

from ckptlab.errors import CheckpointError
from ckptlab.explorer.inferred import inferred, inferred_scene
from ckptlab.explorer.scene import HATCHED
from ckptlab.layout import Layout
from ckptlab.metadata import Extent, Metadata, Tensor, Tensors
from ckptlab.plan.metadata_of import metadata_of


def bare(metadata, **changes):
    """The same, as a writer leaves it that records no layouts."""
    fields = {"objects": metadata.objects, "paths": metadata.paths} | changes
    return Metadata(metadata.tensors, metadata.chunks, metadata.files, metadata.writers, **fields)


def test_an_hsdp_mesh_and_a_layout_for_every_tensor():
    metadata = bare(hsdp_metadata())
    best = inferred(metadata).best
    assert best.mesh.shape == HSDP.mesh.shape
    assert list(best.layouts) == [tensor.fqn for tensor in TENSORS]
    assert best.layouts["model.embed.weight"].placements == HSDP.placements
    assert inferred(metadata) is inferred(metadata)


def test_ranks_that_wrote_objects_only_took_part():
    whole = metadata_of([Tensor("w", "float32", (8, 6))], HSDP)
    alone = inferred(bare(whole)).best
    assert alone.mesh.size == 4
    files = tuple(f"__{rank}_0.distcp" for rank in range(2))
    two = Metadata(whole.tensors, whole.chunks, files, (0, 1))
    assert inferred(two).best.mesh.size == 2


def test_copies_are_judged_in_the_order_of_the_state_not_of_the_file():
    """Stock lists tensors rank by rank, but keeps the order of the state in its paths."""
    tensors = [Tensor(f"w{i}", "float32", (2 + i % 3, 6)) for i in range(9)]
    saved = metadata_of(tensors, Layout.parse("2", "Replicate"))
    load, writers = [0, 0], []
    for tensor in tensors:
        writers.append(int(np.argmin(load)))
        load[writers[-1]] += tensor.nbytes
    order = sorted(range(9), key=lambda i: writers[i])
    chunks = saved.chunks
    listed = Metadata(
        Tensors.of(tensors[i] for i in order),
        type(chunks)(
            np.arange(10),
            chunks.corner[order],
            chunks.offsets,
            chunks.shapes,
            np.array(writers, np.int32)[order],
            chunks.start[order],
            chunks.length[order],
        ),
        saved.files,
        saved.writers,
        objects={"step": Extent(0, 0, 4)},
        paths={tensor.fqn: (tensor.fqn,) for tensor in tensors},
    )
    assert "9 times of 9, as stock DCP chooses" in " ".join(inferred(listed).best.why)


def test_each_mesh_is_a_panel_with_its_evidence():
    saved = bare(metadata_of([Tensor("w", "float32", (8, 4))], Layout.parse("4", "Shard(0)")))
    scene = inferred_scene(saved)
    assert [panel.title for panel in scene.panels] == ["fsdp=4: likely, 76%", "a=2, b=2: a guess, 8%"]
    assert "All of it" not in scene.text
    assert "cut into 4 along dim 0" in scene.text
    assert "Mesh(fsdp=4), likely (76%)" in scene.text
    assert "Mesh(a=2, b=2), a guess (8%)" in scene.text


def test_copies_are_hatched_in_the_colour_of_the_rank_that_wrote():
    scene = inferred_scene(bare(hsdp_metadata()), "model.embed.weight")
    (panel,) = scene.panels
    hatched = [i for i in range(len(panel.marks)) if panel.marks.style[i] == HATCHED]
    assert [panel.marks.ranks_of(i) for i in hatched] == [(2,), (3,)]
    assert [key.style for key in scene.legend].count(HATCHED) == 1


def test_a_tensor_that_is_not_there_and_no_tensor_at_all():
    with pytest.raises(CheckpointError, match="no tensor 'x'"):
        inferred_scene(bare(hsdp_metadata()), "x")
    nothing = metadata_of([], Layout.parse("1", "Replicate"))
    scene = inferred_scene(bare(nothing))
    assert "There is no tensor." in scene.text
    assert len(scene.panels) == 1
