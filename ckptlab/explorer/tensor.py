"""The picture of one tensor: its boxes as tiles, true to scale along each dim.

As it lies in a checkpoint (chunks, by the rank that wrote them) and as it would lie on a mesh
(shards, by the ranks that hold them). Plain data: no torch and no drawing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ckptlab.explorer.scene import FILLED, NEUTRAL, Fact, Marks, Note, Panel, count
from ckptlab.layout import Boxes, Layout, overlaps
from ckptlab.layout.box import Ints
from ckptlab.metadata import ITEMSIZE, Metadata, Tensor, human_shape

MANY = 64
"""Tiles beyond which none is labelled."""

LONG, SHORT = 10.0, 6.0


@dataclass(frozen=True, eq=False)
class _Tiles:
    """One tile a box: `colour` is a rank (-1: nobody knows); tile i is of `ranks[first[i]:first[i + 1]]`."""

    colour: Ints
    first: Ints
    ranks: Ints
    facts: Sequence[Fact]


@dataclass(frozen=True)
class _Plane:
    """Which dims of a tensor lie along y and x (-1: none), and how elements become units."""

    shape: tuple[int, ...]
    y: int
    x: int
    height: float
    width: float

    def place(self, boxes: Boxes) -> npt.NDArray[np.float32]:
        """Rectangles `(n, 4)` of boxes, in units."""
        out = np.empty((len(boxes), 4), np.float32)
        for column, dim, extent in ((0, self.x, self.width), (1, self.y, self.height)):
            if dim < 0 or not self.shape[dim]:
                out[:, column], out[:, column + 2] = 0, extent
            else:
                unit = extent / self.shape[dim]
                out[:, column] = boxes.offsets[:, dim] * unit
                out[:, column + 2] = boxes.shapes[:, dim] * unit
        return out


def _plane(shape: tuple[int, ...], boxes: Boxes, dims: tuple[int, int] | None) -> _Plane:
    """The dims given, or those two along which the boxes differ most; y before x."""
    if dims is None:
        cut = [len(np.unique(boxes.offsets[:, d])) > 1 for d in range(len(shape))]
        by_need = sorted(range(len(shape)), key=lambda d: (not cut[d], shape[d] <= 1, -d))
        chosen = sorted(by_need[:2])
        y, x = (chosen[0], chosen[1]) if len(chosen) == 2 else (-1, chosen[0] if chosen else -1)
    else:
        y, x = dims
    rows, columns = (shape[y] if y >= 0 else 1), (shape[x] if x >= 0 else 1)
    if len(shape) < 2:
        return _Plane(shape, y, x, 1.6, LONG if shape else 1.6)
    ratio = min(max(rows / max(columns, 1), SHORT / LONG), LONG / SHORT)
    side = LONG / max(ratio, 1 / ratio) ** 0.5
    return _Plane(shape, y, x, side * ratio**0.5, side / ratio**0.5)


def stored_panel(
    metadata: Metadata, fqn: str, dims: tuple[int, int] | None = None, name: str = "tensor"
) -> Panel:
    """A tensor's chunks, coloured by the rank that wrote each.

    Where the writer recorded the layout, a chunk lights up with every rank that held it; else with
    its writer alone.
    """
    row = metadata.rows[metadata.tensor(fqn).fqn]
    tensor, boxes, rows = metadata.tensors[row], metadata.boxes(row), metadata.chunk_rows(row)
    file = metadata.chunks.file[rows]
    writer = metadata.chunk_writers(row)
    layout = metadata.layouts.get(fqn)
    first, ranks = _holders(boxes, writer, layout, tensor)
    facts = [
        _box_fact(boxes),
        Fact("bytes", "bytes", boxes.numel * ITEMSIZE[tensor.dtype]),
        _rank_fact("written by", writer),
        Fact("file", "word", file.astype(np.int64), metadata.files),
        Fact("at byte", "count", metadata.chunks.start[rows]),
    ]
    if layout is not None:
        facts.insert(3, _group_fact("held by", first, ranks))
    return _panel(
        name,
        "Its chunks, as stored",
        tensor,
        boxes,
        dims,
        _Tiles(writer, first, ranks, facts),
        f"{count(len(boxes), 'chunk')} in {count(len(set(file.tolist())), 'file')}",
    )


def held_panel(
    tensor: Tensor, layout: Layout, title: str, dims: tuple[int, int] | None = None, name: str = "target"
) -> Panel:
    """A tensor's distinct shards on a mesh, coloured by the lowest rank that holds each."""
    found = layout.shards(tensor.shape).distinct()
    boxes, copies = found.boxes, found.holders
    facts = [
        _box_fact(boxes),
        Fact("bytes", "bytes", boxes.numel * ITEMSIZE[tensor.dtype]),
        _group_fact("wanted by", found.first, found.rank),
    ]
    return _panel(
        name,
        title,
        tensor,
        boxes,
        dims,
        _Tiles(found.rank[found.first[:-1]], found.first, found.rank, facts),
        count(len(boxes), "shard")
        + (f", each on {int(copies.max())} ranks" if len(copies) and copies.max() > 1 else ""),
    )


def _holders(boxes: Boxes, writer: Ints, layout: Layout | None, tensor: Tensor) -> tuple[Ints, Ints]:
    if layout is None:
        return np.arange(len(boxes) + 1), writer
    shards = layout.shards(tensor.shape)
    meet = overlaps(boxes, shards.boxes)
    pairs = np.unique(np.stack([meet.a, shards.rank[meet.b]], axis=1), axis=0).reshape(-1, 2)
    holders = np.bincount(pairs[:, 0], minlength=len(boxes))
    return np.concatenate([[0], np.cumsum(holders)]), pairs[:, 1]


def _panel(
    name: str,
    title: str,
    tensor: Tensor,
    boxes: Boxes,
    dims: tuple[int, int] | None,
    tiles: _Tiles,
    said: str,
) -> Panel:
    plane = _plane(tensor.shape, boxes, dims)
    colour = tiles.colour
    labels = tuple(f"rank {r}" if r >= 0 else "?" for r in colour.tolist()) if len(colour) <= MANY else ()
    drawn = Marks(
        plane.place(boxes),
        np.where(colour < 0, NEUTRAL, colour).astype(np.int16),
        np.full(len(colour), FILLED, np.uint8),
        tiles.first.astype(np.int32),
        tiles.ranks.astype(np.int32),
        labels,
        tuple(tiles.facts),
    )
    shape = human_shape(tensor.shape)
    flat = [d for d in range(len(tensor.shape)) if d not in (plane.y, plane.x)]
    unseen = f" Not drawn: {'dim' if len(flat) == 1 else 'dims'} {', '.join(map(str, flat))}." if flat else ""
    caption = f"{tensor.dtype}, {shape}: {said}.{unseen}"
    notes = tuple(_ticks(plane, boxes))
    return Panel(name, "tiles", title, caption, plane.width, plane.height, drawn, notes, rigid=True)


def _ticks(plane: _Plane, boxes: Boxes) -> list[Note]:
    """The edges of the boxes along both dims, as far as they can be read, and the dims' names."""
    notes = []
    for dim, extent, along_x in ((plane.x, plane.width, True), (plane.y, plane.height, False)):
        if dim < 0:
            continue
        edges = np.unique(np.concatenate([boxes.offsets[:, dim], boxes.stops[:, dim], [0, plane.shape[dim]]]))
        if len(edges) > 9:
            edges = edges[[0, -1]]
        for edge in edges.tolist():
            where = edge / max(plane.shape[dim], 1) * extent
            if along_x:
                notes.append(Note(where, -0.1, str(edge)))
            else:
                notes.append(Note(-0.1, where, str(edge), "end"))
    return notes


def _box_fact(boxes: Boxes) -> Fact:
    return Fact("elements", "box", np.concatenate([boxes.offsets, boxes.shapes], axis=1))


def _rank_fact(label: str, rank: Ints) -> Fact:
    known = np.unique(rank)
    return Fact(
        label,
        "word",
        np.searchsorted(known, rank),
        tuple(f"rank {r}" if r >= 0 else "unknown" for r in known.tolist()),
    )


def _group_fact(label: str, first: Ints, ranks: Ints) -> Fact:
    """Lists of ranks in words, each different list once."""
    index: dict[tuple[int, ...], int] = {}
    rows = [
        index.setdefault(tuple(ranks[a:b].tolist()), len(index))
        for a, b in zip(first[:-1].tolist(), first[1:].tolist(), strict=True)
    ]
    words = tuple(
        ("ranks " if len(group) != 1 else "rank ")
        + ", ".join(map(str, group[:8]))
        + (" ..." if len(group) > 8 else "")
        for group in index
    )
    return Fact(label, "word", np.array(rows, np.int64), words)
