"""The picture of values: a histogram, its bars side by side on one line.

Plain data: no torch and no drawing.
"""

from __future__ import annotations

import math

import numpy as np

from ckptlab.explorer.scene import FILLED, NEUTRAL, Fact, Marks, Note, Panel, Scene, count, words
from ckptlab.explorer.ticks import ticks
from ckptlab.explorer.values import Values
from ckptlab.metadata import human_shape

HIGH, WIDE = 10.0, 30.0

_FEW = 12
"""Bins that are needed to fill the room."""


def values_scene(values: Values, log: bool = False) -> Scene:
    """The histogram of a tensor's finite elements; with `log` its bars are as high as their logarithms."""
    return Scene("", (histogram_panel(values, log),), (), repr(values))


def histogram_panel(values: Values, log: bool = False, name: str = "histogram") -> Panel:
    """A bar a bin, side by side, true to scale."""
    n = len(values.bins)
    heights = np.log1p(values.bins) if log else values.bins.astype(np.float64)
    heights = HIGH * heights / max(1e-300, float(heights.max(initial=0.0)))
    left, step = _across(n)
    # What is there is seen, however little it is of all.
    heights[values.bins > 0] = np.maximum(heights[values.bins > 0], HIGH / 150)
    there = np.flatnonzero(values.bins)
    box = np.zeros((len(there), 4), np.float32)
    box[:, 0], box[:, 1] = left + there * step, HIGH - heights[there]
    box[:, 2], box[:, 3] = step, heights[there]
    drawn = Marks(
        box,
        np.full(len(there), NEUTRAL, np.int16),
        np.full(len(there), FILLED, np.uint8),
        np.zeros(len(there) + 1, np.int32),
        np.zeros(0, np.int32),
        (),
        (
            words("elements from", [_edge(values.edges[i]) for i in there]),
            words("to", [_edge(values.edges[i + 1]) for i in there]),
            Fact("count", "count", values.bins[there]),
            words("share", [f"{values.bins[i] / values.finite:.2%}" for i in there]),
        ),
    )
    return Panel(
        name, "tiles", _title(values), _caption(values, log), WIDE, HIGH, drawn, _notes(values, n, log)
    )


def _title(values: Values) -> str:
    what = "Magnitudes" if values.dtype.startswith("complex") else "Values"
    return f"{what} of {values.fqn}{values.part}"


def _caption(values: Values, log: bool) -> str:
    if not len(values.bins):
        return (
            f"None of its {count(values.count, 'element')} is finite."
            if values.count
            else "It has no elements."
        )
    high = "logarithms of counts" if log else "counts"
    return f"{values.dtype}, {human_shape(values.shape)}; {count(values.finite, 'finite element')} by {high}."


def _across(n: int) -> tuple[float, float]:
    """Where n bars begin, and how wide each is: few do not fill the room."""
    step = WIDE / max(n, _FEW)
    return (WIDE - n * step) / 2, step


def _notes(values: Values, n: int, log: bool) -> tuple[Note, ...]:
    """Values below the bars, counts beside them."""
    if not n:
        return ()
    low, high = float(values.edges[0]), float(values.edges[-1])
    left, step = _across(n)
    # In halves, since the whole span may be beyond a float.
    wide = high / 2 - low / 2 or 1.0
    places = [(left + n * step * (tick / 2 - low / 2) / wide, tick) for tick in ticks(low, high)]
    if n == 1:
        places = [(WIDE / 2, float(values.low or 0.0))]
    below = [Note(x, HIGH + 0.3, _edge(tick)) for x, tick in places]
    most = int(values.bins.max())
    levels = [10**i for i in range(len(str(most)))] if log else [int(t) for t in ticks(0, most) if t % 1 == 0]
    heights = [math.log1p(level) / math.log1p(most) if log else level / most for level in levels]
    beside = [
        Note(-0.3, HIGH * (1 - high), f"{level:,}", "end")
        for level, high in zip(levels, heights, strict=True)
        if level
    ]
    return (*below, *beside)


def _edge(value: float) -> str:
    return f"{float(value):.6g}"
