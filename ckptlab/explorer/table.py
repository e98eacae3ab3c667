"""A table of which a reader asks a few lines at a time, however many it has; and the whole of it as CSV.

Cells are words already, so that whoever shows them decides nothing. Plain data: no torch and no
drawing.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

LEAF, CLOSED, OPEN = 0, 1, 2
"""Folds of a line."""


@dataclass(frozen=True)
class Column:
    """A column: numbers stand to the right.

    It takes `least` pixels, and of what is left the part `wide`; where there is no room, the last
    columns are left out.
    """

    label: str
    number: bool = False
    wide: float = 1.0
    least: int = 60
    bar: bool = False
    """Whether a line's `share` is drawn behind it."""


@dataclass(frozen=True)
class Line:
    """A line: a cell for each column, in words; `hint` is said when it is pointed at.

    In a tree it stands `depth` deep, folded as `fold` tells. `share` is a bar's length, 0 to 1.
    """

    cells: tuple[str, ...]
    depth: int = 0
    fold: int = LEAF
    share: float = 0.0
    chosen: bool = False
    hint: str = ""


class Table(Protocol):
    """What is shown a page at a time."""

    @property
    def columns(self) -> Sequence[Column]:
        """The columns, from left to right."""

    @property
    def caption(self) -> str:
        """What is below the table, in one line."""

    @property
    def chosen(self) -> int:
        """The line that is chosen; -1: none that is shown."""

    def __len__(self) -> int: ...

    def lines(self, first: int, count: int) -> list[Line]:
        """At most `count` lines from `first` on."""

    def records(self) -> Iterator[Sequence[object]]:
        """All of the table for programs: the names of the fields, then a record a line."""


def csv_text(table: Table) -> str:
    """The records as CSV, UTF-8. Words that a spreadsheet would take for a formula are given a `'`."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for record in table.records():
        writer.writerow([_tame(value) for value in record])
    return out.getvalue()


def _tame(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value[:1] in tuple("=+-@\t\r") and value else value


def table_text(table: Table, most: int = 30) -> str:
    """The first lines in words, in columns; for readers without a kernel."""
    shown = table.lines(0, most)
    rows = [[column.label for column in table.columns]]
    rows += [["  " * line.depth + line.cells[0], *line.cells[1:]] for line in shown]
    wide = [max(len(row[k]) for row in rows) for k in range(len(table.columns))]
    lines = [
        "  ".join(
            cell.rjust(n) if column.number else cell.ljust(n)
            for cell, n, column in zip(row, wide, table.columns, strict=True)
        ).rstrip()
        for row in rows
    ]
    if len(table) > len(shown):
        lines.append(f"... and {len(table) - len(shown):,} more")
    return "\n".join([*lines, table.caption])
