"""The picture of who reads from whom: a tile for each source and target rank, as large as their bytes.

Sources are the ranks that wrote, or the files. Many are put together, so that the picture stays as large as
it can be read. Plain data: no torch and no drawing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ckptlab.explorer.held import listed
from ckptlab.explorer.scene import FILLED, NEUTRAL, Fact, Key, Marks, Note, Panel, Scene, categories
from ckptlab.layout.box import Ints
from ckptlab.metadata import Metadata, human_bytes
from ckptlab.plan.forecast import Forecast

MOST = 48
"""Rows, or columns, beyond which several sources, or targets, are put together."""

_LIT = 1 << 17
"""Ranks that tiles light up, in all; beyond, a tile stands for the first of its ranks."""

_NAMED = 16
"""Rows, or columns, up to which each is named."""

SIDE = 10.0


@dataclass(frozen=True, eq=False)
class Flow:
    """What target ranks read of sources: `nbytes[s, t]`, from source group s to target group t.

    Source i is in group `source_of[i]`, rank r in group `target_of[r]`. `sources` are their names.
    """

    nbytes: Ints
    sources: tuple[str, ...]
    source_of: Ints
    target_of: Ints
    by: str

    def targets(self, group: int) -> Ints:
        """The ranks of a group."""
        return np.flatnonzero(self.target_of == group)


def flow(metadata: Metadata, foretold: Forecast, by: str = "rank", most: int = MOST) -> Flow:
    """Bytes from each source (`by` the "rank" that wrote, or by "file") to each target rank.

    Where nobody knows who wrote, files are the sources.
    """
    writers = np.array(metadata.writers, np.int64)
    if by == "rank" and len(writers) and (writers >= 0).all():
        known, source = np.unique(writers, return_inverse=True)
        names = tuple(f"rank {rank}" for rank in known.tolist())
    else:
        by, source, names = "file", np.arange(len(metadata.files)), metadata.files
    source_of, target_of = _binned(len(names), most), _binned(foretold.world, most)
    groups = int(source_of.max(initial=-1)) + 1
    # Sources are put together before the groups of ranks become ranks: there may be very many of these.
    few = np.zeros((groups, len(foretold.table)), np.int64)
    column = source_of[source.ravel()]
    order = np.argsort(column, kind="stable")
    begin = np.searchsorted(column[order], np.unique(column))
    few[np.unique(column)] = np.add.reduceat(foretold.table[:, order], begin, axis=1).T if len(order) else 0
    nbytes = np.zeros((int(target_of.max(initial=-1)) + 1, groups), np.int64)
    np.add.at(nbytes, target_of, few.T[foretold.group])
    return Flow(nbytes.T, names, source_of, target_of, by)


def _binned(number: int, most: int) -> Ints:
    """The group of each of `number` things, neighbours together, all groups but the last equally large."""
    return np.arange(number) // max(1, -(-number // most))


def matrix_scene(metadata: Metadata, foretold: Forecast, by: str = "rank") -> Scene:
    """Who would read from whom."""
    seen = flow(metadata, foretold, by)
    panel = matrix_panel(seen)
    legend = (Key("colour: the rank that reads", 0), Key("size: bytes", NEUTRAL))
    text = "\n".join(["Who reads from whom", f"  {panel.caption}", *_lines(seen)])
    return Scene("", (panel,), legend, text)


def matrix_panel(seen: Flow, name: str = "matrix") -> Panel:
    """A tile for each pair that moves bytes; the largest fills its cell, others in proportion of area."""
    rows, columns = seen.nbytes.shape
    source, target = np.nonzero(seen.nbytes)
    moved = seen.nbytes[source, target]
    wide, high = (max(SIDE / max(rows, columns, 1), SIDE * 0.6 / max(n, 1)) for n in (columns, rows))
    # What is very little is still to be seen and pointed at.
    part = np.maximum(0.94 * np.sqrt(moved / max(1, int(moved.max(initial=1)))), 0.2)
    box = np.stack(
        [(target + (1 - part) / 2) * wide, (source + (1 - part) / 2) * high, part * wide, part * high], axis=1
    ).astype(np.float32)
    first_of = np.searchsorted(seen.target_of, np.arange(columns + 1))
    sizes = np.diff(first_of)[target]
    if sizes.sum() > _LIT:
        sizes = np.ones_like(sizes)
    first = np.concatenate([[0], np.cumsum(sizes)])
    turn = np.arange(first[-1]) - np.repeat(first[:-1], sizes)
    ranks = np.repeat(first_of[target], sizes) + turn
    said_s = tuple(_said(np.flatnonzero(seen.source_of == s), seen) for s in range(rows))
    said_t = tuple(listed(seen.targets(t).tolist()) for t in range(columns))
    facts = (
        Fact("from", "word", source, said_s),
        Fact("to", "word", target, said_t),
        Fact("bytes", "bytes", moved),
    )
    marks = Marks(
        box,
        categories(first_of[target]),
        np.full(len(source), FILLED, np.uint8),
        first.astype(np.int32),
        ranks.astype(np.int32),
        (),
        facts,
    )
    width, height = columns * wide, rows * high
    return Panel(
        name,
        "tiles",
        "Who reads from whom",
        _caption(seen),
        width,
        height,
        marks,
        _notes(seen, wide, high),
        rigid=True,
    )


def _said(sources: Ints, seen: Flow) -> str:
    names = [seen.sources[i] for i in sources.tolist()]
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


def _caption(seen: Flow) -> str:
    rows, columns = seen.nbytes.shape
    what = "the ranks that wrote" if seen.by == "rank" else "files"
    said = f"Down: {what}, {len(seen.sources):,}. Across: the ranks that read, {len(seen.target_of):,}."
    together = [
        f"{-(-many // few)} {what} to a {line}"
        for many, few, what, line in (
            (len(seen.sources), rows, f"{seen.by}s", "row"),
            (len(seen.target_of), columns, "ranks", "column"),
        )
        if many > few > 0
    ]
    return said + (f" {' and '.join(together)}." if together else "")


def _notes(seen: Flow, wide: float, high: float) -> tuple[Note, ...]:
    """What rows and columns stand for: each, if they are few, else the first and the last."""
    rows, columns = seen.nbytes.shape
    if not rows or not columns:
        return ()
    notes = []
    for t in _ticks(columns):
        inside = seen.targets(t)
        notes.append(Note((t + 0.5) * wide, -0.1, str(int(inside[0 if t < columns - 1 else -1]))))
    for s in _ticks(rows):
        inside = np.flatnonzero(seen.source_of == s)
        name = seen.sources[int(inside[0 if s < rows - 1 else -1])]
        notes.append(Note(-0.1, (s + 0.5) * high, name, "end"))
    notes.append(Note(columns * wide / 2, -0.5, "ranks that read →"))
    return tuple(notes)


def _ticks(number: int) -> list[int]:
    """Which of so many rows or columns are named."""
    return list(range(number)) if number <= _NAMED else [0, number - 1]


def _lines(seen: Flow, most: int = 12) -> list[str]:
    """The pairs that move most, in words."""
    flat = np.argsort(-seen.nbytes, axis=None, kind="stable")[:most]
    lines = []
    for s, t in zip(*np.unravel_index(flat, seen.nbytes.shape), strict=True):
        if moved := int(seen.nbytes[s, t]):
            source = _said(np.flatnonzero(seen.source_of == s), seen)
            lines.append(f"    {source} -> {listed(seen.targets(int(t)).tolist())}: {human_bytes(moved)}")
    return lines
