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

from ckptlab.metadata import ITEMSIZE
from ckptlab.storage import opcodes
from ckptlab.storage.crc import Crcs, Rows, crc32, crcs
from ckptlab.storage.zip_stream import ALIGNMENT, ZipStream

TYPED_STORAGE: Mapping[str, str] = {
    "bool": "BoolStorage", "uint8": "ByteStorage", "int8": "CharStorage", "int16": "ShortStorage",
    "int32": "IntStorage", "int64": "LongStorage", "float16": "HalfStorage", "bfloat16": "BFloat16Storage",
    "float32": "FloatStorage", "float64": "DoubleStorage", "complex64": "ComplexFloatStorage",
    "complex128": "ComplexDoubleStorage",
}  # fmt: skip
"""The storage classes of dtypes that had one when torch stopped making more; the rest are untyped."""

Hashes = npt.NDArray[np.uint64]

_ROOT = "archive/"
_CRC = 4
# std::hash of the six record names before it, combined; torch puts it at the head of every serialization id.
_NAMES_HASH = b"15728199511854643026"
_ZERO_ID = _NAMES_HASH + b"0" * 20
_ZERO_CRC = np.uint32(crc32(_ZERO_ID))
# Each four digits, as they stand in memory.
_FOUR_DIGITS = (
    (np.arange(10_000)[:, None] // [1000, 100, 10, 1] % 10 + ord("0")).astype(np.uint8).view(np.uint32)[:, 0]
)


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

    def blank(self, n: int) -> Rows:
        """Chunks to be filled, one a row, `(n, length)`, uint8."""
        chunks = np.empty((n, self.length), np.uint8)
        chunks[:, : len(self.before)] = np.frombuffer(self.before, np.uint8)
        chunks[:, len(self.before) + self.nbytes :] = np.frombuffer(self._after, np.uint8)
        return chunks

    def fill(self, chunks: Rows, payloads: Rows, checks: Crcs) -> None:
        """Make chunks that were blank, or filled before, those of payloads, `(n, nbytes)`, and their crcs."""
        split = len(self.before)
        chunks[:, split : split + self.nbytes] = payloads
        after = chunks[:, split + self.nbytes :]
        for at in self._crc_at:
            after[:, at : at + 4] = checks[:, None].view(np.uint8)
        hashed = np.full(len(checks), self._hash, np.uint64)
        # torch leaves a record without bytes out of the hash.
        hashed = _combine_all(hashed, checks.astype(np.uint64)) if self.nbytes else hashed
        hashed = _combine_all(hashed, np.full(len(checks), self._version_crc, np.uint64))
        fours = np.empty((len(checks), 5), np.int64)
        for group in reversed(range(5)):
            hashed, fours[:, group] = np.divmod(hashed, np.uint64(10_000))
        # The 40 digits, four at once.
        identity = np.empty((len(checks), 10), np.uint32)
        identity[:, :5] = np.frombuffer(_NAMES_HASH, np.uint32)
        identity[:, 5:] = _FOUR_DIGITS[fours]
        after[:, self._id_at : self._id_at + 40] = identity.view(np.uint8)
        crc = np.bitwise_xor.reduce(_crcs_of_four()[range(5), fours], axis=1) ^ _ZERO_CRC
        for at in self._id_crc_at:
            after[:, at : at + 4] = crc.astype("<u4")[:, None].view(np.uint8)

    def after(self, crc: int) -> bytes:
        """The rest, for a payload of this `crc32`."""
        after = bytearray(self._after)
        for at in self._crc_at:
            struct.pack_into("<I", after, at, crc)
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
        (".storage_alignment", b"%d" % ALIGNMENT),
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


@lru_cache(maxsize=1)
def _crcs_of_four() -> Crcs:
    """What each four digits, in each fifth of a serialization id, change in its crc, `(5, 10000)`.

    A crc is linear: that of the id is that of all zeros, xor what each digit changes by itself.
    """
    ids = np.tile(np.frombuffer(_ZERO_ID, np.uint8), (20, 10, 1))
    ids[range(20), :, range(20, 40)] += np.arange(10, dtype=np.uint8)
    digits = (crcs(ids.reshape(200, 40)) ^ _ZERO_CRC).reshape(5, 4, 10)
    changed = digits[:, 0]
    for digit in range(1, 4):
        changed = (changed[:, :, None] ^ digits[:, digit, None]).reshape(5, -1)
    return changed


def _combine(seed: int, value: int) -> int:
    """c10::hash_combine, in 64 bits."""
    return seed ^ (value + 0x9E3779B9 + (seed << 6) + (seed >> 2)) & 0xFFFFFFFFFFFFFFFF


def _combine_all(seed: Hashes, value: Hashes) -> Hashes:
    """The same for many, whose sums wrap round by themselves."""
    mixed: Hashes = seed ^ (value + np.uint64(0x9E3779B9) + (seed << np.uint64(6)) + (seed >> np.uint64(2)))
    return mixed


class _Archive:
    """An archive less one payload, which is accounted for but not held.

    `crc_at` has the places of each record's checksum, `payload_at` the place of the bytes of the
    record added last.
    """

    def __init__(self) -> None:
        self._zip, self._out = ZipStream(), bytearray()
        self.crc_at: dict[str, tuple[int, ...]] = {}
        self.payload_at = 0

    def add(self, name: str, data: bytes, payload: int = 0) -> None:
        """Append a record of these bytes, or of `payload` bytes that will stand between `out`'s halves."""
        self._out += self._zip.begin(_ROOT + name, len(data) + payload)
        self.payload_at = len(self._out)
        self._out += data
        descriptor = self._zip.end(crc32(data))
        self.crc_at[name] = (len(self._out) + _CRC,) if descriptor else ()
        self._out += descriptor

    def finish(self) -> bytearray:
        """All but the payload; no more can be added."""
        begin, end = len(self._out), self._zip.finish()
        for name, place in self._zip.crc_at.items():
            self.crc_at[name.removeprefix(_ROOT)] += (begin + place,)
        self._out += end
        return self._out


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
