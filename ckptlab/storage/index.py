"""An index into a tensor, as numpy has them, turned into the ranges of elements that it names.

Pure arithmetic of ints, slices and `...`. It knows no file and no array.
"""

from __future__ import annotations

import operator
import re
from typing import Any, NoReturn

import numpy as np

from ckptlab.errors import SliceError

_SLICE = re.compile(r"([+-]?\d+)?\s*:\s*([+-]?\d+)?\s*(?::\s*([+-]?\d+)?)?")


def parse_index(index: Any, shape: tuple[int, ...], fqn: str) -> tuple[list[range], tuple[Any, ...]]:
    """What an index asks for: an ascending range a dim, and how to index their product to get it."""
    steps = list(index) if isinstance(index, tuple) else [index]
    dots = [i for i, step in enumerate(steps) if step is Ellipsis]
    given = len(steps) - len(dots)
    if len(dots) > 1 or given > len(shape):
        many = "has more than one '...'" if len(dots) > 1 else f"has {given} parts"
        raise SliceError(f"tensor {fqn!r} has {len(shape)} dims, and the index {many}", [fqn])
    at = dots[0] if dots else len(steps)
    steps[at : at + 1] = [slice(None)] * (len(shape) - given)
    ranges: list[range] = []
    view: list[Any] = []
    for dim, (step, n) in enumerate(zip(steps, shape, strict=True)):
        if isinstance(step, slice):
            picked = _picked(step, n, fqn)
            rising = picked if picked.step > 0 else picked[::-1]
            ranges.append(rising if len(rising) > 1 else range(rising.start, rising.start + len(rising)))
            view.append(slice(None, None, 1 if picked.step > 0 else -1))
            continue
        i = _integer(step, fqn)
        if not -n <= i < n:
            raise SliceError(f"tensor {fqn!r} has {n} elements in dim {dim}, and none at {i}", [fqn])
        ranges.append(range(i % n, i % n + 1))
        view.append(0)
    return ranges, (*view, ...) if dots else tuple(view)


def _picked(step: slice, n: int, fqn: str) -> range:
    try:
        return range(n)[step]
    except (TypeError, ValueError) as error:
        _refuse(fqn, str(error))


def _integer(step: Any, fqn: str) -> int:
    if step is None:
        _refuse(fqn, "None adds a dim, which reads nothing")
    if isinstance(step, bool | np.bool_):
        _refuse(fqn, "True and False choose elements by a mask")
    try:
        return operator.index(step)
    except TypeError:
        _refuse(fqn, f"{type(step).__name__} is neither int, slice nor '...'")


def _refuse(fqn: str, why: str) -> NoReturn:
    raise SliceError(
        f"tensor {fqn!r} cannot be indexed so: {why}; read with ints and slices, then index the array", [fqn]
    )


def typed_index(text: str) -> tuple[Any, ...]:
    """An index as it is typed: `[10:20, ::3]`, with or without its brackets; nothing typed is everything.

    `SliceError` for what is no list of ints, slices and `...`.
    """
    inner = text.strip()
    if inner.startswith("[") and inner.endswith("]"):
        inner = inner[1:-1].strip()
    parts = [part.strip() for part in inner.removesuffix(",").split(",")] if inner else []
    return tuple(_typed_step(part, text) for part in parts)


def _typed_step(part: str, text: str) -> Any:
    if part == "...":
        return ...
    if re.fullmatch(r"[+-]?\d+", part):
        return int(part)
    if found := _SLICE.fullmatch(part):
        return slice(*(None if end is None else int(end) for end in found.groups()))
    raise SliceError(
        f"{text.strip()!r} is no part of a tensor: {part!r} is neither a number, a slice nor '...'; "
        "write such as [10:20, ::3]",
        [text],
    )


def within(r: range, low: int, high: int) -> slice:
    """The positions in an ascending range of those that lie from `low` up to, not including, `high`."""
    return slice(max(0, -((r.start - low) // r.step)), min(len(r), -((r.start - high) // r.step)))
