"""A zip file in which nothing is compressed, written from its beginning to its end.

Laid out as torch's own writer does: local headers carry no sizes, a descriptor follows each
record that has bytes, and each record's bytes begin at a multiple of 64. It makes bytes, and
knows no file and no pickle.
"""

from __future__ import annotations

import struct

ALIGNMENT = 64

_MAX16, _MAX32 = 0xFFFF, 0xFFFFFFFF
_LOCAL = struct.Struct("<IHHHHHIIIHH")
_CENTRAL = struct.Struct("<IHHHHHHIIIHHHHHII")
_CRC = 16


class ZipStream:
    """Makes what stands between records: `begin`, then the record's own bytes, then `end`; `finish` last.

    `crc_at` tells by name where in what `finish` gives the crc32 of a record stands, as `end` put it.
    """

    def __init__(self) -> None:
        self.crc_at: dict[str, int] = {}
        self._at = 0
        self._directory = bytearray()
        self._open: tuple[bytes, int, int] = (b"", 0, 0)

    def begin(self, name: str, size: int) -> bytes:
        """What stands before a record of `size` bytes."""
        path, at = name.encode(), self._at
        extra = _zip64(size, 0, at)
        fill = -(at + _LOCAL.size + len(path) + len(extra) + 4) % ALIGNMENT
        head = _LOCAL.pack(0x04034B50, 0, _flags(size), 0, 0, 0, 0, 0, 0, len(path), len(extra) + 4 + fill)
        self._open = (path, size, at)
        self._at += len(head) + len(path) + len(extra) + 4 + fill + size
        return head + path + extra + b"FB" + struct.pack("<H", fill) + b"Z" * fill

    def end(self, crc: int) -> bytes:
        """What stands behind the record that was begun last, whose bytes have this crc32."""
        path, size, at = self._open
        extra = _zip64(size, size, at)
        shown = min(size, _MAX32)
        self.crc_at[path.decode()] = len(self._directory) + _CRC
        self._directory += _CENTRAL.pack(
            0x02014B50, 0, 0, _flags(size), 0, 0, 0, crc, shown, shown,
            len(path), len(extra), 0, 0, 0, 0, min(at, _MAX32),
        )  # fmt: skip
        self._directory += path + extra
        if not size:
            return b""
        after = struct.pack("<IIQQ" if extra else "<IIII", 0x08074B50, crc, size, size)
        self._at += len(after)
        return after

    def finish(self) -> bytes:
        """What ends the file."""
        at, size, n = self._at, len(self._directory), len(self.crc_at)
        out = bytes(self._directory)
        out += struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 0x031E, 45, 0, 0, n, n, size, at)
        out += struct.pack("<IIQI", 0x07064B50, 0, at + size, 1)
        few, short = min(n, _MAX16), min(size, _MAX32)
        return out + struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, few, few, short, min(at, _MAX32), 0)


def _flags(size: int) -> int:
    """Names are UTF-8; a record with bytes has a descriptor behind it."""
    return 0x808 if size else 0x800


def _zip64(size: int, stored: int, at: int) -> bytes:
    """The extra field for sizes and places that need more than 32 bits; empty if none does."""
    body = struct.pack("<QQ", size, stored) if size >= _MAX32 else b""
    body += struct.pack("<Q", at) if at >= _MAX32 else b""
    return struct.pack("<HH", 1, len(body)) + body if body else b""
