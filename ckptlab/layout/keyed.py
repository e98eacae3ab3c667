"""Axes along which ranks hold different keys, not copies: pipeline stages, experts.

Both look alike in boxes. Different keys are seen where the rank that wrote follows a number in
the tensor's name (`layers.7`, `experts.3`), which copies, shared out by load, do not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ckptlab.layout.placement import Replicate
from ckptlab.layout.trial import Trial

_LAYERS = re.compile(r"(layers?|h|blocks?|stages?|decoder|encoder)\.#$")


@dataclass(frozen=True)
class Keyed:
    """An axis along which names count: `at` tells the coordinate that alone holds a tensor, by row.

    `slots` are the beginnings of names whose last number (`#`) decides, with how many tensors each
    has. That copies would have been shared out in this very order by chance is one in
    `odds`.
    """

    axis: int
    name: str
    slots: Mapping[str, int]
    at: Mapping[int, int]
    odds: float


def keyed(trial: Trial, names: Sequence[str]) -> tuple[Keyed, ...]:
    """The axes of this mesh along which ranks hold different keys, as far as names and writers tell."""
    found = (_axis(trial, axis, names) for axis in range(len(trial.grid.shape)))
    return tuple(one for one in found if one is not None)


def _axis(trial: Trial, axis: int, names: Sequence[str]) -> Keyed | None:
    at, several = _coordinates(trial, axis)
    # Step counters are many, tiny and everywhere: their writers tell nothing.
    scalars = {row for one in trial.fits if not one.kind.shape for row in one.kind.rows}
    slots: dict[str, dict[int, set[int]]] = {}
    members: dict[str, list[int]] = {}
    for row in (*at, *several):
        if row in scalars:
            continue
        for slot, number in _numbers(names[row]):
            slots.setdefault(slot, {}).setdefault(number, set()).add(at.get(row, -1))
            members.setdefault(slot, []).append(row)
    good = {slot: members[slot] for slot, seen in slots.items() if _in_order(seen)}
    rows = {row for found in good.values() for row in found}
    if not rows:
        return None
    used = len({at[row] for row in rows})
    stages = sum(len(r) for s, r in good.items() if _LAYERS.search(s))
    if any("expert" in slot for slot in good):
        name = "ep"
    elif stages:
        name = "pp"
        # What stands before and behind the layers is on one stage, too.
        rows |= set(at)
    else:
        name = "keys"
    odds = float(trial.grid.shape[axis]) ** min(len({r for f in good.values() for r in f}) - used, 60)
    return Keyed(axis, name, {s: len(r) for s, r in good.items()}, {r: at[r] for r in rows}, odds)


def _coordinates(trial: Trial, axis: int) -> tuple[dict[int, int], set[int]]:
    """Of tensors that the axis does not cut: where those stand who wrote all of it; and the others."""
    at: dict[int, int] = {}
    several: set[int] = set()
    for kind, option, chosen in trial.parts():
        if not isinstance(option.by_axis[axis], Replicate) or not len(kind.boxes):
            continue
        writers = kind.writers[chosen]
        if (writers < 0).any():
            continue
        where = trial.grid.coordinates[axis][trial.grid.places(writers)]
        rows = np.array(kind.rows, np.int64)[chosen]
        one = (where == where[:, :1]).all(axis=1)
        at.update(zip(rows[one].tolist(), where[one, 0].tolist(), strict=True))
        several.update(rows[~one].tolist())
    return at, several


def _numbers(name: str) -> list[tuple[str, int]]:
    """The numbers in a name, each with the beginning that it ends; other numbers are `#`."""
    return [
        (re.sub(r"(?<![^.])\d+(?![^.])", "#", name[: found.end()]), int(found[0]))
        for found in re.finditer(r"(?<![^.])\d+(?![^.])", name)
    ]


def _in_order(seen: Mapping[int, set[int]]) -> bool:
    """Whether each number has one coordinate, none goes back as numbers grow, and there are several."""
    if any(len(coordinates) > 1 or -1 in coordinates for coordinates in seen.values()):
        return False
    row = [next(iter(seen[number])) for number in sorted(seen)]
    return len(set(row)) > 1 and all(a <= b for a, b in pairwise(row))
