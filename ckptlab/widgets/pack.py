"""A scene as the front end takes it: a small header of words, and one buffer of typed columns.

Marks never travel as lists of JSON. This module does not know how a scene is drawn, nor who
carries the two parts to the browser.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from ckptlab.explorer.scene import Fact, Panel, Scene
from ckptlab.widgets.palette import CYCLE

ALIGN = 8
"""Every column starts at a multiple of this, as typed arrays of the browser ask."""

_NARROW = (np.int8, np.int16, np.int32, np.int64)


def pack(scene: Scene) -> tuple[dict[str, Any], bytes]:
    """The header and the columns of a scene.

    A column stands in the header as `[dtype, offset, count]`: `count` items of a numpy `dtype`,
    little endian, from byte `offset` of the buffer. A column of texts is
    `["text", offset, bytes, count]`, UTF-8 with a zero byte between two texts. A fact's values
    are row by row, `wide` numbers a mark.
    """
    columns = _Columns()
    header = {
        "title": scene.title,
        "colours": list(CYCLE),
        "legend": [asdict(key) for key in scene.legend],
        "panels": [_panel(panel, columns) for panel in scene.panels],
    }
    return header, bytes(columns.buffer)


class _Columns:
    """Grows the buffer; what it returns is the place of what was added."""

    def __init__(self) -> None:
        self.buffer = bytearray()

    def numbers(self, values: npt.NDArray[Any]) -> list[str | int]:
        return [values.dtype.name, self._append(np.ascontiguousarray(values).tobytes()), values.size]

    def texts(self, values: Iterable[str]) -> list[str | int]:
        texts = tuple(values)
        data = "\0".join(texts).encode()
        return ["text", self._append(data), len(data), len(texts)]

    def _append(self, data: bytes) -> int:
        self.buffer += bytes(-len(self.buffer) % ALIGN)
        offset = len(self.buffer)
        self.buffer += data
        return offset


def _panel(panel: Panel, columns: _Columns) -> dict[str, Any]:
    marks = panel.marks
    return {
        "name": panel.name,
        "kind": panel.kind,
        "title": panel.title,
        "caption": panel.caption,
        "width": panel.width,
        "height": panel.height,
        "rigid": panel.rigid,
        "notes": [asdict(note) for note in panel.notes],
        "plane": asdict(panel.plane) if panel.plane else None,
        "box": columns.numbers(marks.box.astype(np.float32)),
        "colour": columns.numbers(marks.colour.astype(np.int16)),
        "style": columns.numbers(marks.style.astype(np.uint8)),
        "first": columns.numbers(marks.first.astype(np.int32)),
        "ranks": columns.numbers(marks.ranks.astype(np.int32)),
        "labels": columns.texts(marks.labels),
        "facts": [_fact(fact, columns) for fact in marks.facts],
    }


def _fact(fact: Fact, columns: _Columns) -> dict[str, Any]:
    values = fact.values
    return {
        "label": fact.label,
        "kind": fact.kind,
        "wide": values.shape[1] if values.ndim == 2 else 1,
        "values": columns.numbers(_narrow(values)),
        "words": columns.texts(fact.words),
    }


def _narrow(values: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """The same numbers in the smallest signed type that holds them all: a page of 16,384 tiles shrinks 4x."""
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    fits = next(t for t in _NARROW if np.iinfo(t).min <= low and high <= np.iinfo(t).max)
    return values.astype(fits)
