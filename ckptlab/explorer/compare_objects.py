"""Are two stored objects the same value? Asked where that is safe, and in words where they differ.

It unpickles nothing by itself: `storage` reads plain values through its allow-list. Objects of other
classes are compared as the bytes that they are stored as. It knows no torch.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterator
from typing import Literal

from ckptlab.errors import CheckpointError, UnsafeError
from ckptlab.storage import Checkpoint
from ckptlab.storage.plain import Dtype, Kept
from ckptlab.storage.torch_save import Called

_words = reprlib.Repr()
_words.maxstring, _words.maxother, _words.maxdict, _words.maxlist, _words.maxtuple = 40, 40, 4, 6, 6

Answer = tuple[Literal["equal", "values", "unknown"], str]
"""What came of it, and why, in words; "" where objects are equal."""


def compare_objects(a: Checkpoint, b: Checkpoint, keys: tuple[str, str]) -> Answer:
    """Compare the objects of two keys: by value, or by their bytes where a class of somebody's is in them.

    Equal are values of one type that are equal in all their parts; NaN is the same as NaN, the order of a
    dict's keys does not matter, a list is no tuple, and 1 is neither 1.0 nor True.
    """
    try:
        values = (a[keys[0]], b[keys[1]])
        one, other = (_plain(value, {}) for value in values)
        found = next(_differences(one, other, "", set()), None)
    except UnsafeError as error:
        if _bytes(a, keys[0]) == _bytes(b, keys[1]) is not None:
            return "equal", ""
        holds = ", ".join(map(str, error.problems)) or "tensors"
        return "unknown", f"not read, since it holds {holds}; its bytes are not the same"
    except CheckpointError as error:
        return "unknown", str(error).splitlines()[0]
    except RecursionError:
        return "unknown", "nested too deep, or in itself"
    return ("values", found) if found else ("equal", "")


def _bytes(checkpoint: Checkpoint, key: str) -> bytes | None:
    """What an object is stored as; None if it has no bytes of its own."""
    extent = checkpoint.metadata.objects[key]
    if not extent.length:
        return None
    return checkpoint.files.read(checkpoint.metadata.files[extent.file], extent.start, extent.length)


def _plain(value: object, known: dict[int, object]) -> object:
    """The value as every format tells it: stand-ins as what they hold, a dtype as text.

    What is shared within it stays shared, so that it takes no longer than it is large.
    """
    if id(value) in known:
        return known[id(value)]
    made: object = value
    if isinstance(value, Dtype):
        made = f"torch.{value}"
    elif isinstance(value, Kept):
        parts = (*value.args, *value.state)
        made = ("object", value.module, value.name, *(_plain(part, known) for part in parts))
    elif isinstance(value, Called):
        made = ("called", type(value).__name__, *(_plain(part, known) for part in value.args))
    elif isinstance(value, dict):
        made = {_plain(key, known): _plain(part, known) for key, part in value.items()}
    elif isinstance(value, tuple | list):
        items = [_plain(part, known) for part in value]
        made = items if isinstance(value, list) else tuple(items)
    known[id(value)] = made
    return made


def _differences(a: object, b: object, at: str, seen: set[tuple[int, int]]) -> Iterator[str]:
    """Where two plain values differ, in words; a pair that was seen is not looked at again."""
    if (id(a), id(b)) in seen:
        return
    if isinstance(a, dict) and isinstance(b, dict):
        for key in {**a, **b}:
            inner = f"{at}[{key!r}]"
            if key in a and key in b:
                yield from _differences(a[key], b[key], inner, seen)
            else:
                yield f"{inner}: only {'here' if key in a else 'there'}"
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple) and type(a) is type(b):
        if len(a) != len(b):
            yield f"{at or 'it'} has {len(a)} items here, {len(b)} there"
        for i, (one, other) in enumerate(zip(a, b, strict=False)):
            yield from _differences(one, other, f"{at}[{i}]", seen)
    elif isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b):
        pass
    elif type(a) is not type(b) or a != b:
        yield f"{at}: {_words.repr(a)} -> {_words.repr(b)}".removeprefix(": ")
    seen.add((id(a), id(b)))
