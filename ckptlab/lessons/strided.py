"""Lesson 7: two axes that cut the same rows, and the strided shard that comes of it.

It asks the geometry and real ranks; what it draws are scenes. Torch is imported where ranks run.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from ckptlab.explorer.held import listed
from ckptlab.explorer.scene import HATCHED, Key, Scene
from ckptlab.explorer.tensor import held_panel
from ckptlab.layout import Layout
from ckptlab.lessons.ask import WAITING, Verdict, right, wrong
from ckptlab.live import Context
from ckptlab.metadata import Tensor

WIDTH = 3
"""Columns of the weight; its rows are what is cut."""


@dataclass(frozen=True)
class Rows:
    """The rows of a weight that lie in one rank's own memory, and what DTensor calls their placements."""

    rank: int
    rows: tuple[int, ...]
    placements: str

    def __repr__(self) -> str:
        return f"rank {self.rank}: {said(self.rows)}, {self.placements}"


@dataclass(frozen=True)
class Both:
    """What stock DCP and what ckptlab said to the same save."""

    stock: str
    ckptlab: str

    def __repr__(self) -> str:
        return f"stock DCP: {self.stock}\nckptlab:   {self.ckptlab}"


def fsdp_over_tp(context: Context, rows: int) -> Rows:
    """A linear layer of so many outputs, cut by TP and then by FSDP2: what this rank holds of its weight.

    The mesh is dp=2, tp=(world / 2). Every element of row i is i, so that a row can be told by its value.
    """
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    kind = context.device.partition(":")[0]
    mesh = init_device_mesh(kind, (2, context.world // 2), mesh_dim_names=("dp", "tp"))
    layer = torch.nn.Linear(WIDTH, rows, bias=False, device=context.device)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(rows)[:, None].expand(rows, WIDTH))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parallelize_module(layer, mesh["tp"], ColwiseParallel())
        fully_shard(layer, mesh=mesh["dp"])
    return _of(context.rank, layer.weight)


def under(context: Context, layout: Layout, rows: int) -> Rows:
    """The same weight put under a layout by torch's own `distribute_tensor`: what this rank holds of it."""
    return _of(context.rank, _distributed(context, layout, rows))


def saved_by_both(context: Context, layout: Layout, rows: int, path: str) -> Both:
    """What stock DCP and ckptlab say when the weight is saved under a layout, each below `path`."""
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict_saver import save

    from ckptlab import engine

    state = {"weight": _distributed(context, layout, rows)}
    first = "saved"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # It tells the same once more in its log.
        logging.disable(logging.WARNING)
        try:
            save(state, checkpoint_id=f"{path}/stock")
        except CheckpointException as error:
            first = f"refused: {next(iter(error.failures.values()))[0]}"
        finally:
            logging.disable(logging.NOTSET)
    engine.save(state, f"{path}/ckptlab")
    mine = len(layout.shards((rows, WIDTH), [context.rank]))
    return Both(first, f"saved; rank {context.rank} holds {mine} boxes, and each is a chunk")


def _distributed(context: Context, layout: Layout, rows: int) -> object:
    import torch
    from torch.distributed.tensor import distribute_tensor

    from ckptlab.engine.made import device_mesh, torch_placements

    mesh = device_mesh(layout.mesh, context.device.partition(":")[0])
    weight = torch.arange(float(rows), device=context.device)[:, None].expand(rows, WIDTH).contiguous()
    return distribute_tensor(weight, mesh, torch_placements(layout))


def _of(rank: int, weight: object) -> Rows:
    local = weight.to_local()  # type: ignore[attr-defined]
    rows = tuple(int(row) for row in local[:, 0].tolist())
    return Rows(rank, rows, ", ".join(map(repr, weight.placements)))  # type: ignore[attr-defined]


# ---------------------------------------------------------------- geometry and pictures


def rows_of(layout: Layout, rows: int) -> dict[int, tuple[int, ...]]:
    """The rows of the weight that each rank holds by geometry alone, in the order of its own memory."""
    found = {}
    for rank in layout.mesh.rank_list:
        boxes = layout.shards((rows, WIDTH), [rank]).boxes
        spans = zip(boxes.offsets[:, 0].tolist(), boxes.stops[:, 0].tolist(), strict=True)
        found[rank] = tuple(row for low, high in spans for row in range(low, high))
    return found


def agree(layout: Layout, rows: int, found: Sequence[Rows]) -> Verdict:
    """Whether real ranks hold the very rows that the geometry tells."""
    told = rows_of(layout, rows)
    apart = [mine for mine in found if mine.rows != told[mine.rank]]
    if not apart:
        return right(f"all {len(found)} ranks hold the very rows of the {rows} that {layout} tells.")
    mine = apart[0]
    return wrong(f"rank {mine.rank} holds {said(mine.rows)}, and {layout} tells {said(told[mine.rank])}.")


def three_ways(rows: int) -> dict[str, Scene]:
    """Three layouts of the weight on dp=2, tp=2, to choose from: A, B and C."""
    told = {
        "A": "Shard(0), Shard(0)",
        "B": "StridedShard(0, split_factor=2), Shard(0)",
        "C": f"StridedShard(0, split_factor={rows // 2}), Shard(0)",
    }
    layouts = {name: Layout.parse("dp=2, tp=2", placements) for name, placements in told.items()}
    return {name: cuts_scene(rows, {name: layout}, "") for name, layout in layouts.items()}


def cuts_scene(rows: int, layouts: dict[str, Layout], title: str) -> Scene:
    """The weight under one layout after the other, side by side; each under its own words."""
    tensor = Tensor("weight", "float32", (rows, WIDTH))
    panels = tuple(
        held_panel(tensor, layout, words, name=f"cut{i}") for i, (words, layout) in enumerate(layouts.items())
    )
    legend = [Key("colour: the first rank that holds it", 0)]
    if any((panel.marks.style == HATCHED).any() for panel in panels):
        legend.append(Key("hatched: one of several copies", 0, HATCHED))
    lines = [title, *(f"  {panel.title}: {panel.caption}" for panel in panels)]
    return Scene(title, panels, tuple(legend), "\n".join(lines))


def said(rows: Sequence[int]) -> str:
    """`rows 4, 5`; `no rows`."""
    return f"row{'s' * (len(rows) > 1)} {', '.join(map(str, rows))}" if rows else "no rows"


# ---------------------------------------------------------------- puzzles


def check_plain(answer: Layout | None) -> Verdict:
    """A layout of plain `Shard`s on four ranks that gives each what FSDP2 over TP on 2 x 2 gives it."""
    if answer is None:
        return WAITING
    if any(type(placement).__name__ == "StridedShard" for placement in answer.placements):
        return wrong("that has a strided shard in it. Say it with Shard(0) and Shard(0), on another mesh.")
    if sorted(answer.mesh.rank_list) != [0, 1, 2, 3]:
        return wrong(f"{answer.mesh} is not of the ranks 0 to 3.")
    strided = Layout.parse("dp=2, tp=2", "StridedShard(0, split_factor=2), Shard(0)")
    for rows in (8, 9, 5):
        wanted, given = rows_of(strided, rows), rows_of(answer, rows)
        for rank in range(4):
            if given[rank] != wanted[rank]:
                return wrong(
                    f"of {rows} rows, rank {rank} gets {said(given[rank])} and should get "
                    f"{said(wanted[rank])}."
                )
    return right(
        "every rank gets the same rows, of 8, of 9 and of 5. A strided shard is a plain one whose axes are "
        "listed in another order than they cut."
    )


def check_empty(answer: int | None) -> Verdict:
    """The largest number of rows of which some rank of FSDP2 over TP, dp=2 and tp=4, holds nothing."""
    if answer is None:
        return WAITING
    if answer < 1:
        return wrong("a weight has at least one row.")
    layout = Layout.parse("dp=2, tp=4", "StridedShard(0, split_factor=4), Shard(0)")
    held = rows_of(layout, answer)
    if all(held.values()):
        least = min(held, key=lambda rank: len(held[rank]))
        return wrong(
            f"of {answer} rows every rank holds some; the least has rank {least}: {said(held[least])}."
        )
    empty = listed([rank for rank, rows in held.items() if not rows])
    for more in range(answer + 1, answer + 64):
        if not all(rows_of(layout, more).values()):
            return wrong(f"of {answer} rows nothing is left for {empty}, true; but there is a larger number.")
    return right(f"of {answer} rows nothing is left for {empty}, and of more rows every rank holds some.")
