"""A comparison as a table: a line a key, what differs first, searched by text, glob or regular expression.

Plain data: no torch and no drawing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from ckptlab.explorer.compare_result import FIELDS, Change, Comparison, row_of
from ckptlab.explorer.inventory import matching
from ckptlab.explorer.scene import count
from ckptlab.explorer.table import Column, Line
from ckptlab.metadata import human_shape


@dataclass
class Changes:
    """A `Table` of a comparison: the keys that differ, or `every` key; those that a query finds.

    The line of `picked` is the chosen one. Change it by its verbs.
    """

    comparison: Comparison
    every: bool = False
    query: str = ""
    picked: Change | None = None
    _seen: list[Change] = field(default_factory=list)

    columns: ClassVar = (
        Column("key", wide=3.0, least=160),
        Column("state", wide=0.8, least=70),
        Column("change", number=True, wide=0.9, least=90, bar=True),
        Column("largest", number=True, wide=0.8, least=70),
        Column("differ", number=True, wide=1.2, least=110),
        Column("dtype", wide=0.8, least=70),
        Column("shape", wide=1.0, least=80),
    )

    def __post_init__(self) -> None:
        self.search(self.query)

    def search(self, query: str) -> None:
        """Show what a query finds; `CheckpointError` for a regular expression that is none."""
        shown = self.comparison.differing
        if self.every:
            shown = (*shown, *(change for change in self.comparison.changes if change.well))
        found = matching([change.key for change in shown], query)
        self._seen = [change for change, hit in zip(shown, found, strict=True) if hit]
        self.query = query

    def show(self, every: bool) -> None:
        """Show every key, or those that differ."""
        self.every = every
        self.search(self.query)

    def __len__(self) -> int:
        return len(self._seen)

    @property
    def chosen(self) -> int:
        """The line of the chosen key; -1 if it is not shown."""
        return next((i for i, change in enumerate(self._seen) if change is self.picked), -1)

    @property
    def caption(self) -> str:
        """How much there is."""
        if not self._seen and not self.query:
            return "No key differs."
        what = "key" if self.every else "key that differs" if len(self._seen) == 1 else "keys that differ"
        return count(len(self._seen), what) if self.every else f"{len(self._seen):,} {what}"

    def at(self, line: int) -> Change:
        """The change on a line."""
        return self._seen[line]

    def lines(self, first: int, count: int) -> list[Line]:
        """At most `count` lines from `first` on."""
        return [self._line(change) for change in self._seen[first : first + count]]

    def _line(self, row: Change) -> Line:
        held, seen = row.a or row.b, row.measured
        assert held is not None
        shape = human_shape(held.shape) if held.dtype != "object" else ""
        numbers = ("", "", "")
        if seen is not None:
            change = f"{seen.odd:,} NaN/Inf" if seen.odd else f"{seen.change:.3g}"
            numbers = (change, f"{seen.largest:.3g}", f"{seen.different:,} of {seen.elements:,}")
        return Line(
            (row.key, row.state, *numbers, held.dtype, shape),
            share=_share(row),
            chosen=row is self.picked,
            hint=f"{row.key}: {row.words}" if row.words else row.key,
        )

    def records(self) -> Iterator[Sequence[object]]:
        """Every key that is shown, with all that is known of it."""
        yield tuple(FIELDS)
        yield from (tuple(row_of(change).values()) for change in self._seen)


def _share(change: Change) -> float:
    """A bar's length: of a change of 1 and more all of it, of 1e-8 and less nothing."""
    if change.measured is None or not change.measured.change:
        return 0.0
    return min(1.0, max(0.0, 1 + math.log10(min(change.measured.change, 1.0)) / 8))
