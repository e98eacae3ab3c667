"""Scenes in matplotlib: for print, and for notebooks that no kernel stands behind.

The same colours, words and places as in the browser. It decides nothing of what is shown.
Lengths are pixels, a hundredth of an inch each.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ckptlab.errors import PathError
from ckptlab.explorer.scene import FILLED, GROUND, HATCHED, OUTLINED, Key, Scene
from ckptlab.widgets.palette import colour
from ckptlab.widgets.pen import SMALL, TITLE, Pen, breadth
from ckptlab.widgets.stage import Stage, paint

PAGE = 980
"""The widest picture; a panel that does not fit beside the others goes below them."""

EDGE, BETWEEN, LINE = 14, 30, 17
_MOST_LINES = 40


def png(scene: Scene, dark: bool = False, dpi: int = 100) -> bytes:
    """The scene as a PNG of `dpi` dots an inch, on white (or near-black)."""
    out = io.BytesIO()
    draw(scene, dark).savefig(out, format="png", dpi=dpi)
    return out.getvalue()


Suffix = Literal["svg", "png", "pdf"]
"""What a picture can be saved as."""


def picture(scene: Scene, suffix: Suffix, dark: bool = False, dpi: int = 200) -> bytes:
    """The scene as a file of that kind: SVG and PDF with words as words and marks as vectors.

    `dpi` matters to a PNG alone. The same scene makes the same bytes.
    """
    out = io.BytesIO()
    metadata: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(suffix, {})
    # Words that can be searched, copied and set in another font; ids that do not change from run to run.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "ckptlab", "pdf.fonttype": 42}):
        draw(scene, dark).savefig(out, format=suffix, dpi=dpi, metadata=metadata)
    return out.getvalue()


def save(scene: Scene, path: str | os.PathLike[str], dark: bool = False, dpi: int = 200) -> None:
    """Write the scene as the suffix of `path` says: `.svg`, `.png` or `.pdf`.

    Raises `PathError` for any other.
    """
    suffix = Path(path).suffix.removeprefix(".").lower()
    if suffix not in get_args(Suffix):
        raise PathError(f"no picture {os.fspath(path)!r}: its name must end in .svg, .png or .pdf", [path])
    Path(path).write_bytes(picture(scene, cast(Suffix, suffix), dark, dpi))


def draw(scene: Scene, dark: bool = False) -> Figure:
    """The scene as a new figure, as large as it needs."""
    sheet = _Sheet(scene, PAGE)
    figure = Figure(figsize=(sheet.width / 100, sheet.height / 100), dpi=100)
    FigureCanvasAgg(figure)
    pen = Pen(figure.add_axes((0, 0, 1, 1)), dark, sheet.width, sheet.height)
    figure.set_facecolor(pen.paper)
    sheet.draw(pen)
    return figure


def plot(scene: Scene, ax: Axes, dark: bool = False) -> Axes:
    """The scene on given axes, in their width; they should be about as high as `draw` makes its figure."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    extent, scale = ax.get_window_extent(), 100 / figure.dpi
    sheet = _Sheet(scene, extent.width * scale)
    sheet.draw(Pen(ax, dark, extent.width * scale, max(sheet.height, extent.height * scale)))
    return ax


class _Sheet:
    """Where title, panels and legend of a scene stand."""

    def __init__(self, scene: Scene, room: float) -> None:
        self._scene = scene
        self._places: list[tuple[Stage, float, float]] = []
        x, y = float(EDGE), EDGE + (26.0 if scene.title else 0.0)
        most, low = EDGE + breadth(scene.title, TITLE, bold=True), y
        for panel in scene.panels:
            stage = Stage(panel, room - 2 * EDGE)
            if x > EDGE and x + stage.width > room - EDGE:
                x, y = EDGE, low + EDGE
            self._places.append((stage, x, y))
            most, low = max(most, x + stage.width), max(low, y + stage.height)
            x += stage.width + BETWEEN
        # Of a scene without panels the words are all there is; in lines they may be a table.
        self._words = [] if self._places else (scene.text or "nothing to show").splitlines()[:_MOST_LINES]
        most = max([most, *(EDGE + breadth(line, SMALL, mono=True) for line in self._words)])
        low += LINE * len(self._words)
        self._keys, bottom = _flow(scene.legend, low + 8, room - EDGE)
        most = max([most, *(x + 24 + breadth(key.text, SMALL) for key, x, _ in self._keys)])
        self.width, self.height = min(room, most + EDGE), bottom + EDGE

    def draw(self, pen: Pen) -> None:
        if self._scene.title:
            pen.write(EDGE, EDGE + 8, self._scene.title, size=TITLE, bold=True)
        for stage, x, y in self._places:
            paint(stage, pen, x, y)
        for i, line in enumerate(self._words):
            pen.write(
                EDGE, EDGE + (26 if self._scene.title else 0) + LINE * (i + 0.5), line, size=SMALL, mono=True
            )
        for key, x, y in self._keys:
            _swatch(pen, key, x, y)
            pen.write(x + 22, y + LINE / 2, key.text, size=SMALL)


def _flow(legend: Sequence[Key], y: float, right: float) -> tuple[list[tuple[Key, float, float]], float]:
    """Keys one after the other, in as many lines as it takes; and where the last one ends."""
    places, x = [], float(EDGE)
    for key in legend:
        long = 22 + breadth(key.text, SMALL)
        if x > EDGE and x + long > right:
            x, y = EDGE, y + LINE
        places.append((key, x, y))
        x += long + 18
    return places, y + LINE if legend else y - 8


def _swatch(pen: Pen, key: Key, x: float, y: float) -> None:
    corners = np.array([[x, y + 3, x + 15, y + 14]])
    draw_as = {FILLED: pen.fill, HATCHED: pen.hatch, OUTLINED: pen.outline, GROUND: pen.ground}[key.style]
    draw_as(corners, [colour(key.colour, pen.dark)])
