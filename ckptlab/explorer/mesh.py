"""The picture of a mesh: its ranks in a grid with named axes, and who holds the same.

Ranks that hold the same have one colour and, where they are neighbours, one outline; ranks of one
host stand on one ground. Plain data: no torch and no drawing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ckptlab.errors import LayoutError
from ckptlab.explorer.grid import CELL, GAP, Grid, grid
from ckptlab.explorer.held import Held, copies, held, listed, together
from ckptlab.explorer.scene import (
    FILLED,
    GROUND,
    HATCHED,
    NEUTRAL,
    OUTLINED,
    Fact,
    Marks,
    Note,
    Panel,
    categories,
    count,
    words,
)
from ckptlab.layout import Layout, Replicate
from ckptlab.layout.box import Ints

MANY = 1024
"""Ranks beyond which neither groups nor hosts are framed: at that size the frames would hide the ranks."""

_TICKS = 32
"""Of more steps than this along an axis none bears its number."""

_FEW = 64
"""Ranks up to which a host's name has room on its ground."""

_Frames = list[tuple[tuple[float, float, float, float], Ints]]


def mesh_panel(
    layout: Layout,
    shape: tuple[int, ...] | None,
    owners: Mapping[int, int],
    title: str,
    name: str = "mesh",
    hosts: int = 0,
    also: Mapping[str, Sequence[str]] | None = None,
) -> Panel:
    """The mesh, and what each rank holds of a tensor of `shape` (None: of no tensor in particular).

    A rank has the colour of its owner: the rank that stands for what it holds (`owners`, by rank;
    else itself). It is hatched if that is another, and hollow if it holds nothing. Ranks that hold
    the same stand in one outline where nobody else stands between them. `hosts` is the number of
    ranks on each host (0: nobody knows); `also` are further facts, one word a rank in the order of
    the mesh. Raises `LayoutError` for a negative number of ranks on a host.
    """
    if hosts < 0:
        raise LayoutError(f"a host has one rank or more, not {hosts}")
    mine = held(layout, shape)
    host = mine.rank // hosts if hosts else None
    roomy = hosts and len(mine.rank) <= _FEW
    cells = grid(layout.mesh.shape, mine.place, host, GAP * 2 if hosts else GAP / 2)
    grounds = _grounds(cells, host, GAP * 1.7 if roomy else GAP * 0.7)
    frames = _frames(cells, [g for g in mine.groups if len(g) > 1], GAP * 0.4, GAP * 0.4)
    labels = [f"host {int(host[rows[0]])}" if roomy and host is not None else "" for _, rows in grounds]
    labels += [""] * len(frames) + [f"rank {rank}" for rank in mine.rank.tolist()]
    facts = _facts(layout, mine, shape is not None, host, grounds, frames, also or {})
    drawn = _marks(mine, shape is not None, cells, owners, grounds, frames, labels, facts)
    caption = _caption(layout, mine, shape is not None, hosts, bool(grounds))
    notes = (*_ticks(layout, mine, cells), *_titles(layout, cells))
    return Panel(name, "devices", title, caption, cells.width, cells.height, drawn, notes, rigid=True)


def _frames(cells: Grid, groups: Sequence[Ints], pad: float, top: float) -> _Frames:
    """One box round each group that stands together."""
    if len(cells.spot) > MANY:
        return []
    found = [(box, rows) for rows in groups if (box := cells.framed(rows))]
    return [((x - pad, y - top, w + 2 * pad, h + pad + top), rows) for (x, y, w, h), rows in found]


def _grounds(cells: Grid, host: Ints | None, top: float) -> _Frames:
    if host is None:
        return []
    order = np.argsort(host, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(host[order])) + 1)
    return _frames(cells, groups, GAP * 0.7, top)


def _marks(
    mine: Held,
    of_tensor: bool,
    cells: Grid,
    owners: Mapping[int, int],
    grounds: _Frames,
    frames: _Frames,
    labels: Sequence[str],
    facts: Sequence[Fact],
) -> Marks:
    """Grounds, then frames, then the ranks."""
    around = [*grounds, *frames]
    owner = np.array([owners.get(rank, rank) for rank in mine.rank.tolist()])
    hollow = (mine.content < 0) & of_tensor
    style = np.where(hollow, OUTLINED, np.where(owner == mine.rank, FILLED, HATCHED))
    spots = np.concatenate([cells.spot, np.full_like(cells.spot, CELL)], axis=1)
    sizes = [len(rows) for _, rows in around] + [1] * len(mine.rank)
    return Marks(
        np.concatenate([np.array([box for box, _ in around]).reshape(-1, 4), spots]).astype(np.float32),
        categories(np.concatenate([np.full(len(around), NEUTRAL), np.where(hollow, NEUTRAL, owner)])),
        np.concatenate([[GROUND] * len(grounds) + [OUTLINED] * len(frames), style]).astype(np.uint8),
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32),
        np.concatenate([*(mine.rank[rows] for _, rows in around), mine.rank]).astype(np.int32),
        tuple(labels),
        tuple(facts),
    )


def _facts(
    layout: Layout,
    mine: Held,
    of_tensor: bool,
    host: Ints | None,
    grounds: _Frames,
    frames: _Frames,
    also: Mapping[str, Sequence[str]],
) -> list[Fact]:
    """What pointing tells of grounds, frames and ranks, in this order."""
    before, framed, n = len(grounds), len(frames), len(mine.rank)
    place = np.concatenate([np.full((before + framed, mine.place.shape[1]), -1), mine.place])
    facts = []
    if frames:
        groups = [listed(mine.rank[rows].tolist()) for _, rows in frames]
        facts.append(words("replica group", [""] * before + groups + [""] * n))
    if of_tensor:
        nothing = "nothing of this tensor"
        holds = [mine.said[c] if c >= 0 else nothing for c in mine.content.tolist()]
        facts.append(words("holds", [""] * before + [holds[rows[0]] for _, rows in frames] + holds))
    facts.append(Fact("at", "place", place, layout.mesh.axes))
    rest = [""] * (before + framed)
    if of_tensor:
        facts.append(words("also held by", rest + mine.others))
        if 0 < len(copies(layout)) < len(layout.mesh.shape):
            facts.append(words("shard group", rest + together(layout, mine)))
    if host is not None:
        named = [f"host {int(host[rows[0]])}: {listed(mine.rank[rows].tolist())}" for _, rows in grounds]
        own = [f"host {h}" for h in host.tolist()]
        facts.append(words("host", named + [""] * framed + own))
    return facts + [words(label, rest + list(values)) for label, values in also.items()]


def _ticks(layout: Layout, mine: Held, cells: Grid) -> list[Note]:
    """Numbers along the axes that are not broken into lines: the inner two plain, the outer by name."""
    shape, axes = layout.mesh.shape, layout.mesh.axes
    notes = []
    for axis, n in enumerate(shape):
        level, way = divmod(len(shape) - 1 - axis, 2)
        if n > _TICKS or cells.line[axis] < n or len(shape) == 1:
            continue
        # One tick for each step of this axis within each step of those round it.
        within = [a for a in range(axis + 1) if (len(shape) - 1 - a) % 2 == way]
        number = np.ravel_multi_index([mine.place[:, a] for a in within], [shape[a] for a in within])
        for step in range(int(number.max()) + 1):
            spots = cells.spot[number == step, way]
            middle = float(spots.min() + spots.max() + CELL) / 2
            text = f"{axes[axis]} {step % n}" if level else str(step % n)
            lane = -0.1 * (level + 1)
            notes.append(
                Note(middle, lane, text) if way == 0 else Note(lane, middle, text, "middle", bool(level))
            )
    return notes


def _titles(layout: Layout, cells: Grid) -> tuple[Note, ...]:
    shape = layout.mesh.shape
    names = [
        f"{axis} ({'copies' if isinstance(p, Replicate) else p})" + (f", {line} a line" if line < n else "")
        for axis, p, n, line in zip(layout.mesh.axes, layout.placements, shape, cells.line, strict=True)
    ]
    along_x = " / ".join(names[::-1][0::2][::-1])
    along_y = " / ".join(names[::-1][1::2][::-1])
    notes = [Note(cells.width / 2, -1, f"{along_x} →")]
    if along_y:
        notes.append(Note(-1, cells.height / 2, f"← {along_y}", turned=True))
    return tuple(notes)


def _caption(layout: Layout, mine: Held, of_tensor: bool, hosts: int, grounds: bool) -> str:
    axes = " x ".join(f"{axis} {n}" for axis, n in zip(layout.mesh.axes, layout.mesh.shape, strict=True))
    parts = [f"{axes if len(layout.mesh.shape) > 1 else count(layout.mesh.size, 'rank')}."]
    if hosts:
        number = len(np.unique(mine.rank // hosts))
        apart = "" if grounds or len(mine.rank) > MANY else ", which stand apart here"
        parts.append(f"{count(number, 'host')} of {count(hosts, 'rank')}{apart}.")
    if of_tensor:
        shared = [mine.rank[rows].tolist() for rows in mine.groups if len(rows) > 1]
        if 0 < len(shared) <= 4:
            parts.append(f"Same shard on {'; on '.join(map(listed, shared))}.")
        elif shared:
            sizes = {len(ranks) for ranks in shared}
            size = f"{min(sizes):,}" if len(sizes) == 1 else f"{min(sizes):,} to {max(sizes):,}"
            parts.append(f"{len(shared):,} groups of {size} ranks hold the same, as {listed(shared[0])}.")
        if len(mine.empty):
            parts.append(f"{count(len(mine.empty), 'rank')} without any of it.")
    return " ".join(parts)
