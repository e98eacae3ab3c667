"""Bytes in named files under one root: ranged reads, and writes that appear in one step.

The seam to wherever checkpoints are kept: a local directory, or what a URL names. It knows no
format: not what a name means, nor what the bytes are.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import PurePosixPath
from typing import Protocol

from ckptlab.errors import CorruptError

Buffer = bytes | bytearray | memoryview


class Writer(Protocol):
    """A file that is being written."""

    def write_at(self, offset: int, buffers: Sequence[Buffer]) -> None:
        """Write the buffers one after the other from byte `offset`; safe from several threads at once."""

    def sync(self) -> None:
        """Return when what was written so far would survive a power cut."""


class Files(Protocol):
    """Named files under a root; `root` is for messages."""

    @property
    def root(self) -> str:
        """Where the files are."""

    def make(self) -> None:
        """Make the root ready to be written into; `PathError` if it cannot be one."""

    def names(self) -> tuple[str, ...]:
        """Every file directly under the root, sorted."""

    def size(self, name: str) -> int:
        """Bytes of a file; `CorruptError` if it is missing."""

    def read(self, name: str, start: int, length: int) -> bytes:
        """Exactly `length` bytes from byte `start`; `CorruptError` if the file has not got them."""

    def read_into(self, name: str, start: int, into: memoryview) -> None:
        """Fill `into` (contiguous bytes) from byte `start`; `CorruptError` if the file has not got enough."""

    def view(self, name: str) -> AbstractContextManager[memoryview]:
        """The whole file, mapped, read-only."""

    def create(self, name: str, size: int = 0) -> AbstractContextManager[Writer]:
        """An empty file to write, its `size` bytes of disk reserved if that is known beforehand."""

    def publish(self, name: str, data: bytes, sync: bool) -> None:
        """Put a whole file in place in one step, over an old one if there is one."""

    def rename(self, old: str, new: str, sync: bool) -> None:
        """Give a whole file its final name in one step, over an old file if there is one."""

    def remove(self, name: str) -> None:
        """Delete a file; nothing happens if there is none."""

    def close(self) -> None:
        """Let go of what is held open; reading again opens it again."""


def inside(name: str, where: str) -> str:
    """The name, if it leads to something under the root; else `CorruptError`. `where` claims it."""
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\0" in name or path == PurePosixPath("."):
        raise CorruptError(f"{where}: names the file {name!r}, which is not inside the checkpoint", [name])
    return name
