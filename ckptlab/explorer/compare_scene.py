"""The picture of a comparison: a heat map, a row for each part of a layer, a column for each layer.

How much a tile changed is told by its colour, its style and its words. Plain data: no torch and no
drawing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ckptlab.explorer.compare_result import Change, Comparison
from ckptlab.explorer.scene import (
    FILLED,
    GROUND,
    HATCHED,
    NEUTRAL,
    OUTLINED,
    Key,
    Mark,
    Note,
    Panel,
    Scene,
    collect,
    count,
)

MOST = 40
"""Rows; of more parts those that changed most are shown."""

_NUMBER = re.compile(r"(?<![^.\[_])\d+(?![^.\]_])")
_TICKS = 16
_LONGEST = 34
_GAP = 1 / 300
"""Between two tiles, as a part of the map's width."""


@dataclass(frozen=True)
class Level:
    """How a tile that changed so much is drawn, and what that is called."""

    text: str
    colour: int
    style: int


EQUAL = Level("=: the same, bit for bit", NEUTRAL, OUTLINED)
UNREAD = Level("not compared yet", NEUTRAL, GROUND)
SLIGHT = Level("changed by less than 1e-6 of its norm", 12, FILLED)
SMALL = Level("less than 1e-3", 4, FILLED)
MIDDLE = Level("less than 0.1", 0, FILLED)
LARGE = Level("0.1 and more", 1, FILLED)
ODD = Level("N: NaN or Inf on one side only", 3, FILLED)
UNLIKE = Level("!: only on one side, another shape, or unreadable", 5, HATCHED)
LEVELS = (EQUAL, UNREAD, SLIGHT, SMALL, MIDDLE, LARGE, ODD, UNLIKE)


@dataclass(frozen=True)
class Cell:
    """What is in one tile: keys that differ in further numbers only, such as experts; taken together."""

    part: str
    layer: int
    changes: tuple[Change, ...]

    @property
    def change(self) -> float:
        """The norm of all change in it relative to the norm of all that it is of a."""
        seen = [change.measured for change in self.changes if change.measured]
        norm, base = (math.hypot(*(getattr(each, what) for each in seen)) for what in ("norm", "base"))
        return norm / base if base else math.inf if norm else 0.0

    @property
    def level(self) -> Level:
        """How it is drawn."""
        seen = [change.measured for change in self.changes if change.measured]
        if any(change.a is None or change.b is None or _unlike(change) for change in self.changes):
            return UNLIKE
        if any(each.odd for each in seen):
            return ODD
        if len(seen) < len(self.changes):
            return UNREAD
        if not any(each.different for each in seen):
            return EQUAL
        limits = ((1e-6, SLIGHT), (1e-3, SMALL), (0.1, MIDDLE))
        return next((level for most, level in limits if self.change < most), LARGE)

    @property
    def label(self) -> str:
        """A few letters for within the tile."""
        level = self.level
        if level in (SLIGHT, SMALL, MIDDLE, LARGE):
            return _power(self.change)
        return {EQUAL: "=", UNREAD: "", ODD: "N", UNLIKE: "!"}[level]


def _power(change: float) -> str:
    """The power of ten of a change: `-3` of 0.001 up to 0.01."""
    if not change or math.isinf(change):
        return "∞" if change else "bits"
    return f"{math.floor(math.log10(change))}"


def _unlike(change: Change) -> bool:
    return change.state in ("shape", "kind", "unknown")


def cells_of(comparison: Comparison) -> list[Cell]:
    """The tensors as cells: the first number in a key is its layer (-1: it has none), the rest its part."""
    found: dict[tuple[str, int], list[Change]] = {}
    for change in comparison.changes:
        held = change.a or change.b
        assert held is not None
        if held.dtype != "object" or change.state == "kind":
            number = _NUMBER.search(change.key)
            layer = int(number[0]) if number else -1
            found.setdefault((_NUMBER.sub("*", change.key), layer), []).append(change)
    return [Cell(part, layer, tuple(changes)) for (part, layer), changes in found.items()]


def heat_scene(comparison: Comparison) -> Scene:
    """The heat map of all tensors of two checkpoints."""
    panel, cells = heat_panel(comparison)
    used = {cell.level for cell in cells}
    legend = tuple(Key(level.text, level.colour, level.style) for level in LEVELS if level in used)
    lines = [f"  {cell.part}, {_place(cell)}: {_said(cell)}" for cell in _worst(cells)[:12]]
    return Scene("", (panel,), legend, "\n".join([panel.title, f"  {panel.caption}", *lines]))


def heat_panel(comparison: Comparison, name: str = "changes") -> tuple[Panel, list[Cell]]:
    """The map as a panel, and the cell of each of its marks."""
    cells = cells_of(comparison)
    parts = list(dict.fromkeys(cell.part for cell in cells))
    kept = _kept(cells, parts)
    row = {part: i for i, part in enumerate(kept)}
    shown = [cell for cell in cells if cell.part in row]
    columns = {layer: i for i, layer in enumerate(sorted({cell.layer for cell in shown} - {-1}))}
    wide = max(1, len(columns))
    marks = collect([_mark(cell, columns, row[cell.part], wide) for cell in shown])
    head = _head(kept)
    return (
        Panel(
            name,
            "bars",
            "How much each tensor changed",
            _caption(head, len(columns), len(parts) - len(kept)),
            float(wide),
            float(max(1, len(kept))),
            marks,
            tuple(_notes(kept, head, columns)),
        ),
        shown,
    )


def _kept(cells: Sequence[Cell], parts: Sequence[str]) -> list[str]:
    """The parts that are shown, in their order: all, or those with the worst cells."""
    if len(parts) <= MOST:
        return list(parts)
    best = set(list(dict.fromkeys(cell.part for cell in _worst(cells)))[:MOST])
    return [part for part in parts if part in best]


def _worst(cells: Sequence[Cell]) -> list[Cell]:
    def weight(cell: Cell) -> tuple[int, float]:
        level = cell.level
        return (0 if level in (UNLIKE, ODD) else 1, -cell.change)

    return sorted(cells, key=weight)


def _mark(cell: Cell, columns: dict[int, int], row: int, wide: int) -> Mark:
    x, width = (columns[cell.layer], 1) if cell.layer >= 0 else (0, wide)
    level, gap = cell.level, _GAP * wide
    box = (x + gap / 2, row + 0.04, width - gap, 0.92)
    return Mark(box, (), level.colour, level.style, cell.label, _facts(cell))


def _facts(cell: Cell) -> dict[str, str]:
    seen = [change.measured for change in cell.changes if change.measured]
    one = cell.changes[0]
    facts = {"key": one.key} if len(cell.changes) == 1 else {"keys": f"{len(cell.changes):,}, as {one.key}"}
    facts["state"] = ", ".join(dict.fromkeys(change.state for change in cell.changes))
    if seen:
        facts["change"] = f"{cell.change:.3g} of its norm"
        facts["largest"] = f"{max(each.largest for each in seen):.3g}"
        different, elements = (
            sum(getattr(each, what) for each in seen) for what in ("different", "elements")
        )
        facts["differ"] = f"{different:,} of {count(elements, 'element')}"
    if len(cell.changes) == 1 and one.words:
        facts["more"] = one.brief
    return {label: words for label, words in facts.items() if words}


def _place(cell: Cell) -> str:
    return f"layer {cell.layer}" if cell.layer >= 0 else "in no layer"


def _said(cell: Cell) -> str:
    return f"{cell.level.text} ({cell.change:.3g})" if cell.change else cell.level.text


def _head(parts: Sequence[str]) -> str:
    """What all parts of layers begin with: `model.layers.*.`; not worth the room of saying it in each row."""
    heads = {part.partition("*.")[0] for part in parts if "*." in part}
    return f"{heads.pop()}*." if len(heads) == 1 else ""


def _caption(head: str, layers: int, left_out: int) -> str:
    across = f"Across: {count(layers, 'layer')}. " if layers else ""
    down = f"Down: what is in {head.removesuffix('.')}, and what is in no layer. " if head else ""
    out = f"The {left_out:,} rows that changed least are left out. " if left_out else ""
    return f"{across}{down}{out}In a tile: the power of ten of the norm of the change, divided by that of a."


def _notes(parts: Sequence[str], head: str, columns: dict[int, int]) -> Iterator[Note]:
    for i, part in enumerate(parts):
        yield Note(-0.1, i + 0.5, _short(part.removeprefix(head)), "end")
    every = -(-len(columns) // _TICKS)
    for layer, i in columns.items():
        if i % max(1, every) == 0:
            yield Note(i + 0.5, -0.1, str(layer))


def _short(name: str) -> str:
    half = _LONGEST // 2
    return name if len(name) <= _LONGEST else f"{name[: half - 1]}…{name[-half:]}"
