"""Scenes in matplotlib: for print, and for notebooks that no kernel stands behind.

The same colours and words as in the browser. It decides nothing of what is shown.
"""

from __future__ import annotations

import io
import textwrap
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ckptlab.explorer.scene import FILLED, HATCHED, OUTLINED, Panel, Scene
from ckptlab.widgets.palette import colour, ink

WIDTH = 4.4
"""Inches of a panel."""

_HATCH = "////"
_FEW = 400


def png(scene: Scene, dark: bool = False, dpi: int = 100) -> bytes:
    """The scene as a PNG of `dpi` dots an inch, on white (or near-black)."""
    out = io.BytesIO()
    draw(scene, dark).savefig(out, format="png", dpi=dpi)
    return out.getvalue()


def draw(scene: Scene, dark: bool = False) -> Figure:
    """The scene as a new figure: its panels side by side, the legend below them."""
    panels = [panel for panel in scene.panels if panel.kind != "rows"]
    across = max(1, len(panels))
    shapes = [_inches(panel) for panel in panels] or [(WIDTH, 1.0)]
    height = max(h for _, h in shapes) + 1.5
    paper, text = ("#111111", "#eeeeee") if dark else ("#ffffff", "#1a1a1a")
    figure = Figure(figsize=(sum(w for w, _ in shapes) + 0.4, height), facecolor=paper, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, across, squeeze=False, width_ratios=[w for w, _ in shapes])[0]
    for at, panel in zip(axes, panels, strict=False):
        plot(panel, at, dark)
    if not panels:
        axes[0].axis("off")
        axes[0].text(0.5, 0.5, "nothing to show", color=text, ha="center", style="italic")
    if scene.title:
        figure.suptitle(scene.title, color=text, fontsize=11, fontweight="bold", x=0.01, ha="left")
    if scene.legend:
        handles = [_swatch(key.colour, key.style, key.text, dark) for key in scene.legend]
        figure.legend(
            handles=handles, loc="outside lower left", ncols=2, fontsize=8, frameon=False, labelcolor=text
        )
    return figure


def plot(panel: Panel, ax: Axes, dark: bool = False) -> Axes:
    """One panel on given axes."""
    text = "#eeeeee" if dark else "#1a1a1a"
    ax.set_facecolor("none")
    ax.set_axis_off()
    ax.set_xlim(0, panel.width)
    ax.set_ylim(panel.height, 0)
    ax.set_aspect("equal" if panel.rigid else "auto")
    ax.set_title(_wrapped(panel.title), fontsize=9, color=text, loc="left")
    marks = panel.marks
    box = marks.box.astype(float)
    for style in (FILLED, HATCHED, OUTLINED):
        rows = (marks.style == style).nonzero()[0].tolist()
        if rows:
            ax.add_collection(_patches(box, [int(c) for c in marks.colour], rows, style, dark))
    if marks.labels and len(marks) <= _FEW and panel.kind != "bars":
        _labels(panel, ax, text)
    across = {"start": "left", "middle": "center", "end": "right"}
    for note in panel.notes:
        how: Any = {"ha": across[note.anchor], "va": "center", "rotation": 90 if note.turned else 0}
        ax.text(note.x, note.y, note.text, color=text, fontsize=8, clip_on=False, **how)
    if panel.caption:
        ax.text(0, -0.06, _wrapped(panel.caption), transform=ax.transAxes, fontsize=7.5, color=text, va="top")
    return ax


def _inches(panel: Panel) -> tuple[float, float]:
    if panel.kind == "bars":
        rows = len({round(float(y), 3) for y in panel.marks.box[:, 1]})
        return WIDTH * 1.6, min(12.0, 0.6 + 0.22 * rows)
    ratio = panel.height / panel.width if panel.rigid else 0.8
    return WIDTH, min(6.0, max(1.2, WIDTH * ratio))


def _patches(box: Any, colours: list[int], rows: list[int], style: int, dark: bool) -> PolyCollection:
    corners = [
        [(x, y), (x + w, y), (x + w, y + h), (x, y + h)] for x, y, w, h in (box[i].tolist() for i in rows)
    ]
    fills = [colour(colours[i], dark) for i in rows]
    if style == OUTLINED:
        return PolyCollection(corners, facecolors="none", edgecolors=fills, linewidths=1.6)
    paper = "#111111" if dark else "#ffffff"
    edge = 0.8 if len(rows) <= _FEW else 0.0
    if style == FILLED:
        return PolyCollection(corners, facecolors=fills, edgecolors=paper, linewidths=edge)
    return PolyCollection(
        corners, facecolors=[f + "38" for f in fills], edgecolors=fills, linewidths=0.8, hatch=_HATCH
    )


def _labels(panel: Panel, ax: Axes, text: str) -> None:
    marks = panel.marks
    for i, label in enumerate(marks.labels):
        x, y, w, h = marks.box[i].tolist()
        # About eight points a letter; a label that does not fit is left to the tooltip.
        fits = w / panel.width * WIDTH * 72 > 4.6 * len(label) and h / panel.height > 0.03
        if not label or not fits or marks.style[i] == OUTLINED:
            continue
        filled = marks.style[i] == FILLED
        shown = ink(colour(int(marks.colour[i]))) if filled else text
        halo = (
            None
            if filled
            else {"facecolor": "white" if text == "#1a1a1a" else "#111111", "pad": 1.2, "lw": 0}
        )
        ax.text(x + w / 2, y + h / 2, label, ha="center", va="center", fontsize=8, color=shown, bbox=halo)


def _swatch(category: int, style: int, label: str, dark: bool) -> Patch:
    fill = colour(category, dark)
    if style == OUTLINED:
        return Patch(facecolor="none", edgecolor=fill, linewidth=1.6, label=label)
    if style == HATCHED:
        return Patch(facecolor=fill + "38", edgecolor=fill, hatch=_HATCH, label=label)
    return Patch(facecolor=fill, label=label)


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, 66))
