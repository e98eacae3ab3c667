"""A pen for matplotlib axes that counts in pixels from their upper left: words and boxes.

A pixel is a hundredth of an inch. It knows colours and strokes, but no scene.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

SMALL, TEXT, HEAD, TITLE = 11, 12, 13, 15
"""Sizes of letters, in pixels."""

Corners = npt.NDArray[np.float64]
"""`(n, 4)`: left, top, right and bottom of boxes, in pixels."""

_POINTS = 0.72


@lru_cache(4096)
def breadth(text: str, size: int = TEXT, bold: bool = False, mono: bool = False) -> float:
    """Pixels that one line of text is wide; `mono`: in letters of one width."""
    family = "monospace" if mono else None
    font = FontProperties(family=family, size=size * _POINTS, weight="bold" if bold else "normal")
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]) / _POINTS


def wrapped(text: str, room: float, size: int = TEXT, bold: bool = False) -> list[str]:
    """Lines of at most `room` pixels, broken at blanks; a longer word stands alone."""
    lines: list[str] = []
    for word in text.split():
        if lines and breadth(f"{lines[-1]} {word}", size, bold) <= room:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


class Pen:
    """Draws on axes whose whole area is `width` by `height` pixels."""

    def __init__(self, ax: Axes, dark: bool, width: float, height: float) -> None:
        self.dark = dark
        self.paper, self.text, self.quiet = (
            ("#111111", "#eeeeee", "#aaaaaa") if dark else ("#ffffff", "#1a1a1a", "#5c5c5c")
        )
        self._ax = ax
        ax.set_axis_off()
        ax.set(xlim=(0, width), ylim=(height, 0))

    def write(
        self,
        x: float,
        y: float,
        text: str,
        colour: str | None = None,
        size: int = TEXT,
        anchor: Literal["start", "middle", "end"] = "start",
        turned: bool = False,
        bold: bool = False,
        halo: bool = False,
        mono: bool = False,
    ) -> None:
        """One line whose middle height is `y`; turned, it reads upwards and `x` is its middle."""
        along = {"start": ("left", "bottom"), "middle": ("center", "center"), "end": ("right", "top")}[anchor]
        places: dict[str, Any] = (
            {"ha": "center", "va": along[1]} if turned else {"ha": along[0], "va": "center_baseline"}
        )
        style: dict[str, Any] = {"fontsize": size * _POINTS, "fontweight": "bold" if bold else "normal"}
        if mono:
            style["fontfamily"] = "monospace"
        if halo:
            # Not a stroke round the letters: vectors would then have shapes in place of words.
            style["bbox"] = {"facecolor": self.paper, "alpha": 0.7, "linewidth": 0, "pad": 0.8}
        turn: dict[str, Any] = {"rotation": 90, "rotation_mode": "default"} if turned else {}
        self._ax.text(x, y, text, color=colour or self.text, parse_math=False, **places, **style, **turn)

    def fill(self, corners: Corners, colours: Sequence[str]) -> None:
        """Boxes, later ones over earlier ones."""
        self._boxes(corners, facecolors=colours, linewidths=0, antialiaseds=False)

    def hatch(self, corners: Corners, colours: Sequence[str]) -> None:
        """Boxes in stripes on a pale ground."""
        for shade in dict.fromkeys(colours):  # hatching has one colour a collection
            own = corners[[c == shade for c in colours]]
            # In two: an SVG would give the stripes the opacity of their ground.
            self._boxes(own, facecolors=shade + "38", linewidths=0)
            self._boxes(own, facecolors="none", edgecolors=shade, linewidths=0.7, hatch="/////")

    def ground(self, corners: Corners, colours: Sequence[str]) -> None:
        """Boxes that others stand on."""
        self._boxes(corners, facecolors=[shade + "40" for shade in colours], linewidths=0)

    def thin(self, corners: Corners, colours: Sequence[str]) -> None:
        """Boxes too small for stripes."""
        self._boxes(corners, facecolors=[shade + "73" for shade in colours], linewidths=0, antialiaseds=False)

    def outline(self, corners: Corners, colours: Sequence[str]) -> None:
        """Edges of boxes, drawn on their inside."""
        inside = corners + np.array([0.8, 0.8, -0.8, -0.8])
        self._boxes(inside, facecolors="none", edgecolors=colours, linewidths=1.15)

    def _boxes(self, corners: Corners, **style: Any) -> None:
        x0, y0, x1, y1 = corners.T
        path = np.stack([x0, y0, x1, y0, x1, y1, x0, y1], 1).reshape(-1, 4, 2)
        self._ax.add_collection(PolyCollection(list(path), **style), autolim=False)
