"""Bytes in named files under one root: ranged reads, and writes that appear in one step.

The seam to wherever checkpoints are kept: a local directory, or what a URL names. It knows no
format: not what a name means, nor what the bytes are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import PurePosixPath
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from ckptlab.errors import CorruptError

Buffer = bytes | bytearray | memoryview
Ints = npt.NDArray[np.int64]

Kind = Literal["file", "folder", "other"]
"""What stands under a name; a link, whatever it leads to, is "other"."""


class Writer(Protocol):
    """A file that is being written."""

    def write_at(self, offset: int, buffers: Sequence[Buffer]) -> None:
        """Write the buffers one after the other from byte `offset`; safe from several threads at once.

        A far file is a stream: there each write begins where the one before it ended.
        """

    def sync(self) -> None:
        """Return when what was written so far would survive a power cut.

        A far file is there, and lasts, when its `create` ends, and not before.
        """


class Files(Protocol):
    """Named files under a root; `root` is for messages."""

    @property
    def root(self) -> str:
        """Where the files are."""

    def folder(self, name: str) -> Files:
        """The files of a folder under the root."""

    @property
    def mapped(self) -> bool:
        """Whether a view is mapped, so that only what is looked at is read."""

    @property
    def private(self) -> bool:
        """Whether no other process can see them."""

    @property
    def requests(self) -> int:
        """Ranged reads that were asked of far storage so far; none of local files."""

    @property
    def fetched(self) -> int:
        """Bytes that they brought."""

    def make(self) -> None:
        """Make the root ready to be written into; `PathError` if it cannot be one."""

    def names(self) -> tuple[str, ...]:
        """Every file directly under the root, sorted."""

    def sizes(self) -> Mapping[str, int]:
        """Bytes of every file directly under the root, by name, sorted; asks once for all of them."""

    def entries(self) -> Mapping[str, Kind]:
        """What stands directly under the root, by name, sorted; nothing if there is no such root."""

    def size(self, name: str) -> int:
        """Bytes of a file; `CorruptError` if it is missing."""

    def read(self, name: str, start: int, length: int) -> bytes:
        """Exactly `length` bytes from byte `start`; `CorruptError` if the file has not got them."""

    def read_into(self, name: str, start: int, into: memoryview) -> None:
        """Fill a buffer (contiguous bytes) from byte `start`; `CorruptError` if the file has not enough."""

    def read_checked(self, name: str, start: int, into: memoryview, behind: memoryview) -> int:
        """Fill two buffers that follow each other from byte `start`; the crc32 of the first.

        It is taken while the bytes are in the processor's cache, where that can be. `CorruptError` if
        the file has not got enough.
        """

    def expect(self, name: str, starts: Ints, lengths: Ints) -> None:
        """Say which extents of a file will be read, in any order, instead of what was said before.

        Of a far file small ones that are neighbours are then fetched together, by the rule of
        `plan.spans`; local files need no such help.
        """

    def view(
        self, name: str, start: int = 0, length: int | None = None
    ) -> AbstractContextManager[memoryview]:
        """`length` bytes from byte `start`, or all that follow, read-only; `CorruptError` if there are fewer.

        Mapped where the files are local. Of a far file these bytes are fetched, and no others.
        """

    def create(self, name: str, size: int = 0) -> AbstractContextManager[Writer]:
        """An empty file to write, its `size` bytes of disk reserved if that is known beforehand."""

    def publish(self, name: str, data: bytes, sync: bool) -> None:
        """Put a whole file in place in one step, over an old one if there is one."""

    def rename(self, old: str, new: str, sync: bool) -> None:
        """Give a whole file its final name in one step, over an old file if there is one."""

    def remove(self, name: str) -> None:
        """Delete a file; nothing happens if there is none."""

    def unmake(self) -> None:
        """Delete the root itself if nothing is left in it."""

    def close(self) -> None:
        """Let go of what is held open; reading again opens it again."""


def inside(name: str, where: str) -> str:
    """The name, if it leads to something under the root; else `CorruptError`. `where` claims it."""
    if "/" not in name and "\0" not in name and name not in ("", ".", ".."):
        return name
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\0" in name or path == PurePosixPath("."):
        raise CorruptError(f"{where}: names the file {name!r}, which is not inside the checkpoint", [name])
    return name
