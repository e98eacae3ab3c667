import io
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest
import scenes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.image import imread
from saved import hsdp_metadata

from ckptlab.errors import PathError
from ckptlab.explorer.scene import FILLED, Note, Panel, Scene, marks
from ckptlab.explorer.scenes import layout_scene, traffic_scene
from ckptlab.explorer.session import Session
from ckptlab.layout import Layout
from ckptlab.metadata import Tensor
from ckptlab.widgets.palette import CATEGORIES
from ckptlab.widgets.still import draw, plot, png, save

MATRIX = Tensor("w", "float32", (53_248, 16_384))
EVERY = {
    "hsdp": scenes.hsdp(),
    "many tiles": scenes.tiles(16_384),
    "bars": scenes.bars(),
    "nothing": scenes.nothing(),
    "stored": Session(hsdp_metadata()).stored_scene(),
    "target": layout_scene(Layout.parse("shard=4", "Shard(0)"), MATRIX),
    "load": traffic_scene(Session(hsdp_metadata()).foretold),
    "empty": Scene("", (), (), ""),
    "hosts": layout_scene(Layout.parse("pp=2, dp=2, tp=4", "Replicate, Shard(0), Shard(1)"), MATRIX, hosts=4),
    "hollow": layout_scene(Layout.parse("16", "Shard(0)"), Tensor("t", "float32", (5, 4)), hosts=8),
    "1,024 ranks": layout_scene(
        Layout.parse("replicate=16, shard=64", "Replicate, Shard(0)"), MATRIX, hosts=8
    ),
    "16,384 ranks": layout_scene(Layout.parse("16384", "Shard(0)"), MATRIX),
}


def pixels(scene, **how):
    return (imread(io.BytesIO(png(scene, **how)))[..., :3] * 255).round().astype(int)


def share(picture, shade):
    """How much of a picture has exactly this colour."""
    return (picture == [int(shade[i : i + 2], 16) for i in (1, 3, 5)]).all(axis=-1).mean()


def texts(figure):
    return [t for t in figure.axes[0].texts if t.get_text()]


def overlaps(figure):
    """Pairs of words of which one lies on the other."""
    renderer = figure.canvas.get_renderer()
    boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in texts(figure)]
    return [
        (text, other)
        for i, (text, box) in enumerate(boxes)
        for other, its in boxes[i + 1 :]
        if min(box.x1, its.x1) - max(box.x0, its.x0) > 1.5 and min(box.y1, its.y1) - max(box.y0, its.y0) > 1.5
    ]


@pytest.mark.parametrize("name", EVERY)
def test_every_scene_makes_a_small_picture(name):
    data = png(EVERY[name], dark=len(name) % 2 == 0)
    assert data.startswith(b"\x89PNG")
    assert len(data) < 200_000


@pytest.mark.parametrize("name", ["hsdp", "hollow", "nothing", "empty"])
def test_a_scene_is_saved_as_vectors_and_as_pixels(name, tmp_path):
    scene = EVERY[name]
    for suffix, begins in (("svg", b"<?xml"), ("pdf", b"%PDF"), ("PNG", b"\x89PNG")):
        path = tmp_path / f"picture.{suffix}"
        save(scene, path)
        first = path.read_bytes()
        assert first.startswith(begins)
        save(scene, path)
        assert path.read_bytes() == first  # the same scene, the same file
    svg = (tmp_path / "picture.svg").read_text()
    assert "<image" not in svg  # vectors
    stripes = re.findall(r'<pattern[^>]*>\s*<rect[^>]*fill="([^"]*)"', svg)
    assert bool(stripes) == (name == "hsdp")
    assert set(stripes) <= {"none"}  # which no ground of the same colour swallows
    words = "".join(ElementTree.fromstring(svg).itertext())
    for panel in scene.panels:  # as words, not as shapes
        said = [
            *panel.title.split(),
            *(n.text for n in panel.notes),
            *(w.split()[-1] for w in panel.marks.labels if w),
        ]
        assert [text for text in said if text not in words] == []


def test_a_saved_picture_is_as_fine_and_as_dark_as_asked(tmp_path):
    for dpi, dark in ((100, False), (300, True)):
        save(scenes.bars(), tmp_path / "p.png", dark, dpi)
        picture = imread(tmp_path / "p.png")
        figure = draw(scenes.bars())
        assert picture.shape[1] == pytest.approx(figure.get_figwidth() * dpi, abs=2)
        assert picture[0, 0, 0] < 0.1 if dark else picture[0, 0, 0] == 1


@pytest.mark.parametrize("name", ["picture", "picture.jpg", "svg"])
def test_other_suffixes_are_refused(name, tmp_path):
    with pytest.raises(PathError, match=r"\.svg, \.png or \.pdf"):
        save(scenes.bars(), tmp_path / name)
    assert not (tmp_path / name).exists()


def test_marks_have_their_colours_in_their_proportions():
    picture = pixels(scenes.tiles(64))
    mine = np.bincount(scenes.tiles(64).panels[1].marks.colour, minlength=8)
    # Each rank also has a device and a line of the legend, all of one size.
    seen = np.array([share(picture, shade) for shade in CATEGORIES])
    tile = (seen.max() - seen.min()) / (mine.max() - mine.min())
    np.testing.assert_allclose(seen - tile * mine, (seen - tile * mine).mean(), rtol=0.1)
    assert tile > 0.0005


def test_paper_follows_the_theme():
    assert pixels(scenes.bars())[0, 0].tolist() == [255, 255, 255]
    assert pixels(scenes.bars(), dark=True)[0, 0].tolist() == [17, 17, 17]


def test_all_words_are_written():
    scene = scenes.hsdp()
    said = " ".join(t.get_text() for t in texts(draw(scene)))
    for panel in scene.panels:
        assert " ".join(panel.title.split()) in said
        for word in [*panel.caption.split(), *(n.text for n in panel.notes), *panel.marks.labels]:
            assert word in said
    assert all(word in said for word in [scene.title, *(key.text for key in scene.legend)])


@pytest.mark.parametrize("name", [name for name in EVERY if name != "empty"])
def test_no_words_lie_on_others_or_leave_the_paper(name):
    figure = draw(EVERY[name])
    renderer = figure.canvas.get_renderer()
    assert overlaps(figure) == []
    for text in texts(figure):
        box = text.get_window_extent(renderer)
        assert min(box.x0, box.y0) >= 0, text
        assert box.x1 <= figure.bbox.width, text
        assert box.y1 <= figure.bbox.height, text


def test_labels_without_room_are_left_out():
    said = [t.get_text() for t in texts(draw(scenes.tiles(256)))]
    assert "rank 3" in said
    assert "chunk 3" not in said


def test_ticks_without_room_are_left_out():
    (panel,) = scenes.bars().panels
    ticks = tuple(Note(x, 6, f"{x} KiB") for x in range(101))
    figure = draw(Scene("", (replace(panel, notes=panel.notes + ticks),), (), ""))
    said = [t.get_text() for t in texts(figure)]
    assert "0 KiB" in said
    assert 5 < sum(text.endswith(" KiB") for text in said) < 20
    assert overlaps(figure) == []


def test_labels_of_bars_stand_in_them_or_beside_them():
    row = marks([(0, 0, 90, 1), (0, 2, 5, 1)], [0, 1], [FILLED] * 2, [[0], [1]], ["long bar", "short bar"])
    figure = draw(Scene("", (Panel("p", "bars", "p", "", 100, 3, row),), (), ""))
    (bars,) = figure.axes[0].collections
    right = [path.vertices[:, 0].max() for path in bars.get_paths()]
    place = {t.get_text(): t.get_position()[0] for t in texts(figure)}
    assert place["long bar"] < right[0]
    assert place["short bar"] > right[1] + 20


def test_words_are_no_formulas():
    figure = draw(Scene("a$b$c", scenes.hsdp().panels, (), ""))
    assert not any(t.get_parse_math() for t in texts(figure))


def test_nothing_is_said_quietly():
    assert [t.get_text() for t in texts(draw(Scene("", (), (), "")))] == ["nothing to show"]
    said = [t.get_text() for t in texts(draw(scenes.nothing()))]
    assert "an object: no elements to draw" in said
    assert "nothing to show" in said


def test_plot_draws_into_axes_of_ones_own():
    figure = Figure(figsize=(9, 5))
    left, right = figure.subplots(1, 2, width_ratios=[3, 1])
    assert plot(scenes.hsdp(), left) is left
    assert [c for c in left.collections if isinstance(c, PolyCollection)]
    assert not right.collections
    figure.savefig(io.BytesIO(), format="png")


def test_a_narrow_place_stacks_panels():
    figure = Figure(figsize=(4.2, 8))
    ax = plot(scenes.hsdp(), figure.add_axes((0, 0, 1, 1)))
    heights = {t.get_text(): t.get_position() for t in ax.texts}
    mesh, tensor = heights["Mesh (replicate=2, shard=2)"], heights["layers.0.mlp.weight [2048, 1024] float32"]
    assert tensor[1] > mesh[1] + 150
    assert tensor[0] == mesh[0]
