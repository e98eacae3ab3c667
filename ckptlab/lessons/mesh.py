"""Lesson 1: a mesh, and what an axis of it does to a tensor. Geometry alone: no files and no ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ckptlab.errors import LayoutError
from ckptlab.explorer.held import held, listed
from ckptlab.explorer.mesh import mesh_panel
from ckptlab.explorer.scene import FILLED, Key, Scene
from ckptlab.layout import Box, Layout
from ckptlab.lessons.ask import WAITING, Verdict, right, wrong
from ckptlab.metadata import Tensor
from ckptlab.widgets.tensor import mesh_view
from ckptlab.widgets.view import SceneView

QUARTER = Box((4, 3), (4, 3))
"""The lower right quarter of a tensor of shape `WHOLE`."""

WHOLE = (8, 6)
UNEVEN = (5, 6)
LEAST = 9
"""Elements that the busiest of four ranks must hold of a tensor of shape `UNEVEN`, at the best layout."""


def draw(layout: Layout, shape: tuple[int, ...]) -> SceneView:
    """A mesh, and what each of its ranks holds of a tensor of this shape."""
    return mesh_view(layout, Tensor("weight", "float32", shape))


def holders(layout: Layout, shape: tuple[int, ...], row: int) -> list[int]:
    """The ranks that hold elements of one row of a tensor."""
    shards = layout.shards(shape)
    low, high = shards.boxes.offsets[:, 0], shards.boxes.stops[:, 0]
    return sorted(set(shards.rank[(low <= row) & (row < high)].tolist()))


def cards(layouts: Sequence[Layout], shape: tuple[int, ...]) -> dict[str, Scene]:
    """Pictures to choose from, named A, B, C ...: in each the ranks that hold the same have one colour."""
    out = {}
    for name, layout in zip("ABCDEF", layouts, strict=False):
        mine = held(layout, shape)
        owners = dict(zip(mine.rank.tolist(), mine.owner.tolist(), strict=True))
        panel = replace(mesh_panel(layout, shape, owners, name), caption="", notes=())
        key = Key("one colour: ranks that hold the same", 0, FILLED)
        words = "; ".join(f"{listed(mine.rank[rows].tolist())} hold the same" for rows in mine.groups)
        out[name] = Scene("", (panel,), (key,), words)
    return out


def check_quarter(answer: Layout | None) -> Verdict:
    """Eight ranks, of which rank 5 holds exactly `QUARTER`."""
    if answer is None:
        return WAITING
    if (problem := _fits(answer, 8, WHOLE)) is not None:
        return problem
    mine = answer.shards(WHOLE).of(5)
    boxes = [mine.boxes[i] for i in range(len(mine))]
    if boxes != [QUARTER]:
        place = _place(answer, 5)
        return wrong(f"rank 5 stands at {place} and holds {_said(boxes)}, not {_said([QUARTER])}.")
    # Eight ranks and four quarters: there is another rank with the same.
    same = next(ranks for ranks in answer.replicas(WHOLE) if 5 in ranks)
    return right(
        f"rank 5 stands at {_place(answer, 5)} and holds {_said(boxes)}: {listed(same)} hold the same."
    )


def check_share(answer: Layout | None) -> Verdict:
    """Four ranks that hold a tensor of shape `UNEVEN` once, the busiest as little of it as can be."""
    if answer is None:
        return WAITING
    if (problem := _fits(answer, 4, UNEVEN)) is not None:
        return problem
    copies = _copies(answer, UNEVEN)
    if (copies != 1).any():
        return wrong(f"each element should be on one rank; element [0, 0] is on {int(copies[0, 0])}.")
    shards = answer.shards(UNEVEN)
    held_by = np.bincount(shards.rank, shards.boxes.numel, 4).astype(int)
    busiest = int(held_by.argmax())
    said = f"rank {busiest} holds {held_by[busiest]} elements, {_said([shards.of(busiest).boxes[0]])}"
    if held_by[busiest] <= LEAST:
        return right(f"{said}, and no rank more. No layout of four ranks does better.")
    return wrong(f"{said}, while rank {int(held_by.argmin())} holds {held_by.min()}. {LEAST} can be reached.")


def _fits(answer: Layout, ranks: int, shape: tuple[int, ...]) -> Verdict | None:
    """What makes a layout no answer at all."""
    if sorted(answer.mesh.rank_list) != list(range(ranks)):
        return wrong(
            f"{answer.mesh!r} has {listed(answer.mesh.rank_list)}; the puzzle has ranks 0 to {ranks - 1}."
        )
    try:
        answer.shards(shape)
    except LayoutError as error:
        return wrong(str(error))
    return None


def _copies(layout: Layout, shape: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """How many ranks hold each element."""
    copies = np.zeros(shape, np.int64)
    boxes = layout.shards(shape).boxes
    for i in range(len(boxes)):
        box = boxes[i]
        copies[tuple(slice(o, o + n) for o, n in zip(box.offset, box.shape, strict=True))] += 1
    return copies


def _place(layout: Layout, rank: int) -> str:
    where = zip(layout.mesh.axes, layout.mesh.coordinate(rank), strict=True)
    return ", ".join(f"{axis} {i}" for axis, i in where)


def _said(boxes: Sequence[Box]) -> str:
    return " and ".join(repr(box).removeprefix("Box") for box in boxes) or "nothing"
