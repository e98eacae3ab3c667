"""Axes along which ranks hold different keys, not copies: pipeline stages, experts.

Both look alike in boxes. Different keys are seen where the rank that wrote follows a number in
the tensor's name (`layers.7`, `experts.3`), which copies, shared out by load, do not.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ckptlab.layout.infer.trial import Trial
from ckptlab.layout.placement import Replicate

_LAYERS = re.compile(r"(layers?|h|blocks?|stages?|decoder|encoder)[._]?#$")
_NUMBER = re.compile(r"\d+")


_SHARE = 0.8
"""Of the tensors with a number so many must follow it; of experts, only they."""


@dataclass(frozen=True)
class Keyed:
    """An axis along which names count: `at` tells the coordinate that alone holds a tensor, by row.

    `slots` are the beginnings of names whose last number (`#`) decides, with how many tensors each
    has. That copies would have been written in this very order by chance is one in `odds`. `in_turn`:
    the numbers go round and round, as copies of one size do.
    """

    axis: int
    name: str
    slots: Mapping[str, int]
    at: Mapping[int, int]
    odds: float
    in_turn: bool


@dataclass(frozen=True)
class _Slot:
    """The tensors of one slot, and the coordinates of each number (-1: of several)."""

    rows: list[int]
    seen: dict[int, set[int]]


def keyed(trial: Trial, names: Sequence[str]) -> tuple[Keyed, ...]:
    """The axes of this mesh along which ranks hold different keys, as far as names and writers tell."""
    found = (_axis(trial, axis, names) for axis in range(len(trial.grid.shape)))
    return tuple(one for one in found if one is not None)


def _axis(trial: Trial, axis: int, names: Sequence[str]) -> Keyed | None:
    at, several = _coordinates(trial, axis)
    # Step counters are many, tiny and everywhere: their writers tell nothing.
    scalars = {row for one in trial.fits if not one.kind.shape for row in one.kind.rows}
    return follow(names, at, {*at, *several} - scalars, trial.grid.shape[axis], axis)


def follow(names: Sequence[str], at: Mapping[int, int], asked: set[int], n: int, axis: int) -> Keyed | None:
    """Whether numbers in names tell where tensors stand; None if not.

    `at` is the coordinate, one of `n`, of each tensor by row that has one alone; `asked` are the rows
    that matter.
    """
    slots: dict[str, _Slot] = {}
    for row in asked:
        for name, number in _numbers(names[row]):
            slot = slots.setdefault(name, _Slot([], {}))
            slot.rows.append(row)
            slot.seen.setdefault(number, set()).add(at.get(row, -1))
    good = {name: slot for name, slot in slots.items() if _follows(slot.seen)}
    rows = {row for slot in good.values() for row in slot.rows}
    if not rows:
        return None
    if any("expert" in name for name in good):
        what = "ep"
        good = {name: slot for name, slot in good.items() if "expert" in name}
        rows = {row for slot in good.values() for row in slot.rows}
    elif len(rows) < _SHARE * len({row for slot in slots.values() for row in slot.rows}):
        return None
    elif any(_LAYERS.search(name) for name in good):
        # What stands before and behind the layers is on one stage, too.
        what, rows = "pp", set(at)
    else:
        what = "keys"
    return Keyed(
        axis,
        what,
        {name: len(slot.rows) for name, slot in good.items()},
        {row: at[row] for row in rows},
        math.exp(min(60.0, max(0.0, sum(_odds(n, slot) for slot in good.values())))),
        any(not _rises(slot.seen) for slot in good.values()),
    )


def _odds(n: int, slot: _Slot) -> float:
    """The logarithm of all ways in which n ranks may have written them, to the ways that are in order."""
    numbers, used = len(slot.seen), len(set.union(*slot.seen.values()))
    return len(slot.rows) * math.log(n) - math.log(n * math.comb(numbers - 1, used - 1))


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
    found = _NUMBER.finditer(name)
    return [(_NUMBER.sub("#", name[: number.end()]), int(number[0])) for number in found]


def _follows(seen: Mapping[int, set[int]]) -> bool:
    """Whether each number has one coordinate, and these rise with the numbers, or go round and round."""
    if any(len(coordinates) > 1 or -1 in coordinates for coordinates in seen.values()):
        return False
    row = _in_order(seen)
    low, high = min(row), max(row)
    return high > low and (_rises(seen) or all(b == a + 1 or (a, b) == (high, low) for a, b in pairwise(row)))


def _rises(seen: Mapping[int, set[int]]) -> bool:
    return all(a <= b for a, b in pairwise(_in_order(seen)))


def _in_order(seen: Mapping[int, set[int]]) -> list[int]:
    return [next(iter(seen[number])) for number in sorted(seen)]
