"""Is a `torch.save` archive what its own checksums say? And what archives does a file hold?

Bytes are read in blocks, so memory is bounded however long a record is. It knows no metadata, no
checkpoint and no torch.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from ckptlab.errors import CheckpointError, CorruptError
from ckptlab.storage.archive import Archive, Read, reading_zip
from ckptlab.storage.bitflip import flipped_bit
from ckptlab.storage.template import template
from ckptlab.storage.torch_save import locate

Crc = Callable[[int, int], int]
"""`crc(offset, n)` is the crc32 of n bytes of an archive, `offset` counted from its beginning."""

State = Literal["sound", "unchecked", "crc", "wrapping", "other", "foreign", "alien"]

_LOCAL, _CENTRAL, _END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_LONG, _LONG_PLACE = b"PK\x06\x06", b"PK\x06\x07"
_END_LENGTH, _ENDS_LENGTH = 22, 98
_FLAGS, _FOLDER = 0x808, 0x10
_ODDS = 20
"""A bit is told only if it fits by chance in no more than one of so many cases."""

_BLOCK = 1 << 22


@dataclass(frozen=True)
class Verdict:
    """How an archive was found: `why` is in words unless it is sound.

    "unchecked": its writer computed no crc. "crc": a record's bytes are not those that its crc was
    computed of. "wrapping": it is no archive, or a record is not where its directory says. "other": a whole
    archive, but of another tensor. "foreign": a whole archive, but not of a tensor that can be read in place.
    "alien": nothing in it looks like an archive.
    `bit` is a byte, counted from the archive's beginning, and a bit of it that make the crc right if they
    are flipped back, where one bit may well be all that is wrong.
    """

    state: State
    why: str = ""
    bit: tuple[int, int] | None = None


def check_tensor(read: Read, crc: Crc, length: int, dtype: str, shape: tuple[int, ...]) -> Verdict:
    """Whether the archive of `length` bytes is sound and holds such a tensor.

    What torch writes today is compared bit for bit, in one pass; else each record has its crc.
    """
    known = template(dtype, shape)
    if length == known.length:
        split = len(known.before)
        if read(0, split) == known.before:
            after = known.after(crc(split, known.nbytes))
            if read(split + known.nbytes, len(after)) == after:
                return Verdict("sound")
    found = check_archive(read, crc, length)
    if found.state in ("crc", "wrapping", "alien"):
        return found
    try:
        locate(read, length, dtype, shape, "it")
    except CorruptError as error:
        return Verdict("other" if error.problems else "foreign", str(error).removeprefix("it: "))
    except CheckpointError as error:
        return Verdict("foreign", str(error).removeprefix("it: "))
    return found


def check_archive(read: Read, crc: Crc, length: int) -> Verdict:
    """Whether every record of an archive is where its directory says, with the crc that it says."""
    try:
        archive, starts = records(read, length)
    except CorruptError as error:
        begins, ends = read(0, min(length, 4)), read(max(0, length - _END_LENGTH), min(length, _END_LENGTH))
        state: State = "wrapping" if begins == _LOCAL or ends.startswith(_END) else "alien"
        return Verdict(state, str(error).removeprefix("it: "))
    checked = False
    for name, start in starts.items():
        record = archive.record(name)
        found = crc(start, record.file_size)
        # A writer that computes no crc (an option of torch.save) leaves zeros.
        if record.CRC not in (0, found):
            size = record.file_size
            why = f"record {name}, {size} bytes, has crc {found:08x}, but {record.CRC:08x} was stored"
            by_chance = size * 8 * _ODDS >= 1 << 32
            place = None if by_chance else flipped_bit(found ^ record.CRC, size)
            return Verdict("crc", why, (start + place[0], place[1]) if place else None)
        checked |= record.CRC != 0
    return Verdict("sound" if checked else "unchecked", "" if checked else "its writer stored no crc")


def records(read: Read, length: int) -> tuple[Archive, dict[str, int]]:
    """An archive, and where the bytes of each record begin; their checksums are not looked at.

    `CorruptError` if a reader could take it for something else: if its directory is not exactly what it must
    be, or says otherwise than what stands in front of the records.
    """
    with reading_zip("it"):
        _check_directory(read, length)
        archive = Archive(read, length)
        return archive, {name: _start(archive, name, read) for name in archive.names}


def _check_directory(read: Read, length: int) -> None:
    """`ValueError` for what Python's reader of zips overlooks in a directory, and torch's stumbles over."""
    stop = length - _END_LENGTH
    mark, *disks, n_here, n, size, at, comment = struct.unpack("<4sHHHHIIH", read(stop, _END_LENGTH))
    if mark != _END or any(disks) or n_here != n or comment:
        raise ValueError("it does not end as an archive does")
    if read(max(0, stop - 20), 4) == _LONG_PLACE:
        disk, long_at, all_disks = struct.unpack("<4xIQI", read(stop - 20, 20))
        mark, own, *disks, long_here, long_n, size, at = struct.unpack("<4sQ4xIIQQQQ", read(long_at, 56))
        stop, right = long_at, (mark, own, disks, disk, all_disks, long_here) == (_LONG, 44, [0, 0], 0, 1, n)
        if long_at != length - _ENDS_LENGTH or not right or long_n != n:
            raise ValueError("the record at its end contradicts itself")
    if at + size != stop:
        raise ValueError(f"its directory of {size} bytes at byte {at} does not end at byte {stop}")
    folder, place = None, at
    for _ in range(n):
        fixed = struct.unpack("<4s4xHH16xHHHHHI4x", read(place, 46))
        mark, flags, method, name, extra, comment, disk, _, attributes = fixed
        path = read(place + 46, name).partition(b"/")[0]
        if mark != _CENTRAL or flags & ~_FLAGS or method or comment or disk or attributes & _FOLDER:
            raise ValueError(f"its directory is damaged at byte {place}")
        if path != (folder := folder or path):
            raise ValueError(f"its directory names {path!r} beside {folder!r}")
        place += 46 + name + extra
    if place != stop:
        raise ValueError(f"its directory ends at byte {place}, not {stop}")


def _start(archive: Archive, name: str, read: Read) -> int:
    start, record = archive.start(name), archive.record(name)
    spelled = record.orig_filename.encode()
    if read(record.header_offset + 30, len(spelled)) != spelled:
        raise ValueError(f"record {name} has another name in front of its bytes")
    return start


def archives(read: Read, length: int) -> Iterator[tuple[int, int]]:
    """Where whole `torch.save` archives begin and end in `length` bytes, in the order of their ends.

    Found by the directory at the end of each, wherever it is; what they hold is not looked at.
    """
    for at in _signatures(read, length):
        if at + _END_LENGTH > length:
            continue
        size, offset = struct.unpack("<II", read(at + 12, 8))
        # torch writes long end records, 76 bytes of them, before the short one.
        for between in (_ENDS_LENGTH - _END_LENGTH, 0):
            directory = at - between - size
            if offset == 0xFFFFFFFF and between:
                offset = struct.unpack("<Q", read(at - 28, 8))[0]
            start = directory - offset
            if start >= 0 and read(directory, 4) == _CENTRAL and read(start, 4) == _LOCAL:
                yield start, at + _END_LENGTH
                break


def _signatures(read: Read, length: int) -> Iterator[int]:
    """Every place where the end of an archive may be."""
    at = 0
    while at < length:
        block = read(at, min(_BLOCK + len(_END) - 1, length - at))
        found = block.find(_END)
        while found >= 0:
            yield at + found
            found = block.find(_END, found + 1)
        at += _BLOCK
