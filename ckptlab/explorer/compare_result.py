"""What a comparison of two checkpoints found, as records; and the same in words.

It reads nothing and draws nothing.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from ckptlab.errors import PathError
from ckptlab.explorer.compare_tiles import Measured, Tolerance
from ckptlab.explorer.scene import count
from ckptlab.metadata import human_bytes, human_shape

State = Literal[
    "equal", "close", "values", "dtype", "shape", "kind", "only a", "only b", "unknown", "unread"
]  # fmt: skip
"""What became of a key.

equal: the same, bit for bit. close: not that, but within the tolerance. values: some elements differ, or an
object does. dtype: values may be the same, the dtype is not. shape: so no values were compared. kind: a
tensor on one side, an object on the other. only a, only b: the other has no such key. unknown: it could
not be compared, `why` says why. unread: shape and dtype are the same, values were not asked for.
"""

_WELL = ("equal", "close", "unread")
_SHOWN = 12


@dataclass(frozen=True)
class Side:
    """One of the two checkpoints; `files` are its data files by name, with the bytes it has in each."""

    path: str
    format: str
    tensors: int
    objects: int
    chunks: int
    nbytes: int
    files: Mapping[str, int]


@dataclass(frozen=True)
class Held:
    """What one side has under a key; an object has the dtype "object" and no shape."""

    key: str
    dtype: str
    shape: tuple[int, ...] = ()
    chunks: int = 1
    nbytes: int = 0


@dataclass(frozen=True)
class Change:
    """One key: what each side has under it (None: nothing), and how that compares.

    `measured` tells of values that were compared. `kept` of the chunks' boxes are the same on both sides,
    so the others moved; `moved` says whether any did. `why` is in words.
    """

    state: State
    a: Held | None
    b: Held | None
    measured: Measured | None = None
    kept: int = 0
    why: str = ""

    @property
    def key(self) -> str:
        """Its name in a, or in b if a has no such key."""
        held = self.a or self.b
        assert held is not None
        return held.key

    @property
    def well(self) -> bool:
        """Whether nothing about it differs that counts."""
        return self.state in _WELL

    @property
    def moved(self) -> bool:
        """Whether its chunks are other boxes in b than in a."""
        if self.a is None or self.b is None or "object" in (self.a.dtype, self.b.dtype):
            return False
        return self.state != "shape" and not self.kept == self.a.chunks == self.b.chunks

    def __str__(self) -> str:
        return f"{self.state:7} {self.key}: {self.words}"

    @property
    def words(self) -> str:
        """What there is to say of it, in one line; "" if nothing."""
        if self.a is None or self.b is None:
            held = self.a or self.b
            assert held is not None
            return f"{held.dtype} {human_shape(held.shape)}" if held.dtype != "object" else "object"
        seen = self.measured
        sums = _sums(seen, self.a.dtype != self.b.dtype) if seen else ()
        return "; ".join(word for word in (*self._unlike(), *sums, _places(seen), self.why) if word)

    @property
    def brief(self) -> str:
        """The same without what columns of a table have: sums, and a's dtype and shape."""
        return "; ".join(word for word in (*self._unlike(), _places(self.measured), self.why) if word)

    def _unlike(self) -> Iterator[str]:
        """What the metadata says otherwise."""
        if self.a is None or self.b is None:
            return
        if self.a.key != self.b.key:
            yield f"{self.b.key} in b"
        if self.a.dtype != self.b.dtype:
            yield f"{self.a.dtype} -> {self.b.dtype}"
        if self.a.shape != self.b.shape:
            yield f"{human_shape(self.a.shape)} -> {human_shape(self.b.shape)}"


def _places(seen: Measured | None) -> str:
    """Where elements differ; "" if none does."""
    if seen is None or not seen.different:
        return ""
    said = [f"{seen.odd:,} NaN or Inf on one side only"] if seen.odd else []
    if not seen.norm and not seen.odd:
        said.append("the same numbers, spelled by other bits")
    if seen.worst is not None:
        said.append(f"worst at {list(seen.worst)}: {seen.values[0]} -> {seen.values[1]}")
    if seen.box is not None and seen.beyond > 1:
        said.append(f"all in {str(seen.box).removeprefix('Box')}")
    return "; ".join(said)


def _sums(seen: Measured, other_dtype: bool) -> Iterator[str]:
    as_what = f" as {seen.common}" if other_dtype else ""
    if not seen.different:
        yield f"equal{as_what}"
        return
    yield f"{seen.different:,} of {count(seen.elements, 'element')} differ{as_what}"
    if seen.beyond != seen.different:
        yield f"{seen.beyond:,} of these beyond the tolerance"
    if seen.norm:
        yield f"largest {seen.largest:.3g}"
        yield f"norm of change {seen.change:.3g} of a's"


Row = dict[str, Any]


@dataclass(frozen=True, repr=False)
class Comparison:
    """Two checkpoints compared: a change for each key, a's first in a's order. True if they are equal.

    Equal is what has the same keys, and under each the same: bit for bit, or within the `tolerance` if one
    was given. Which boxes chunks are, which files hold them and which format they have does not count; it
    is told. `read` bytes of elements were read, on both sides together.
    """

    a: Side
    b: Side
    changes: tuple[Change, ...]
    tolerance: Tolerance | None = None
    read: int = 0
    seconds: float = 0.0

    @property
    def equal(self) -> bool:
        """Whether nothing differs that counts; of values that were not read nothing is known."""
        return all(change.well for change in self.changes)

    def __bool__(self) -> bool:
        return self.equal

    @cached_property
    def states(self) -> Counter[State]:
        """How many keys there are of each state."""
        return Counter(change.state for change in self.changes)

    @property
    def differing(self) -> tuple[Change, ...]:
        """The keys that are not equal, nor close: the largest relative change first, then the others."""
        wrong = [change for change in self.changes if not change.well]
        return tuple(sorted(wrong, key=_weight))

    @property
    def rows(self) -> list[Row]:
        """A flat record for each key, for programs; numbers that are no numbers in JSON are text."""
        return [row_of(change) for change in self.changes]

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the rows; `PathError` where that cannot be."""
        try:
            with Path(path).open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(self.rows)
        except OSError as error:
            raise PathError(f"cannot write {os.fspath(path)}: {error.strerror}", [path]) from error

    def record(self) -> dict[str, Any]:
        """All of it as plain values that JSON has."""
        sides = {"a": asdict(self.a), "b": asdict(self.b)}
        tolerance = asdict(self.tolerance) if self.tolerance else None
        told = {"tolerance": tolerance, "read": self.read, "seconds": self.seconds}
        return {"equal": self.equal, **sides, "states": dict(self.states), **told, "changes": self.rows}

    def __repr__(self) -> str:
        shown = self.differing[:_SHOWN]
        lines = [*self.headline(), *(f"  {change}" for change in shown)]
        if more := len(self.differing) - len(shown):
            lines.append(f"  ... and {more:,} more in .differing")
        return "\n".join(lines)

    def headline(self) -> Iterator[str]:
        """The verdict, and what counts, in a few lines."""
        yield f"a {self.a.path} ({self.a.format}), b {self.b.path} ({self.b.format}): {self._verdict()}"
        words = [f"{n:,} {_STATES[state]}" for state in _STATES if (n := self.states[state])]
        yield f"  {count(len(self.changes), 'key')}: {', '.join(words) or 'none'}"
        yield f"  {self._layout()}"
        if self.read:
            yield f"  read {human_bytes(self.read)} in {self.seconds:.2f} s"

    def _verdict(self) -> str:
        if not self.equal:
            return "DIFFERENT"
        if self.states["unread"]:
            return "the same keys, shapes and dtypes; values were not compared"
        if self.tolerance and self.states["close"]:
            return f"close (rtol {self.tolerance.rtol:g}, atol {self.tolerance.atol:g})"
        return "equal, bit for bit"

    def _layout(self) -> str:
        """Where the boxes are, in words."""
        moved = sum(change.moved for change in self.changes)
        both = sum(change.a is not None and change.b is not None for change in self.changes)
        boxes = f"of {count(moved, 'tensor')} the boxes moved" if moved else "no box moved"
        sides = [
            f"{count(side.chunks, 'chunk')} in {count(len(side.files), 'file')}" for side in (self.a, self.b)
        ]
        return f"a has {sides[0]}, b has {sides[1]}" + (f"; {boxes}" if both else "")


_STATES: Mapping[State, str] = {
    "equal": "equal",
    "close": "close",
    "unread": "not read",
    "values": "with other values",
    "dtype": "of another dtype",
    "shape": "of another shape",
    "kind": "of another kind",
    "only a": "only in a",
    "only b": "only in b",
    "unknown": "that could not be compared",
}


def _weight(change: Change) -> tuple[float, ...]:
    if change.measured is None:
        return (1.0,)
    return (0.0, -float(bool(change.measured.odd)), -change.measured.change)


FIELDS: Sequence[str] = (
    "key", "key_b", "state", "dtype_a", "dtype_b", "shape_a", "shape_b", "compared_as", "elements",
    "different", "beyond", "odd", "largest", "relative", "norm", "norm_a", "relative_norm", "worst",
    "worst_a", "worst_b", "box", "chunks_a", "chunks_b", "boxes_kept", "why",
)  # fmt: skip
"""The names of a row's values."""


def row_of(change: Change) -> Row:
    """A change as a flat record; its values are those of `FIELDS`."""
    row: Row = dict.fromkeys(FIELDS, "")
    row |= {"key": change.key, "state": change.state, "boxes_kept": change.kept, "why": change.why}
    for side, held in (("a", change.a), ("b", change.b)):
        if held is not None:
            row |= {f"dtype_{side}": held.dtype, f"shape_{side}": list(held.shape)}
            row |= {f"chunks_{side}": held.chunks}
    if change.b is not None:
        row["key_b"] = change.b.key
    if (seen := change.measured) is not None:
        box = [] if seen.box is None else [list(seen.box.offset), list(seen.box.shape)]
        row |= {
            "compared_as": seen.common, "elements": seen.elements, "different": seen.different,
            "beyond": seen.beyond, "odd": seen.odd, "largest": _number(seen.largest),
            "relative": _number(seen.relative), "norm": _number(seen.norm), "norm_a": _number(seen.base),
            "relative_norm": _number(seen.change), "worst": list(seen.worst or ()), "worst_a": seen.values[0],
            "worst_b": seen.values[1], "box": box,
        }  # fmt: skip
    return row


def _number(value: float) -> float | str:
    return value if value - value == 0 else str(value)
