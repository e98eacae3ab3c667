"""The crc32 that zip archives keep of their records.

It knows no file and no format.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

Rows = npt.NDArray[np.uint8]
Crcs = npt.NDArray[np.uint32]


def crc32(data: bytes | bytearray | memoryview, before: int = 0) -> int:
    """The crc32 of bytes; `before` is that of the bytes that came before."""
    return int(isal_zlib.crc32(data, before))


def crcs(rows: Rows) -> Crcs:
    """The crc32 of each row of bytes, little-endian."""
    return np.fromiter(map(isal_zlib.crc32, np.ascontiguousarray(rows)), "<u4", len(rows))
