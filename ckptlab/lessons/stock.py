"""Loads by stock DCP on real ranks, and what they read: each byte that comes off a data file is counted.

Runs on ranks. No notebook and no pictures.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load

from ckptlab.layout import Layout
from ckptlab.lessons.small import held_by, target
from ckptlab.live.ranks import Context
from ckptlab.metadata import Tensor


def load_by_stock(
    context: Context, path: str, layout: Layout, tensors: tuple[Tensor, ...]
) -> tuple[int, bool]:
    """Load tensors of the small model by stock DCP: bytes read here, and whether each element is right."""
    state: dict[str, Any] = {tensor.fqn: target(context, tensor, layout) for tensor in tensors}
    reader, counted = FileSystemReader(path), list[int]()
    reader.fs = _Files(counted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load(state, storage_reader=reader)
    right = all(
        torch.equal(state[tensor.fqn].to_local(), held_by(context, tensor, layout).to_local())
        for tensor in tensors
    )
    return sum(counted), right


class _Raw(io.FileIO):
    """A file that tells how much is read of it."""

    def __init__(self, path: str, counted: list[int]) -> None:
        super().__init__(path, "rb")
        self._counted = counted

    def readinto(self, buffer: Any, /) -> int | None:
        """As any file does."""
        read = super().readinto(buffer)
        self._counted.append(read or 0)
        return read


class _Files(FileSystem):
    """Stock's own files, of which those that hold data tell how much is read of them."""

    def __init__(self, counted: list[int]) -> None:
        super().__init__()
        self._counted = counted

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Generator[io.IOBase, None, None]:
        """As stock's own."""
        if Path(path).suffix == ".distcp" and mode == "rb":
            with io.BufferedReader(_Raw(os.fspath(path), self._counted)) as stream:
                yield stream
        else:
            with super().create_stream(path, mode) as stream:
                yield stream
