"""A far file on its way: sent in order, then kept or dropped as a whole.

It knows no format, and not where the file goes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from ckptlab.storage.files import Buffer

BLOCK = 32 << 20
"""Bytes that are sent at once."""

# Object stores take 10,000 parts a file.
_MOST_BLOCKS = 9_000


class Upload:
    """A file that is written from its beginning to its end; `at` bytes were written so far.

    `file` is what fsspec opened to be committed later; `told(what, step)` does a step that may fail
    and says what failed.
    """

    def __init__(self, file: Any, told: Callable[[str, Callable[[], object]], object]) -> None:
        self.at = 0
        self._file, self._told = file, told
        self._lock = threading.Lock()

    def write_at(self, offset: int, buffers: Sequence[Buffer]) -> None:
        """Write the buffers one after the other; `offset` is where the last ones ended."""
        with self._lock:
            assert offset == self.at, f"byte {offset} of a stream that stands at byte {self.at}"
            for buffer in buffers:
                view = memoryview(buffer).cast("B")
                for start in range(0, len(view), BLOCK):
                    self._send(view[start : start + BLOCK])
                self.at += len(view)

    def _send(self, data: memoryview) -> None:
        self._told(f"write byte {self.at}", lambda: self._file.write(data))

    def sync(self) -> None:
        """Hand on what a buffer holds; a far file is there, and lasts, when it is whole, and not before."""
        self._told("write it", self._file.flush)

    def keep(self) -> None:
        """Send the rest, and let the file appear."""

        def keep() -> None:
            self._file.close()
            if hasattr(self._file, "commit"):
                self._file.commit()

        self._told("write it", keep)

    def drop(self, remove: Callable[[], None]) -> None:
        """Let go of a file that is not to appear; `remove` deletes one that did so while it grew."""
        if hasattr(self._file, "discard"):
            self._file.discard()
        if hasattr(self._file, "blocksize") and hasattr(self._file, "offset"):
            # Closing one of fsspec's buffered files would send the rest.
            self._file.closed = True
            return
        self._file.close()
        remove()


def block_for(size: int) -> int:
    """Bytes of a part of a file of `size` bytes, so that it has few enough; 0 if nobody knows the size."""
    return max(BLOCK, -(-size // _MOST_BLOCKS))
