"""The picture of a mesh: its ranks in a grid with named axes, and who holds the same.

Axes nest: the last lies along x, the one before along y, a third and fourth repeat the whole
grid along x and y. Plain data: no torch and no drawing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

from ckptlab.explorer.scene import FILLED, HATCHED, OUTLINED, Mark, Note, Panel, collect, count
from ckptlab.layout import Box, Layout, Mesh, Replicate

CELL, GAP = 1.0, 0.2
EDGE = GAP / 2
"""Room round the cells, for the outlines."""


def mesh_panel(
    layout: Layout, shape: tuple[int, ...] | None, owners: Mapping[int, int], title: str, name: str = "mesh"
) -> Panel:
    """The mesh, and what each rank holds of a tensor of `shape` (None: of no tensor in particular).

    A rank has the colour of its owner: the rank that stands for what it holds (`owners`, by rank;
    else itself). It is hatched if that is another. Ranks that hold the same stand in one outline
    where nobody else stands between them.
    """
    at = _places(layout.mesh)
    held = _held(layout, shape)
    groups = layout.replicas(shape) if shape is not None else ()
    frames = [frame for group in groups if len(group) > 1 and (frame := _frame(group, at, held))]
    cells = [
        _cell(rank, at[rank], held.get(rank), groups, layout.mesh, owners.get(rank, rank))
        for rank in layout.mesh.rank_list
    ]
    width = max(x for x, _ in at.values()) + CELL + EDGE
    height = max(y for _, y in at.values()) + CELL + EDGE
    return Panel(
        name,
        "devices",
        title,
        _caption(layout, shape, groups),
        width,
        height,
        collect([*frames, *cells]),
        _axis_notes(layout, width, height),
        rigid=True,
    )


def _places(mesh: Mesh) -> dict[int, tuple[float, float]]:
    """The upper left corner of every rank's cell."""
    steps, extent = [], {True: CELL, False: CELL}
    for level, n in enumerate(reversed(mesh.shape)):
        along_x = level % 2 == 0
        step = extent[along_x] + GAP * (1 + 2 * (level // 2))
        steps.append((step, along_x))
        extent[along_x] = step * (n - 1) + extent[along_x]
    steps.reverse()
    places = {}
    for rank, where in zip(mesh.rank_list, product(*map(range, mesh.shape)), strict=True):
        x = sum(i * step for i, (step, along_x) in zip(where, steps, strict=True) if along_x)
        y = sum(i * step for i, (step, along_x) in zip(where, steps, strict=True) if not along_x)
        places[rank] = (x + EDGE, y + EDGE)
    return places


def _held(layout: Layout, shape: tuple[int, ...] | None) -> dict[int, tuple[Box, ...]]:
    """The boxes of each rank that holds any."""
    if shape is None:
        return {}
    shards = layout.shards(shape)
    boxes: dict[int, list[Box]] = {}
    for i, rank in enumerate(shards.rank.tolist()):
        boxes.setdefault(rank, []).append(shards.boxes[i])
    return {rank: tuple(found) for rank, found in boxes.items()}


def _cell(
    rank: int,
    corner: tuple[float, float],
    held: tuple[Box, ...] | None,
    groups: tuple[tuple[int, ...], ...],
    mesh: Mesh,
    owner: int,
) -> Mark:
    where = ", ".join(f"{axis} {i}" for axis, i in zip(mesh.axes, mesh.coordinate(rank), strict=True))
    facts = {"at": where}
    if held is not None:
        facts["holds"] = words_of(held)
        others = [r for group in groups if rank in group for r in group if r != rank]
        facts["also held by"] = _listed(others) if others else "no other rank"
    elif groups:
        facts["holds"] = "nothing of this tensor"
    style = FILLED if owner == rank else HATCHED
    return Mark((*corner, CELL, CELL), (rank,), owner, style, f"rank {rank}", facts)


def words_of(boxes: tuple[Box, ...]) -> str:
    """Boxes as people write slices, the first two of many."""
    shown = " and ".join(repr(box).removeprefix("Box") for box in boxes[:2])
    return shown + (f" and {len(boxes) - 2} more" if len(boxes) > 2 else "")


def _frame(
    group: tuple[int, ...], at: Mapping[int, tuple[float, float]], held: Mapping[int, tuple[Box, ...]]
) -> Mark | None:
    """One outline round the group, if no other rank stands within it."""
    x0, y0 = min(at[r][0] for r in group), min(at[r][1] for r in group)
    x1, y1 = max(at[r][0] for r in group), max(at[r][1] for r in group)
    inside = [r for r, (x, y) in at.items() if x0 <= x <= x1 and y0 <= y <= y1]
    if len(inside) != len(group):
        return None
    pad = EDGE * 0.8
    facts = {"replica group": _listed(group), "holds": words_of(held[group[0]])}
    return Mark(
        (x0 - pad, y0 - pad, x1 - x0 + CELL + 2 * pad, y1 - y0 + CELL + 2 * pad),
        group,
        style=OUTLINED,
        facts=facts,
    )


def _axis_notes(layout: Layout, width: float, height: float) -> tuple[Note, ...]:
    names = [
        f"{axis} ({'copies' if isinstance(p, Replicate) else p})"
        for axis, p in zip(layout.mesh.axes, layout.placements, strict=True)
    ]
    along_x = " / ".join(names[::-1][0::2][::-1])
    along_y = " / ".join(names[::-1][1::2][::-1])
    notes = [Note(width / 2, -0.1, f"{along_x} →")]
    if along_y:
        notes.append(Note(-0.1, height / 2, f"← {along_y}", turned=True))
    return tuple(notes)


def _caption(layout: Layout, shape: tuple[int, ...] | None, groups: tuple[tuple[int, ...], ...]) -> str:
    axes = " x ".join(f"{axis} {n}" for axis, n in zip(layout.mesh.axes, layout.mesh.shape, strict=True))
    size = axes if len(layout.mesh.shape) > 1 else count(layout.mesh.size, "rank")
    if shape is None:
        return f"{size}."
    empty = layout.mesh.size - sum(map(len, groups))
    shared = [group for group in groups if len(group) > 1]
    parts = [f"{size}."]
    if shared:
        more = f"; {len(shared) - 4} more groups" if len(shared) > 4 else ""
        parts.append(f"Same shard on {'; on '.join(map(_listed, shared[:4]))}{more}.")
    if empty:
        parts.append(f"{count(empty, 'rank')} without any of it.")
    return " ".join(parts)


def _listed(ranks: Sequence[int], most: int = 8) -> str:
    """`rank 0`, `ranks 0 and 2`, `ranks 0, 1 and 2`; the first of many."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    *first, last = map(str, ranks[:most])
    if len(ranks) > most:
        return f"ranks {', '.join(first)}, {last} and {len(ranks) - most} more"
    return f"ranks {', '.join(first)} and {last}"
