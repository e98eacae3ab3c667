"""The few pickle opcodes that checkpoints are made of, as bytes.

For writing what `pickle.dumps` would write of classes that this process need not have.
It writes only; it knows no file format and no torch.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

NONE, TRUE, FALSE, STOP = b"N", b"\x88", b"\x89", b"."
EMPTY_TUPLE, EMPTY_LIST, EMPTY_DICT = b")", b"]", b"}"
CALL, NEW, SET_STATE, PERSISTENT = b"R", b"\x81", b"b", b"Q"
ONE_TUPLE = b"\x85"
# Keep what is on top of the stack under the next number, and take it off.
_KEEP = b"\x940"
_SHORT_TUPLES = (ONE_TUPLE, b"\x86", b"\x87")


def header(protocol: int) -> bytes:
    """What a pickle begins with."""
    return b"\x80" + bytes([protocol])


def integer(value: int) -> bytes:
    """An int, in the shortest form that pickle chooses."""
    if 0 <= value < 256:
        return b"K" + value.to_bytes(1, "little")
    if 0 <= value < 65536:
        return b"M" + value.to_bytes(2, "little")
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    bits = (value if value >= 0 else ~value).bit_length()
    body = value.to_bytes(bits // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(body)]) + body


def text(value: str) -> bytes:
    """A str."""
    body = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(body)) + body


def texts(values: Iterable[str]) -> list[bytes]:
    """Many of them, as `text` spells each."""
    every = list(values)
    try:
        bodies = [value.encode() for value in every]
    except UnicodeEncodeError:
        return list(map(text, every))
    heads = {n: b"X" + struct.pack("<I", n) for n in set(map(len, bodies))}
    return [heads[len(body)] + body for body in bodies]


def named(module: str, name: str) -> bytes:
    """A class or function, looked up by its name."""
    return f"c{module}\n{name}\n".encode()


def tuple_of(items: Sequence[bytes]) -> bytes:
    """A tuple of items that are opcodes already."""
    if not items:
        return EMPTY_TUPLE
    if len(items) <= len(_SHORT_TUPLES):
        return b"".join(items) + _SHORT_TUPLES[len(items) - 1]
    return b"(" + b"".join(items) + b"t"


def dict_of(items: Iterable[bytes]) -> bytes:
    """A dict of keys and values by turns."""
    body = b"".join(items)
    return b"}(" + body + b"u" if body else EMPTY_DICT


def list_of(items: Iterable[bytes]) -> bytes:
    """A list."""
    body = b"".join(items)
    return b"](" + body + b"e" if body else EMPTY_LIST


def framed(body: Sequence[bytes | memoryview]) -> bytes:
    """A whole pickle of protocol 4, from its parts; its one frame lets a reader take it in at once."""
    return b"".join([header(4), b"\x95", struct.pack("<Q", sum(map(len, body))), *body])


def fetch(number: int) -> bytes:
    """The shared value of this number; see `Shared`."""
    return b"h" + bytes([number]) if number < 256 else b"j" + struct.pack("<I", number)


def fetches(numbers: npt.NDArray[np.int64]) -> list[bytes]:
    """What fetches each shared value of these numbers, in the long form."""
    rows = Rows(len(numbers))
    rows.fetch(numbers)
    every = rows.opcodes().tobytes()
    return [every[at : at + 5] for at in range(0, len(every), 5)]


class Shared:
    """Values that a pickle uses many times: made once at its beginning, fetched by number from then on.

    Each method returns the opcodes that fetch; `definitions` are the opcodes that make
    them all and leave the stack as it was.
    """

    def __init__(self) -> None:
        self._made: list[bytes] = []
        self._numbers: dict[bytes, int] = {}
        self._count = 0

    def __call__(self, opcodes: bytes) -> bytes:
        """The value that `opcodes` make."""
        return fetch(self.number(opcodes))

    def number(self, opcodes: bytes) -> int:
        """The number by which the value that `opcodes` make is fetched, as `Rows` takes it."""
        at = self._numbers.setdefault(opcodes, self._count)
        if at == self._count:
            self.several([opcodes])
        return at

    def several(self, opcodes: Sequence[bytes]) -> npt.NDArray[np.int64]:
        """As `number`, of values that are all different, and that nobody else will ask for."""
        self._made += [_KEEP.join(opcodes), _KEEP if opcodes else b""]
        self._count += len(opcodes)
        return np.arange(self._count - len(opcodes), self._count)

    @property
    def definitions(self) -> bytes:
        """To stand right after the header."""
        return b"".join(self._made)


class Rows:
    """Many stretches of opcodes that differ only in numbers, built column by column."""

    def __init__(self, count: int) -> None:
        self._count = count
        # What a row is but for its numbers, and where in it which of them begin.
        self._alike = bytearray()
        self._columns: dict[int, npt.NDArray[np.generic]] = {}

    def same(self, opcodes: bytes) -> None:
        """The same opcodes in every row."""
        self._alike += opcodes

    def fetch(self, numbers: npt.NDArray[np.int64]) -> None:
        """A shared value a row, by its number."""
        self._column(b"j", numbers.astype("<u4"))

    def integer(self, values: npt.NDArray[np.int64]) -> None:
        """An int a row, of 8 bytes whatever its size: a form that pickle itself has only for large ones."""
        self._column(b"\x8a\x08", values.astype("<i8"))

    def _column(self, opcode: bytes, values: npt.NDArray[np.generic]) -> None:
        self._alike += opcode
        self._columns[len(self._alike)] = values
        self._alike += bytes(values.itemsize)

    def opcodes(self) -> memoryview:
        """All rows, one behind the other."""
        if not self._count:
            return memoryview(b"")
        rows = np.empty((self._count, len(self._alike)), np.uint8)
        rows[:] = np.frombuffer(self._alike, np.uint8)
        for at, values in self._columns.items():
            np.ndarray(self._count, values.dtype, rows, at, (rows.shape[1],))[:] = values
        return rows.data.cast("B")
