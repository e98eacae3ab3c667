"""Two dims of a tensor laid flat: which ones, at which index of the others, and where elements stand.

Boxes in, rectangles out. It knows no rank, no file and no drawing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ckptlab.errors import LayoutError
from ckptlab.explorer.scene import Note, Plane
from ckptlab.layout import Boxes
from ckptlab.layout.box import Ints

LONG, SHORT, THIN = 10.0, 6.0, 1.6
"""Units: a side that is much longer than the other, that other, and a vector across."""

Dims = tuple[int, int]
"""The dims along y and along x."""

_TICKS = 9


def plane(shape: tuple[int, ...], boxes: Boxes, dims: Dims | None = None, at: tuple[int, ...] = ()) -> Plane:
    """The dims given, or those two along which the boxes differ most, y before x; `at[d]` of any other dim d.

    `()` is the beginning of each. Raises `LayoutError` for a dim or an index that is not there.
    """
    ndim = len(shape)
    y, x = _most_cut(shape, boxes) if dims is None else _chosen(shape, dims)
    if at and (len(at) != ndim or not all(0 <= i < max(n, 1) for i, n in zip(at, shape, strict=True))):
        raise LayoutError(f"no index {list(at)} in a tensor of shape {list(shape)}")
    index = tuple(0 if d in (x, y) else i for d, i in enumerate(at or (0,) * ndim))
    if ndim < 2:
        return Plane(shape, x, y, index, LONG if ndim else THIN, THIN)
    ratio = min(max(shape[y] / max(shape[x], 1), SHORT / LONG), LONG / SHORT)
    side = LONG / max(ratio, 1 / ratio) ** 0.5
    return Plane(shape, x, y, index, side / ratio**0.5, side * ratio**0.5)


def _most_cut(shape: tuple[int, ...], boxes: Boxes) -> Dims:
    cut = [
        len(boxes) > 0 and bool((boxes.offsets[:, d] != boxes.offsets[0, d]).any()) for d in range(len(shape))
    ]
    by_need = sorted(range(len(shape)), key=lambda d: (not cut[d], shape[d] <= 1, -d))
    chosen = sorted(by_need[:2])
    return (chosen[0], chosen[1]) if len(chosen) == 2 else (-1, chosen[0] if chosen else -1)


def _chosen(shape: tuple[int, ...], dims: Dims) -> Dims:
    y, x = dims
    if len(shape) < 2 or y == x or not (0 <= y < len(shape) and 0 <= x < len(shape)):
        raise LayoutError(f"a tensor of shape {list(shape)} has no two dims {y} and {x} to draw")
    return y, x


def others(flat: Plane) -> tuple[int, ...]:
    """The dims that are drawn at one index."""
    return tuple(d for d in range(len(flat.shape)) if d not in (flat.x, flat.y))


def met(flat: Plane, boxes: Boxes) -> Ints:
    """Which boxes the plane goes through; empty ones, too, where it would."""
    inside = np.ones(len(boxes), bool)
    for dim in others(flat):
        index, low, high = flat.at[dim], boxes.offsets[:, dim], boxes.stops[:, dim]
        inside &= (low <= index) & ((index < high) | (low == high))
    return np.flatnonzero(inside)


def placed(flat: Plane, boxes: Boxes) -> npt.NDArray[np.float32]:
    """Rectangles `(n, 4)` of boxes, in units of the plane."""
    out = np.empty((len(boxes), 4), np.float32)
    for column, dim, extent in ((0, flat.x, flat.width), (1, flat.y, flat.height)):
        if dim < 0 or not flat.shape[dim]:
            out[:, column], out[:, column + 2] = 0, extent
        else:
            unit = extent / flat.shape[dim]
            out[:, column] = boxes.offsets[:, dim] * unit
            out[:, column + 2] = boxes.shapes[:, dim] * unit
    return out


def ticks(flat: Plane, boxes: Boxes) -> list[Note]:
    """The edges of the boxes along both dims, as far as they can be read, and the dims' names."""
    notes = []
    for dim, extent, along_x in ((flat.x, flat.width, True), (flat.y, flat.height, False)):
        if dim < 0:
            continue
        size = flat.shape[dim]
        edges = np.unique(np.concatenate([boxes.offsets[:, dim], boxes.stops[:, dim], [0, size]]))
        if len(edges) > _TICKS:
            edges = edges[[0, -1]]
        # Both ends first: where there is no room for all, they are what is left.
        for edge in dict.fromkeys([0, size, *edges.tolist()]):
            where = edge / max(size, 1) * extent
            notes.append(Note(where, -0.1, str(edge)) if along_x else Note(-0.1, where, str(edge), "end"))
        if len(flat.shape) > 1:
            middle = extent / 2
            notes.append(
                Note(middle, -0.2, f"dim {dim} →")
                if along_x
                else Note(-0.2, middle, f"← dim {dim}", turned=True)
            )
    return notes


def sliced(flat: Plane, boxes: Boxes) -> str:
    """What the plane shows of a tensor of more dims, in words: `[3, :, :, 0]`; "" for fewer."""
    rest = others(flat)
    if not rest:
        return ""
    where = ", ".join(str(flat.at[d]) if d in rest else ":" for d in range(len(flat.shape)))
    cut = [d for d in rest if len(boxes) and bool((boxes.shapes[:, d] != flat.shape[d]).any())]
    return f"[{where}]" + ("" if cut else ", as at every other index")
