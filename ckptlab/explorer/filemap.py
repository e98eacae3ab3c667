"""The picture of files: each a bar of its bytes, with the chosen tensor's standing out.

What is too narrow to be seen is drawn as one, so that a picture is as small as the screen, however
many chunks there are. Plain data: no torch and no drawing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ckptlab.explorer.extents import ALIEN, BETWEEN, CHUNK, LOST, OBJECT, WRAPPING, Extents, merged, unwrapped
from ckptlab.explorer.files import Files, Inside
from ckptlab.explorer.scene import (
    FILLED,
    HATCHED,
    NEUTRAL,
    OUTLINED,
    Fact,
    Key,
    Marks,
    Note,
    Panel,
    Scene,
    count,
    words,
)
from ckptlab.explorer.tensor import Colours
from ckptlab.layout.box import Ints
from ckptlab.metadata import human_bytes

PIXELS = 720
"""Parts of a bar that can be told apart."""

PAGE = 12
"""Bars of one picture."""

TAKEN_APART = 200
"""Chunks in view up to which the heads of their archives are read, to draw what is round their elements."""

WIDE, _THIN, _LOW, _TALL = 100.0, 0.24, 0.5, 0.9
_NAME = 24
_STYLES = {CHUNK: FILLED, OBJECT: FILLED, WRAPPING: FILLED, BETWEEN: HATCHED, LOST: OUTLINED, ALIEN: HATCHED}

_KEYS = (
    Key("colour: the {by}", 0, FILLED),
    Key("tall: the chosen tensor", 0, FILLED),
    Key("thin: what is round the elements of a chunk", NEUTRAL, FILLED),
    Key("grey: objects", NEUTRAL, FILLED),
    Key("hatched: in no chunk and no object", NEUTRAL, HATCHED),
    Key("outline: should be there, and is not", NEUTRAL, OUTLINED),
)


@dataclass(frozen=True, eq=False)
class Drawn:
    """A scene, and what each of its marks is: the bytes `start` to `stop` of `file`, `number` extents.

    `tensor` is the row of the tensor that is there, if there is one alone, else -1.
    """

    scene: Scene
    file: Ints
    start: Ints
    stop: Ints
    number: Ints
    tensor: Ints


@dataclass(frozen=True, eq=False)
class _Bar:
    """The bytes `low` to `high` of a file, to be drawn in row `y`, `scale` bytes a unit."""

    inside: Inside
    found: Extents
    low: int
    high: int
    y: int


def files_scene(files: Files, first: int, fqn: str, colours: Colours = "rank") -> Drawn:
    """Files from the line `first` of their table on, a bar each, all to one scale."""
    shown = files.order[first : first + PAGE]
    longest = max([1, *(int(max(files.size[i], files.needed[i])) for i in shown)])
    bars, notes = [], []
    for y, i in enumerate(shown):
        inside = Inside(files, i, fqn)
        bars.append(_Bar(inside, inside.found, 0, longest, y))
        notes += _names(files, i, y)
    title = (
        "The files"
        if len(shown) == len(files)
        else f"Files {first + 1} to {first + len(shown)} of {len(files):,}"
    )
    return _drawn(files, bars, notes, title, f"{files.caption}. Press a bar to look into its file.", colours)


def file_scene(files: Files, file: int, low: int, high: int, fqn: str, colours: Colours = "rank") -> Drawn:
    """The bytes `low` to `high` of one file, in rows as a text is set."""
    inside = Inside(files, file, fqn)
    high = max(high, low + 1)
    rows = min(PAGE, max(1, -(-(high - low) // 4096)))
    step = -(-(high - low) // rows)
    seen = inside.found.within(low, high)
    if files.checkpoint.files.mapped and int((seen.kind == CHUNK).sum()) <= TAKEN_APART:
        seen = unwrapped(inside.found, files.elements).within(low, high)
    bars, notes = [], []
    for y in range(rows):
        a = low + y * step
        b = min(high, a + step)
        if a < b:
            bars.append(_Bar(inside, seen.within(a, b), a, a + step, y))
            notes.append(Note(-0.1, y + 0.5, f"{a:,}", "end"))
    title = f"The bytes of {files.names[file]}"
    whole = high - low >= max(int(files.size[file]), int(files.needed[file]))
    part = "" if whole else f" Shown: bytes {low:,} to {high:,}."
    return _drawn(files, bars, notes, title, f"{inside.caption}.{part}", colours)


def _names(files: Files, i: int, y: int) -> list[Note]:
    """The name of a file before its bar, and how large it is or what is wrong behind it."""
    name, size, stands = files.names[i], int(files.size[i]), files.stands[i]
    short = name if len(name) <= _NAME else f"{name[: _NAME // 2 - 1]}…{name[-_NAME // 2 :]}"
    said = stands if stands == "missing" else human_bytes(size)
    told = said if stands in ("whole", "missing", "index") else f"{said}, {stands}"
    return [Note(-0.1, y + 0.5, short, "end"), Note(WIDE + 0.1, y + 0.5, told, "start")]


def _drawn(
    files: Files, bars: Sequence[_Bar], notes: Sequence[Note], title: str, caption: str, colours: Colours
) -> Drawn:
    if not bars:
        none = np.zeros(0, np.int64)
        return Drawn(Scene(title, (), (), caption), none, none, none, none, none)
    parts = [_marks(files, bar, colours) for bar in bars]
    columns = [np.concatenate(each) for each in zip(*(part.columns for part in parts), strict=True)]
    holds = [said for part in parts for said in part.holds]
    box, colour, style, file, start, stop, number, tensor = columns
    rank = np.array([files.rank(i) for i in range(len(files.names))], np.int64)[file]
    known = rank >= 0
    marks = Marks(
        box.astype(np.float32),
        colour.astype(np.int16),
        style.astype(np.uint8),
        np.r_[0, np.cumsum(known)].astype(np.int32),
        rank[known].astype(np.int32),
        (),
        (
            words("holds", holds),
            Fact("bytes", "bytes", stop - start),
            Fact("from byte", "count", start),
            words("file", [files.names[i] for i in file.tolist()]),
            words("written by", [files.writer(i) for i in file.tolist()]),
        ),
    )
    panel = Panel("files", "bars", title, caption, WIDE, float(len(bars)), marks, tuple(notes))
    legend = _legend(marks, colours)
    text = "\n".join([title, f"  {caption}", *_lines(bars, files)])
    return Drawn(Scene("", (panel,), legend, text), file, start, stop, number, tensor)


@dataclass(frozen=True, eq=False)
class _Marked:
    """Columns of marks, and what each holds in words."""

    columns: tuple[npt.NDArray[np.generic], ...]
    holds: list[str]


def _marks(files: Files, bar: _Bar, colours: Colours) -> _Marked:
    found, inside = bar.found, bar.inside
    row = files.checkpoint.metadata.rows.get(inside.fqn, -2)
    one = merged(found, bar.low, bar.high, PIXELS, found.tensor == row)
    scale = WIDE / (bar.high - bar.low)
    mine = (found.tensor[one.first] == row) & (one.kind != WRAPPING)
    tall = np.where(mine, _TALL, np.where(one.kind == WRAPPING, _THIN, _LOW))
    box = np.stack(
        [
            (one.start - bar.low) * scale,
            bar.y + (1 - tall) / 2,
            np.maximum((one.stop - one.start) * scale, WIDE / PIXELS / 2),
            tall,
        ],
        axis=1,
    )
    own = inside.file if colours == "file" else files.rank(inside.file)
    colour = np.where((one.kind == CHUNK) | ((one.kind == LOST) & mine), own, NEUTRAL)
    style = np.array([_STYLES[kind] for kind in one.kind.tolist()], np.int64)
    alone = one.number == 1
    tensor = np.where(alone, found.tensor[one.first], -1)
    holds = [
        _one(inside, found, i) if n == 1 else _many(found, i, n)
        for i, n in zip(one.first.tolist(), one.number.tolist(), strict=True)
    ]
    file = np.full(len(box), inside.file, np.int64)
    return _Marked((box, colour, style, file, one.start, one.stop, one.number, tensor), holds)


def _one(inside: Inside, found: Extents, i: int) -> str:
    """A single extent in words."""
    said = " ".join(inside.said(int(found.at[i]))).strip()
    return f"round the elements of {said}" if found.kind[i] == WRAPPING else said


def _many(found: Extents, first: int, number: int) -> str:
    """Several extents in words: `37 chunks of 12 tensors, 2 objects`."""
    part = slice(first, first + number)
    of_chunks = found.tensor[part] >= 0
    chunks, tensors = (len(np.unique(each[part][of_chunks])) for each in (found.item, found.tensor))
    said = [f"{count(chunks, 'chunk')} of {count(tensors, 'tensor')}"] if chunks else []
    objects = int((found.kind[part] == OBJECT).sum())
    between = int((found.kind[part] == BETWEEN).sum())
    said += [count(objects, "object")] if objects else []
    said += [f"{count(between, 'run')} of bytes in neither"] if between else []
    return ", ".join(said)


def _legend(marks: Marks, colours: Colours) -> tuple[Key, ...]:
    """The lines that some mark is in need of."""
    by = "rank that wrote the file" if colours == "rank" else "file"
    seen = {(int(c) >= 0, int(s)) for c, s in zip(marks.colour, marks.style, strict=True)}
    thin = marks.box[:, 3] < (_LOW + _THIN) / 2
    need = (
        (True, FILLED) in seen,
        bool((marks.box[:, 3] > (_LOW + _TALL) / 2).any()),
        bool(thin.any()),
        bool((~thin & (marks.colour < 0) & (marks.style == FILLED)).any()),
        any(style == HATCHED for _, style in seen),
        any(style == OUTLINED for _, style in seen),
    )
    kept = [key for key, needed in zip(_KEYS, need, strict=True) if needed]
    return tuple(Key(key.text.format(by=by), key.colour, key.style) for key in kept)


def _lines(bars: Sequence[_Bar], files: Files) -> list[str]:
    """The bars in words."""
    if len({bar.inside.file for bar in bars}) < len(bars):
        return []
    return [
        f"  {files.names[bar.inside.file]}: {files.stands[bar.inside.file]}, "
        f"{human_bytes(max(0, int(files.size[bar.inside.file])))}, "
        f"{count(int(files.chunks[bar.inside.file]), 'chunk')}"
        for bar in bars
    ]
