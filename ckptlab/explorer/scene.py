"""A scene: everything that a drawing shows, as plain data.

Rectangles in columns, their words, and which ranks each belongs to. Whoever paints a
scene chooses colours, sizes and fonts, never content. It knows no torch and no drawing
library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from ckptlab.metadata import human_bytes

FILLED, OUTLINED, HATCHED, GROUND = 0, 1, 2, 3
"""Styles of a mark; a `GROUND` is faint, and others stand on it."""

NEUTRAL = -1
"""The colour of a mark that belongs to nobody; other colours are categories, 0, 1, 2 ..."""


@dataclass(frozen=True, eq=False)
class Fact:
    """One line of what pointing at a mark shows: a label, and a value for each of the first n marks.

    `values` is `(n,)`, an index into `words` for a `word`, a number for `count` and `bytes`;
    for a `box` it is `(n, 2 * ndim)`, offsets then shapes, shown as `[0:4, 2:8]`; for a `place` it is
    `(n, axes)`, shown as `dp 0, tp 3` by the names in `words`, or not at all where it is negative.
    """

    label: str
    kind: Literal["word", "count", "bytes", "box", "place"]
    values: npt.NDArray[np.int64]
    words: tuple[str, ...] = ()

    def show(self, mark: int) -> str:
        """The value of one mark, in words; "" if it has none."""
        if mark >= len(self.values):
            return ""
        value = self.values[mark]
        if self.kind == "word":
            return self.words[int(value)]
        if self.kind == "place":
            return ", ".join(f"{axis} {i}" for axis, i in zip(self.words, value, strict=True) if i >= 0)
        if self.kind == "box":
            half = len(value) // 2
            return (
                "[" + ", ".join(f"{o}:{o + n}" for o, n in zip(value[:half], value[half:], strict=True)) + "]"
            )
        return human_bytes(int(value)) if self.kind == "bytes" else f"{int(value):,}"


@dataclass(frozen=True, eq=False)
class Marks:
    """Rectangles, one a row, in the units of their panel, y downwards.

    `box` is `(n, 4)` float32: x, y, width, height. `colour` and `style` are `(n,)`. Mark `i`
    lights up with the ranks `ranks[first[i]:first[i + 1]]`. `labels` is empty or one a mark
    (drawn inside when there is room).
    """

    box: npt.NDArray[np.float32]
    colour: npt.NDArray[np.int16]
    style: npt.NDArray[np.uint8]
    first: npt.NDArray[np.int32]
    ranks: npt.NDArray[np.int32]
    labels: tuple[str, ...] = ()
    facts: tuple[Fact, ...] = ()

    def __len__(self) -> int:
        return len(self.box)

    def ranks_of(self, mark: int) -> tuple[int, ...]:
        """The ranks that light up with a mark."""
        return tuple(self.ranks[self.first[mark] : self.first[mark + 1]].tolist())


@dataclass(frozen=True)
class Note:
    """Words at a point of a panel: an axis name, a tick, a group's name.

    A note outside the panel (x below 0 or beyond its width, y likewise) stands in a margin on that
    side; notes of one such x or y share a margin, the nearest first.
    """

    x: float
    y: float
    text: str
    anchor: Literal["start", "middle", "end"] = "middle"
    turned: bool = False
    """Read from bottom to top, as the name of a vertical axis."""


LEAF, CLOSED, OPEN = 0, 1, 2
"""Folds of a row."""


@dataclass(frozen=True)
class Plane:
    """The elements that a panel of tiles shows: all along the dims `x` and `y` (-1: along none).

    Of every other dim d, index `at[d]`. They fill `width` by `height` units from the panel's corner.
    """

    shape: tuple[int, ...]
    x: int
    y: int
    at: tuple[int, ...]
    width: float
    height: float


@dataclass(frozen=True, eq=False)
class Panel:
    """One picture of a scene: `width` by `height` units, filled by marks and notes.

    `devices` are few, labelled and reachable by keyboard; `tiles` may be many thousands; `bars`
    lie one below the other and their labels may stand outside them.
    `rigid` keeps the ratio of width to height when it is drawn. `plane` says which element of a tensor
    stands where.
    """

    name: str
    kind: Literal["devices", "tiles", "bars"]
    title: str
    caption: str
    width: float
    height: float
    marks: Marks
    notes: tuple[Note, ...] = ()
    rigid: bool = False
    plane: Plane | None = None


@dataclass(frozen=True)
class Key:
    """A line of the legend: what a colour or a style means."""

    text: str
    colour: int = NEUTRAL
    style: int = FILLED


@dataclass(frozen=True, eq=False)
class Scene:
    """Panels side by side under one legend; `text` says the same in plain words."""

    title: str
    panels: tuple[Panel, ...]
    legend: tuple[Key, ...]
    text: str

    def __repr__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Mark:
    """One rectangle of a panel that has few: what `Marks` holds in columns, with its facts in words."""

    box: tuple[float, float, float, float]
    ranks: tuple[int, ...]
    colour: int = NEUTRAL
    style: int = FILLED
    label: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)


def count(n: int, noun: str) -> str:
    """`1 chunk`, `2 chunks`, `1,024 chunks`."""
    return f"{n:,} {noun}{'s' * (n != 1)}"


def words(label: str, said: Sequence[str]) -> Fact:
    """A fact told in words, one a mark; equal words are kept once."""
    index = {word: i for i, word in enumerate(dict.fromkeys(said))}
    return Fact(label, "word", np.array([index[w] for w in said], np.int64), tuple(index))


def categories(of: npt.NDArray[np.int64]) -> npt.NDArray[np.int16]:
    """Colours for ranks or files of any number; below 0 nobody's. Painters have far fewer, and go round."""
    return np.where(of < 0, NEUTRAL, of % 30_240).astype(np.int16)


def collect(rows: Sequence[Mark]) -> Marks:
    """`Marks` from single ones. A fact that a mark has not is left empty."""
    labels = dict.fromkeys(label for row in rows for label in row.facts)
    facts = [words(label, [row.facts.get(label, "") for row in rows]) for label in labels]
    return marks(
        [row.box for row in rows],
        [row.colour for row in rows],
        [row.style for row in rows],
        [row.ranks for row in rows],
        [row.label for row in rows],
        facts,
    )


def marks(
    box: Sequence[tuple[float, float, float, float]],
    colour: Sequence[int],
    style: Sequence[int],
    ranks: Sequence[Sequence[int]],
    labels: Sequence[str] = (),
    facts: Sequence[Fact] = (),
) -> Marks:
    """`Marks` from one item a mark, for panels of few marks."""
    size = [len(r) for r in ranks]
    return Marks(
        np.array(box, np.float32).reshape(len(box), 4),
        np.array(colour, np.int16),
        np.array(style, np.uint8),
        np.concatenate([[0], np.cumsum(size)]).astype(np.int32),
        np.array([r for group in ranks for r in group], np.int32),
        tuple(labels),
        tuple(facts),
    )
