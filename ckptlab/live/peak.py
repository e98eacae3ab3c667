"""The most memory that this process had since a moment, above what it had then.

Linux tells; elsewhere nothing is known. It knows no torch and no other rank.
"""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress
from pathlib import Path

UNKNOWN = -1


class Peak:
    """Begins to measure when it is made."""

    def __init__(self) -> None:
        self._began = UNKNOWN
        if sys.platform != "linux":
            return
        with suppress(OSError, AttributeError):
            # What was freed and kept for later would be used again unseen.
            ctypes.CDLL(None).malloc_trim(0)
        with suppress(OSError):
            # Forgets the highest mark so far.
            Path("/proc/self/clear_refs").write_text("5")
            self._began = _resident("VmRSS")

    @property
    def nbytes(self) -> int:
        """Bytes of resident memory, files that are mapped included, beyond the beginning; or `UNKNOWN`."""
        return UNKNOWN if self._began == UNKNOWN else max(0, _resident("VmHWM") - self._began)


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{field}:"))
