"""Pictures of values: a histogram as bars on a ground line, and the tensors that a scan found as lines.

Plain data: no torch and no drawing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ckptlab.explorer.scan import Odd
from ckptlab.explorer.scene import FILLED, NEUTRAL, Fact, Marks, Note, Panel, Scene, Tree, count, marks, words
from ckptlab.explorer.ticks import ticks
from ckptlab.explorer.values import Values
from ckptlab.metadata import human_shape

HIGH, WIDE = 10.0, 30.0


def values_scene(values: Values, log: bool = False) -> Scene:
    """The histogram of a tensor's finite elements; with `log` its bars are as high as their logarithms."""
    return Scene("", (histogram_panel(values, log),), (), repr(values))


def histogram_panel(values: Values, log: bool = False, name: str = "histogram") -> Panel:
    """A bar a bin, side by side, true to scale."""
    n = len(values.bins)
    heights = np.log1p(values.bins) if log else values.bins.astype(np.float64)
    heights = HIGH * heights / max(1e-300, float(heights.max(initial=0.0)))
    step = WIDE / max(1, n)
    # What is there is seen, however little it is of all.
    heights[values.bins > 0] = np.maximum(heights[values.bins > 0], HIGH / 150)
    there = np.flatnonzero(values.bins)
    box = np.zeros((len(there), 4), np.float32)
    box[:, 0], box[:, 1] = there * step, HIGH - heights[there]
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


def _notes(values: Values, n: int, log: bool) -> tuple[Note, ...]:
    """Values below the bars, counts beside them."""
    if not n:
        return ()
    low, high = float(values.edges[0]), float(values.edges[-1])
    # In halves, since the whole span may be beyond a float.
    wide = high / 2 - low / 2 or 1.0
    places = [(WIDE * (tick / 2 - low / 2) / wide, tick) for tick in ticks(low, high)]
    if n == 1:
        places = [(WIDE / 2, float(values.low or 0.0))]
    below = [Note(x, HIGH + 0.3, _edge(tick)) for x, tick in places]
    most = int(values.bins.max())
    beside = [(0.5, round(math.expm1(math.log1p(most) / 2)) if log else most / 2), (1.0, most)]
    sides = [Note(-0.3, HIGH * (1 - level), f"{many:,.12g}", "end") for level, many in beside]
    return (*below, *sides)


def _edge(value: float) -> str:
    return f"{float(value):.6g}"


def odd_panel(found: Sequence[Odd], chosen: str = "") -> Panel:
    """A line for each tensor that holds what is no number; `chosen` is the fqn to mark."""
    n = len(found)
    facts = (
        words("dtype", [odd.dtype for odd in found]),
        words("shape", [human_shape(odd.shape) for odd in found]),
        Fact("NaN", "count", np.array([odd.nan for odd in found], np.int64)),
        Fact("Inf", "count", np.array([odd.inf for odd in found], np.int64)),
        words("first NaN", [_index(odd.first_nan) for odd in found]),
        words("first Inf", [_index(odd.first_inf) for odd in found]),
        words("trouble", [odd.trouble for odd in found]),
    )
    # A column that says nothing is left out.
    telling = [fact for fact in facts if fact.kind != "word" or any(fact.words)]
    lines, names = [(0.0, float(i), 1.0, 1.0) for i in range(n)], [odd.fqn for odd in found]
    drawn = marks(lines, [NEUTRAL] * n, [0] * n, [()] * n, names, telling)
    place = next((i for i, odd in enumerate(found) if odd.fqn == chosen), -1)
    tree = Tree(np.zeros(n, np.int16), np.zeros(n, np.uint8), place)
    return Panel("odd", "rows", "Tensors with NaN or Inf", "", 1, max(1, n), drawn, tree=tree)


def _index(index: tuple[int, ...] | None) -> str:
    return "" if index is None else f"[{', '.join(map(str, index))}]"
