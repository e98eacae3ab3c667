"""A bound transform on a rank's own memory: what it holds of a target, as views that stored tensors fill.

All else of a load then goes on as if the target had asked for those. It plans nothing and reads no byte.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch

from ckptlab.engine.held import Cut, Held
from ckptlab.errors import LayoutError
from ckptlab.layout import Shards
from ckptlab.plan.bind import Bound
from ckptlab.plan.regrid import Shape
from ckptlab.plan.transform import POLICIES, Policy, Transform
from ckptlab.plan.way import Carried, Way, carried


def refuse_without_values(bound: Bound, empty: Collection[str]) -> None:
    """`LayoutError` if elements shall stay as they are of keys that are `empty`: made a moment ago."""
    kept = {fqn: boxes for fqn, boxes in bound.kept.items() if fqn in empty}
    if kept:
        lines = "\n".join(f"  {fqn}: {', '.join(map(str, boxes))}" for fqn, boxes in kept.items())
        raise LayoutError(
            "the transform lets elements stay as they are, but on the meta device they have no values; "
            f"give these keys memory, and values, first:\n{lines}",
            list(kept),
        )


def more_lenient(dtype: Policy, transform: Transform | None) -> Policy:
    """The dtype policy of a load: its own or its transform's, whichever allows more."""
    return dtype if transform is None else max(dtype, transform.dtype, key=POLICIES.index)


def sources(bound: Bound, held: Mapping[str, Held], keys: Sequence[str]) -> list[Held]:
    """What this rank holds of the targets `keys`, as memory of the stored tensors that fill them.

    Raises `LayoutError` if a shard would be too many boxes of a stored tensor.
    """
    known: dict[tuple[Way, int, tuple[Shape, ...], str, Shape], tuple[Carried, Cut]] = {}
    found = []
    for fqn in keys:
        for fill in bound.fills.get(fqn, ()):
            one = held[fqn]
            stored, mine, dtype = fill.stored, one.cut.mine, one.cut.dtype
            if fill.way.plain:
                found.append(one._replace(fqn=stored.fqn))
                continue
            strides = tuple(memory.stride() for memory in one.memory[: len(mine)])
            key = (fill.way, id(mine), strides, dtype, stored.shape)
            if key not in known:
                moved = _carried(fill.way, mine, strides, f"{fqn!r}, from {stored.fqn!r}")
                known[key] = moved, Cut(dtype, stored.shape, moved.shards, moved.shards)
            moved, cut = known[key]
            found.append(Held(stored.fqn, cut, _views(moved, one.memory)))
    return found


def _carried(way: Way, mine: Shards, strides: tuple[Shape, ...], what: str) -> Carried:
    try:
        return carried(way, mine, strides)
    except LayoutError as error:
        raise LayoutError(f"{what}: {error}") from None


def _views(moved: Carried, memory: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """The views of local tensors that are a stored tensor's elements."""
    boxes, views = moved.shards.boxes.shapes.tolist(), []
    for shape, row, start, strides in zip(
        boxes, moved.row.tolist(), moved.start.tolist(), moved.strides, strict=True
    ):
        whole = memory[row]
        views.append(whole.as_strided(shape, strides, whole.storage_offset() + start))
    return tuple(views)
