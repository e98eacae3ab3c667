"""Records of a pickle that differ in numbers and texts alone, read together: step by step, a field of all.

A record is a key and a value, each an object whose state is a dict of few fields. It reads what is like the
first one of them to the byte, and stops before what is not. It makes no object, and knows no checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt

from ckptlab.storage.opcodes import fetch
from ckptlab.storage.torch_save import StandIn

Ints = npt.NDArray[np.int64]

_FEW, _MANY = 64, 1 << 17
"""Records that are read at once: few first, then more as long as they are alike."""

_PIECE = 8 << 20
_NEW = b")\x81\x94}\x94("
_MOST = 8
"""Dims of a record."""


class Irregular(Exception):  # noqa: N818
    """The pickle has something that is not known here; nothing is wrong with it for that."""


@dataclass(frozen=True, eq=False)
class Shape:
    """How records come: an object of `key` with the fields `text`, `hint`, `dims`; one of `value` with
    `name`, `start` and `length`. `size` is what dims are made by.
    """

    key: object
    value: object
    size: object
    text: str
    hint: str
    dims: str
    name: str
    start: str
    length: str


@dataclass(frozen=True, eq=False)
class Records:
    """Columns of many records. Texts and names are numbers in `texts` and `names`.

    `hint` is -1 where there is none; record i has `ndim[i]` numbers in `dims[i]` (-1: it has none at all).
    """

    texts: Sequence[str]
    names: Sequence[str]
    text: Ints
    hint: Ints
    ndim: Ints
    dims: Ints
    name: Ints
    start: Ints
    length: Ints


class _Numbers(dict[bytes, int]):
    """A number for each different text, given out when it is first seen."""

    def __missing__(self, key: bytes) -> int:
        self[key] = len(self)
        return self[key]


class Lockstep:
    """The records that follow a first one, `key` and `value`; `numbers` are by which names are fetched."""

    def __init__(
        self,
        data: bytes,
        shape: Shape,
        numbers: Mapping[object, int],
        values: Mapping[int, object],
        key: StandIn,
        value: StandIn,
    ) -> None:
        self._data, self._shape, self._values = data, shape, values
        self._bytes = np.frombuffer(data, np.uint8)
        # Eight bytes from any byte on.
        self._words = np.ndarray((len(data) - 7,), "<u8", data, 0, (1,))
        self._code = {what: fetch(number) for what, number in numbers.items()}
        self._fields = (tuple(key.__dict__), tuple(value.__dict__))
        self._head = self._code[shape.key] + _NEW + self._code[self._fields[0][0]]
        self._texts, self._names = _Numbers(), _Numbers()
        self._several, self._room = _FEW, _Room()
        self._seen: dict[str, tuple[list[Ints], list[Ints]]] = {"text": ([], []), "name": ([], [])}

    def read(self, at: int, count: int) -> tuple[Records, int, int] | None:
        """The records from byte `at` on, where they end, and how many values are numbered then."""
        if not self._data.startswith(self._head, at):
            if self._data[at : at + 2] != b"u(" or not self._data.startswith(self._head, at + 2):
                return None
            at += 2
        heads = (found.start() for found in re.compile(re.escape(self._head)).finditer(self._data, at))
        begin = np.fromiter(islice(heads, self._several), np.int64)
        step = _Step(self._bytes, self._words, begin)
        columns = {self._shape.hint: np.full(len(begin), -1)}
        for kind, fields in ((self._shape.key, self._fields[0]), (self._shape.value, self._fields[1])):
            step.expect(self._code[kind] + _NEW)
            step.made += 2
            for field in fields:
                step.expect(self._code[field])
                self._field(step, kind, field, columns)
            step.expect(b"ub")
        good = step.good.copy()
        good[1:] &= step.before(begin[1:])
        n = len(good) if good.all() else int(np.argmin(good))
        self._several = min(4 * self._several, _MANY) if n == len(good) else _FEW
        if not n:
            return None
        first = count + np.cumsum(step.made) - step.made
        records = self._records(columns, first, n)
        return records, int(step.at[n - 1]), int(first[n - 1] + step.made[n - 1])

    def _field(self, step: _Step, kind: object, field: str, columns: dict[str, Ints]) -> None:
        shape = self._shape
        role = {shape.text: "text", shape.hint: "hint", shape.dims: "dims"} if kind is shape.key else {}
        role = role or {shape.name: "name", shape.start: "start", shape.length: "length"}
        what = role[field]
        if what in ("text", "name"):
            columns[what], columns[f"{what} end"], columns[f"{what} at"] = step.text()
        elif what == "dims":
            columns["ndim"], columns["dims"] = step.dims(self._code[shape.size])
        else:
            columns[what] = step.integer()

    def _records(self, columns: Mapping[str, Ints], first: Ints, n: int) -> Records:
        text, name = (self._resolved(what, columns, first, n) for what in ("text", "name"))
        dims = columns["dims"]
        kept = self._room.take(6 + dims.shape[1], n)
        for row, column in zip(kept, (text, columns["hint"], columns["ndim"], name), strict=False):
            row[:] = column[:n]
        kept[4], kept[5], kept[6:] = columns["start"][:n], columns["length"][:n], dims[:n].T
        return Records(
            [key.decode("utf-8", "surrogatepass") for key in self._texts],
            [key.decode("utf-8", "surrogatepass") for key in self._names],
            kept[0],
            kept[1],
            kept[2],
            kept[6:].T,
            kept[3],
            kept[4],
            kept[5],
        )

    def _resolved(self, what: str, columns: Mapping[str, Ints], first: Ints, n: int) -> Ints:
        """A number for the text of each record; texts that were fetched are looked up among those made."""
        begin, end, at = (columns[key][:n] for key in (what, f"{what} end", f"{what} at"))
        numbers = self._texts if what == "text" else self._names
        made = np.flatnonzero(end >= 0)
        data, each = self._data, zip(begin[made].tolist(), end[made].tolist(), strict=True)
        out = np.empty(n, np.int64)
        out[made] = np.fromiter((numbers[data[a:b]] for a, b in each), np.int64, len(made))
        places, known = self._seen[what]
        kept = self._room.take(2, len(made))
        kept[0], kept[1] = (first[:n] + at)[made], out[made]
        places.append(kept[0])
        known.append(kept[1])
        fetched = np.flatnonzero(end < 0)
        if len(fetched):
            place, number = np.concatenate(places), np.concatenate(known)
            self._seen[what] = ([place], [number])
            wanted = begin[fetched]
            found = np.minimum(np.searchsorted(place, wanted), max(0, len(place) - 1))
            there = (place[found] == wanted) if len(place) else np.zeros(len(wanted), bool)
            out[fetched[there]] = number[found[there]]
            for i in fetched[~there].tolist():
                value = self._values[int(begin[i])]
                if type(value) is not str:
                    raise Irregular("a text that is none")
                out[i] = numbers[value.encode("utf-8", "surrogatepass")]
        return out


class _Room:
    """Memory for columns, in pieces so large that the system gets each back when it is let go."""

    def __init__(self) -> None:
        self._left = np.empty(0, np.int64)

    def take(self, columns: int, n: int) -> Ints:
        """Room for `n` numbers in each column, `(columns, n)`."""
        if columns * n > len(self._left):
            self._left = np.empty(max(_PIECE, columns * n), np.int64)
        taken, self._left = self._left[: columns * n], self._left[columns * n :]
        return taken.reshape(columns, n)


class _Step:
    """Where many records have been read up to, how many values each has made, and which are still good."""

    def __init__(self, data: npt.NDArray[np.uint8], words: npt.NDArray[np.uint64], begin: Ints) -> None:
        self._data, self._words = data, words
        self._last = len(words) - 1
        self.at = begin.copy()
        self.made = np.zeros(len(begin), np.int64)
        self.good = np.ones(len(begin), bool)

    def _ahead(self, by: Ints | int) -> npt.NDArray[np.uint64]:
        words: npt.NDArray[np.uint64] = self._words[np.minimum(self.at + by, self._last)]
        return words

    def expect(self, opcodes: bytes) -> None:
        """These very bytes."""
        for low in range(0, len(opcodes), 8):
            part = opcodes[low : low + 8]
            mask = np.uint64((1 << 8 * len(part)) - 1)
            self.good &= (self._ahead(low) & mask) == np.uint64(int.from_bytes(part, "little"))
        self.at += len(opcodes)

    def integer(self) -> Ints:
        """An int; None counts as -1."""
        opcode = self._ahead(0)
        kind, long = (opcode & 0xFF).astype(np.int64), ((opcode >> 8) & 0xFF).astype(np.int64)
        is_long = kind == 0x8A
        size = np.select([kind == 0x4B, kind == 0x4D, kind == 0x4A, is_long], [1, 2, 4, long], 0)
        none = kind == 0x4E
        self.good &= ((size > 0) & (size <= 8)) | none
        shift = (64 - 8 * np.clip(size, 1, 8)).astype(np.uint64)
        raw = self._ahead(1 + is_long) << shift
        signed = raw.view(np.int64) >> shift.view(np.int64)
        value = np.where((kind == 0x4A) | is_long, signed, (raw >> shift).view(np.int64))
        self.at += np.where(none, 1, 1 + is_long + size)
        return np.where(none, -1, value)

    def text(self) -> tuple[Ints, Ints, Ints]:
        """Begin and end of a text, and which of its record's values it is; one that is fetched has no end.

        Then its begin is its number.
        """
        opcode = self._ahead(0)
        kind, length = opcode & 0xFF, ((opcode >> 8) & 0xFF).astype(np.int64)
        spelled, long = kind == 0x8C, kind == 0x6A
        self.good &= spelled | long | (kind == 0x68)
        number = np.where(long, (opcode >> 8) & 0xFFFFFFFF, length.view(np.uint64)).astype(np.int64)
        begin = self.at + 2
        self.good &= ~spelled | ((self._ahead(2 + length) & 0xFF) == 0x94)
        place = self.made.copy()
        self.made += spelled
        self.at += np.where(spelled, 3 + length, np.where(long, 5, 2))
        return np.where(spelled, begin, number), np.where(spelled, begin + length, -1), place

    def dims(self, size: bytes) -> tuple[Ints, Ints]:
        """How many numbers a Size has, and the numbers, `(n, most)`."""
        self.expect(size)
        values, count = [], np.zeros(len(self.at), np.int64)
        first = self._ahead(0) & 0xFF
        scalar, marked = first == 0x29, first == 0x28
        self.at += marked
        for d in range(_MOST):
            kind = self._ahead(0) & 0xFF
            more = (kind == 0x4B) | (kind == 0x4D) | (kind == 0x4A) | (kind == 0x8A)
            some = np.flatnonzero(more & (count == d))
            if not len(some):
                break
            part = _Step(self._data, self._words, self.at[some])
            values.append(np.zeros(len(self.at), np.int64))
            values[d][some] = part.integer()
            self.at[some], self.good[some] = part.at, self.good[some] & part.good
            count[some] += 1
        # One opcode for tuples of one to three, and one for those that began with a mark.
        end = self._ahead(0) & 0xFFFF
        self.good &= scalar | (end == np.where(marked, 0x9474, 0x9484 + count))
        self.good &= np.where(scalar, count == 0, marked == (count > 3))
        self.at += np.where(scalar, 1, 2)
        self.expect(b"\x85\x94R\x94")
        self.made += np.where(scalar, 2, 3)
        return count, np.stack(values, axis=1) if values else np.zeros((len(count), 0), np.int64)

    def before(self, begin: Ints) -> npt.NDArray[np.bool_]:
        """Whether all but the last end where the next of `begin` stands, or a batch of items ends between."""
        between = self._ahead(0)[:-1] & 0xFFFF
        end = self.at[:-1]
        follows: npt.NDArray[np.bool_] = (end == begin) | ((between == 0x2875) & (end + 2 == begin))
        return follows
