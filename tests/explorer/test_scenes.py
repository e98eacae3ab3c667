"""Scenes as data: which rectangle says what, and lights up with whom."""

from dataclasses import replace

import numpy as np
from saved import HSDP, hsdp_metadata

from ckptlab.explorer import scenes
from ckptlab.explorer.scene import FILLED, GROUND, HATCHED, OUTLINED, count
from ckptlab.explorer.scenes import layout_scene, mesh_scene, stored_scene
from ckptlab.explorer.tensor import Look
from ckptlab.layout import Layout
from ckptlab.metadata import Tensor, human_bytes
from ckptlab.plan.metadata_of import metadata_of


def facts(panel, mark):
    return {fact.label: fact.show(mark) for fact in panel.marks.facts}


def test_a_chunk_lights_up_with_every_rank_that_held_it():
    mesh, tensor = stored_scene(hsdp_metadata(), "model.embed.weight").panels
    assert [tensor.marks.ranks_of(i) for i in range(2)] == [(0, 2), (1, 3)]
    assert facts(tensor, 1)["elements"] == "[502:1003, 0:96]"
    assert facts(tensor, 1)["held by"] == "ranks 1 and 3"
    assert mesh.marks.labels[-4:] == ("rank 0", "rank 1", "rank 2", "rank 3")


def test_copies_are_hatched_in_the_colour_of_the_rank_that_wrote():
    mesh, tensor = stored_scene(hsdp_metadata(), "model.embed.weight").panels
    wrote = tensor.marks.colour.tolist()
    ranks = [i for i, label in enumerate(mesh.marks.labels) if label]
    for rank, mark in enumerate(ranks):
        owner = wrote[rank % 2]
        assert mesh.marks.colour[mark] == owner
        assert mesh.marks.style[mark] == (FILLED if owner == rank else HATCHED)


def test_ranks_that_hold_the_same_are_outlined_together():
    mesh = stored_scene(hsdp_metadata(), "model.embed.weight").panels[0]
    frames = np.flatnonzero(mesh.marks.style == OUTLINED)
    assert [mesh.marks.ranks_of(int(i)) for i in frames] == [(0, 2), (1, 3)]


def test_the_legend_explains_what_is_there_and_no_more():
    copies = layout_scene(Layout.parse("2x2", "Replicate, Shard(0)"), Tensor("w", "float32", (8, 4)))
    assert {key.style for key in copies.legend} == {FILLED, HATCHED, OUTLINED}
    cut = layout_scene(Layout.parse("4", "Shard(0)"), Tensor("w", "float32", (8, 4)))
    assert [key.text for key in cut.legend] == ["colour: the first rank that holds it"]


def test_tiles_are_true_to_scale():
    tensor = stored_scene(hsdp_metadata(), "model.embed.weight").panels[1]
    heights = tensor.marks.box[:, 3]
    assert np.isclose(heights[0] / heights[1], 502 / 501, rtol=1e-5)
    assert np.isclose(tensor.marks.box[1, 1], tensor.marks.box[0, 1] + heights[0], rtol=1e-5)


def bare(metadata):
    """The same without any layout recorded, as stock leaves it."""
    return replace(metadata, layouts={})


def test_a_checkpoint_without_a_mesh_shows_the_one_that_is_inferred():
    metadata = hsdp_metadata()
    mesh, tensor = stored_scene(bare(metadata), "model.embed.weight").panels
    assert mesh.title.startswith("The mesh that saved it, inferred: ")
    assert [tensor.marks.ranks_of(i) for i in range(2)] == [(0, 2), (1, 3)]
    told = stored_scene(metadata, "model.embed.weight").panels[1].marks
    assert [fact.show(1) for fact in tensor.marks.facts] == [fact.show(1) for fact in told.facts]


def test_a_checkpoint_whose_mesh_nobody_can_tell_shows_who_wrote(monkeypatch):
    metadata = hsdp_metadata()
    for few in ({"SOON": 0}, {"LIKELY": 1.1}):  # too many chunks to infer it at once; not sure enough
        with monkeypatch.context() as patch:
            for name, value in few.items():
                patch.setattr(scenes, name, value)
            mesh, tensor = stored_scene(bare(metadata), "model.embed.weight").panels
        assert "no mesh recorded" in mesh.title
        wrote = [metadata.writers[f] for f in metadata.chunks.file[metadata.chunk_rows(0)]]
        assert [tensor.marks.ranks_of(i) for i in range(2)] == [(r,) for r in wrote]


def test_empty_shards_are_counted_and_said():
    scene = layout_scene(Layout.parse("4", "Shard(0)"), Tensor("w", "float32", (5, 4)))
    assert scene.panels[0].caption == "4 ranks. 1 rank without any of it."
    assert facts(scene.panels[0], 3)["holds"] == "nothing of this tensor"


def test_scalars_vectors_and_four_dims_are_drawn():
    for shape in [(), (7,), (2, 3, 4, 5), (0, 4)]:
        layout = Layout.parse("2x2", "Replicate, Replicate" if not shape else "Replicate, Shard(0)")
        scene = layout_scene(layout, Tensor("t", "float32", shape))
        box = scene.panels[1].marks.box
        assert np.isfinite(box).all()
        assert (box[:, 2:] > 0).all()
        stored = metadata_of([Tensor("t", "float32", shape)], layout)
        assert stored_scene(stored, "t").panels[1].marks.box.shape[1] == 4


def test_colours_by_file_are_the_same_in_mesh_and_tensor():
    metadata = hsdp_metadata()
    mesh, tensor = stored_scene(metadata, "model.embed.weight", Look(by="file")).panels
    files = metadata.chunks.file[metadata.chunk_rows(0)].tolist()
    assert tensor.marks.colour.tolist() == files
    assert [metadata.files[f] for f in files] == list(tensor.marks.labels)
    ranks = [i for i, label in enumerate(mesh.marks.labels) if label]
    assert [mesh.marks.colour[i] for i in ranks] == [files[0], files[1], files[0], files[1]]
    untold = stored_scene(replace(metadata, layouts={}, writers=(-1,) * 4), "model.embed.weight")
    assert set(untold.panels[1].marks.colour.tolist()) == {-1}  # nobody knows who wrote


def test_each_rank_tells_what_it_wrote_of_the_whole_checkpoint():
    metadata = hsdp_metadata()
    mesh = stored_scene(metadata, "model.embed.weight").panels[0]
    (wrote,) = [fact for fact in mesh.marks.facts if fact.label == "wrote, in all"]
    said = [wrote.show(i) for i, label in enumerate(mesh.marks.labels) if label]
    for rank, words in enumerate(said):
        rows = metadata.chunks.file == rank
        size, number = int(metadata.chunks.length[rows].sum()), int(rows.sum())
        assert words == f"{human_bytes(size)} in {count(number, 'chunk')}"


def test_the_legend_tells_frames_from_empty_cells_and_hosts():
    scene = layout_scene(Layout.parse("2x4", "Replicate, Shard(0)"), Tensor("w", "float32", (3, 4)), hosts=4)
    said = [key.text.partition(":")[0] for key in scene.legend]
    assert said == ["colour", "hatched", "outline", "hollow", "ground"]
    scene = layout_scene(Layout.parse("4", "Shard(0)"), Tensor("w", "float32", (3, 4)))
    assert [key.text.partition(":")[0] for key in scene.legend] == ["colour", "hollow"]


def test_a_mesh_by_itself_holds_nothing_in_particular():
    scene = mesh_scene(Layout.parse("dp=2, tp=4", "Replicate, Shard(0)"), hosts=4)
    (mesh,) = scene.panels
    assert {fact.label for fact in mesh.marks.facts} == {"at", "host"}
    assert set(mesh.marks.style.tolist()) == {FILLED, GROUND}
    assert scene.title == "Mesh(dp=2, tp=4)"


def test_the_text_says_what_the_picture_says():
    text = stored_scene(hsdp_metadata(), "model.embed.weight").text
    assert "replicate 2 x shard 2. Same shard on ranks 0 and 2; on ranks 1 and 3." in text
    assert "[502:1003, 0:96]" in text
    assert HSDP.mesh.axes[0] in text
