"""What `torch.save` writes round the bytes of a tensor, bit for bit.

All but a checksum and a hash of it depends on dtype and shape alone, so it is a template.
It knows no torch and no file: it makes bytes.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from ckptlab.metadata import ITEMSIZE
from ckptlab.storage import opcodes

TYPED_STORAGE: Mapping[str, str] = {
    "bool": "BoolStorage", "uint8": "ByteStorage", "int8": "CharStorage", "int16": "ShortStorage",
    "int32": "IntStorage", "int64": "LongStorage", "float16": "HalfStorage", "bfloat16": "BFloat16Storage",
    "float32": "FloatStorage", "float64": "DoubleStorage", "complex64": "ComplexFloatStorage",
    "complex128": "ComplexDoubleStorage",
}  # fmt: skip
"""The storage classes of dtypes that had one when torch stopped making more; the rest are untyped."""

Rows = npt.NDArray[np.uint8]
Hashes = npt.NDArray[np.uint64]

_ALIGNMENT = 64
_MAX32 = 0xFFFFFFFF
_LOCAL = struct.Struct("<IHHHHHIIIHH")
_CENTRAL = struct.Struct("<IHHHHHHIIIHHHHHII")
# std::hash of the six record names before it, combined; torch puts it at the head of every serialization id.
_NAMES_HASH = b"15728199511854643026"


def crc32(data: bytes | bytearray | memoryview, before: int = 0) -> int:
    """The checksum that a zip keeps of a record; `before` is that of the bytes that came before."""
    return int(isal_zlib.crc32(data, before))


@dataclass(frozen=True)
class Template:
    """What stands before and after the `nbytes` of a contiguous tensor; `length` bytes in all."""

    before: bytes
    nbytes: int
    length: int
    _after: bytes
    _crc_at: tuple[int, ...]
    _id_at: int
    _id_crc_at: tuple[int, ...]
    _hash: int
    _version_crc: int

    @property
    def crc_at(self) -> int:
        """Where the payload's crc stands, as 4 little-endian bytes, counted from the chunk's beginning."""
        return len(self.before) + self.nbytes + self._crc_at[0]

    def filled(self, payloads: Rows) -> Rows:
        """Whole chunks, one a row, `(n, length)`, for payloads, `(n, nbytes)`; both uint8."""
        chunks = np.empty((len(payloads), self.length), np.uint8)
        split = len(self.before)
        chunks[:, :split] = np.frombuffer(self.before, np.uint8)
        chunks[:, split : split + self.nbytes] = payloads
        after = chunks[:, split + self.nbytes :]
        after[:] = np.frombuffer(self._after, np.uint8)
        checks = crcs(payloads)
        for at in self._crc_at:
            after[:, at : at + 4] = checks[:, None].view(np.uint8)
        hashed = _combine_all(np.full(len(checks), self._hash, np.uint64), checks.astype(np.uint64))
        hashed = _combine_all(hashed, np.full(len(checks), self._version_crc, np.uint64))
        identity = np.empty((len(checks), 40), np.uint8)
        identity[:, :20] = np.frombuffer(_NAMES_HASH, np.uint8)
        for digit in range(39, 19, -1):
            identity[:, digit] = hashed % np.uint64(10) + np.uint64(ord("0"))
            hashed //= np.uint64(10)
        after[:, self._id_at : self._id_at + 40] = identity
        for at in self._id_crc_at:
            after[:, at : at + 4] = crcs(identity)[:, None].view(np.uint8)
        return chunks

    def after(self, crc: int) -> bytes:
        """The rest, for a payload of this `crc32`."""
        after = bytearray(self._after)
        for at in self._crc_at:
            struct.pack_into("<I", after, at, crc)
        # torch leaves a record without bytes out of the hash.
        hashed = _combine(self._hash, crc) if self.nbytes else self._hash
        identity = b"%b%020d" % (_NAMES_HASH, _combine(hashed, self._version_crc))
        after[self._id_at : self._id_at + len(identity)] = identity
        for at in self._id_crc_at:
            struct.pack_into("<I", after, at, crc32(identity))
        return bytes(after)


@lru_cache(maxsize=4096)
def template(dtype: str, shape: tuple[int, ...]) -> Template:
    """The wrapping of a contiguous tensor, bit for bit what `torch.save` of torch 2.13 writes to a stream."""
    nbytes = math.prod(shape) * ITEMSIZE[dtype]
    archive, combined = _Archive(), 0
    for name, data in (
        ("data.pkl", _tensor_pickle(dtype, shape)),
        (".format_version", b"1"),
        (".storage_alignment", b"%d" % _ALIGNMENT),
        ("byteorder", b"little"),
    ):
        archive.add(name, data)
        combined = _combine(combined, crc32(data))
    archive.add("data/0", b"", payload=nbytes)
    split = archive.payload_at
    archive.add("version", b"3\n")
    archive.add(".data/serialization_id", bytes(40))
    whole = archive.finish()
    crcs = {name: tuple(at - split for at in places) for name, places in archive.crc_at.items()}
    return Template(
        before=bytes(whole[:split]),
        nbytes=nbytes,
        length=len(whole) + nbytes,
        _after=bytes(whole[split:]),
        _crc_at=crcs["data/0"],
        _id_at=archive.payload_at - split,
        _id_crc_at=crcs[".data/serialization_id"],
        _hash=combined,
        _version_crc=crc32(b"3\n"),
    )


def _combine(seed: int, value: int) -> int:
    """c10::hash_combine, in 64 bits."""
    return seed ^ (value + 0x9E3779B9 + (seed << 6) + (seed >> 2)) & 0xFFFFFFFFFFFFFFFF


def _combine_all(seed: Hashes, value: Hashes) -> Hashes:
    """The same for many, whose sums wrap round by themselves."""
    mixed: Hashes = seed ^ (value + np.uint64(0x9E3779B9) + (seed << np.uint64(6)) + (seed >> np.uint64(2)))
    return mixed


def crcs(rows: Rows) -> npt.NDArray[np.uint32]:
    """The crc32 of each row of bytes, little-endian."""
    width, data = rows.shape[1], np.ascontiguousarray(rows).data.cast("B")
    return np.array([crc32(data[at : at + width]) for at in range(0, len(data), width)], "<u4")


class _Archive:
    """A zip as torch's own writer lays it out, less one payload that is accounted for but not held.

    Local headers carry no sizes, a descriptor follows each record that has bytes, and each record's
    bytes begin at a multiple of 64. `crc_at` has the places of each record's checksum, `payload_at`
    the place of the bytes of the record added last.
    """

    def __init__(self) -> None:
        self._out, self._directory = bytearray(), bytearray()
        self._skipped = 0
        self._in_directory: dict[str, int] = {}
        self.crc_at: dict[str, tuple[int, ...]] = {}
        self.payload_at = 0

    def add(self, name: str, data: bytes, payload: int = 0) -> None:
        """Append a record of these bytes, or of `payload` bytes that will stand between `out`'s halves."""
        path, size, at = b"archive/" + name.encode(), len(data) + payload, len(self._out) + self._skipped
        crc = crc32(data)
        # The compressed size comes after the bytes, so the header before them has none.
        extra = _zip64(size, 0, at)
        fill = -(at + _LOCAL.size + len(path) + len(extra) + 4) % _ALIGNMENT
        flags = 0x808 if size else 0x800
        self._out += _LOCAL.pack(0x04034B50, 0, flags, 0, 0, 0, 0, 0, 0, len(path), len(extra) + 4 + fill)
        self._out += path + extra + b"FB" + struct.pack("<H", fill) + b"Z" * fill
        self.payload_at = len(self._out)
        self._out += data
        self._skipped += payload
        if size:
            self.crc_at[name] = (len(self._out) + 4,)
            self._out += struct.pack("<IIQQ" if extra else "<IIII", 0x08074B50, crc, size, size)
        self._in_directory[name] = len(self._directory) + 16
        extra = _zip64(size, size, at)
        shown = min(size, _MAX32)
        self._directory += _CENTRAL.pack(
            0x02014B50, 0, 0, flags, 0, 0, 0, crc, shown, shown,
            len(path), len(extra), 0, 0, 0, 0, min(at, _MAX32),
        )  # fmt: skip
        self._directory += path + extra

    def finish(self) -> bytearray:
        """All but the payload; no more can be added."""
        begin = len(self._out)
        at, size, n = begin + self._skipped, len(self._directory), len(self._in_directory)
        for name, place in self._in_directory.items():
            self.crc_at[name] = (*self.crc_at.get(name, ()), begin + place)
        end = at + size
        self._out += self._directory
        self._out += struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 0x031E, 45, 0, 0, n, n, size, at)
        self._out += struct.pack("<IIQI", 0x07064B50, 0, end, 1)
        self._out += struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, n, n, size, min(at, _MAX32), 0)
        return self._out


def _zip64(size: int, stored: int, at: int) -> bytes:
    """The extra field for sizes and places that need more than 32 bits; empty if none does."""
    body = struct.pack("<QQ", size, stored) if size >= _MAX32 else b""
    body += struct.pack("<Q", at) if at >= _MAX32 else b""
    return struct.pack("<HH", 1, len(body)) + body if body else b""


def _tensor_pickle(dtype: str, shape: tuple[int, ...]) -> bytes:
    """The record data.pkl of a contiguous tensor."""
    numbers = count()

    def kept(code: bytes) -> bytes:
        return code + b"q" + bytes([next(numbers)])

    def dims(values: Sequence[int]) -> bytes:
        code = opcodes.tuple_of([opcodes.integer(n) for n in values])
        return kept(code) if values else code

    numel, typed = math.prod(shape), TYPED_STORAGE.get(dtype)
    parts = [
        opcodes.header(2),
        kept(opcodes.named("torch._utils", "_rebuild_tensor_v2" if typed else "_rebuild_tensor_v3")),
        b"((",
        kept(opcodes.text("storage")),
        kept(opcodes.named("torch", typed) if typed else opcodes.named("torch.storage", "UntypedStorage")),
        kept(opcodes.text("0")),
        kept(opcodes.text("cpu")),
        opcodes.integer(numel if typed else numel * ITEMSIZE[dtype]),
        kept(b"t"),
        opcodes.PERSISTENT,
        opcodes.integer(0),
        dims(shape),
        dims(contiguous(shape)),
        opcodes.FALSE,
        kept(opcodes.named("collections", "OrderedDict")),
        kept(opcodes.EMPTY_TUPLE + opcodes.CALL),
        b"" if typed else kept(opcodes.named("torch", dtype)),
        kept(b"t"),
        kept(opcodes.CALL),
        opcodes.STOP,
    ]
    return b"".join(parts)


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides, in elements, of a contiguous tensor, as torch counts them."""
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= max(n, 1)
    return tuple(reversed(strides))
