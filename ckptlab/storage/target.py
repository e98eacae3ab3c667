"""Where a conversion goes: a place that may be written to, and files that appear only when they are whole.

It knows no elements, and of formats only which files make up a checkpoint.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from ckptlab.errors import CheckpointError, PathError
from ckptlab.events import Trace
from ckptlab.storage.checkpoint import open_directory
from ckptlab.storage.dcp import METADATA_FILE
from ckptlab.storage.files import Files
from ckptlab.storage.opened import Checkpoint, Format
from ckptlab.storage.safetensors import INDEX_SUFFIX, SUFFIX
from ckptlab.storage.sidecar import SIDECAR_PREFIX
from ckptlab.storage.stream import Stream
from ckptlab.storage.where import files_at, is_url, parted

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")

_BEGUN = re.compile(r"\.(.+)\.[0-9a-f]{32}\.tmp")


@dataclass(frozen=True)
class Target:
    """The file `name` under `files`, or all of `files` if `name` is None; `old` is the checkpoint there now.

    A new checkpoint in a directory that has files of one takes file names of its own `generation`.
    """

    path: str
    format: Format
    files: Files
    name: str | None
    old: Checkpoint | None
    generation: str
    sync: bool
    trace: Trace
    _begun: list[str] = field(default_factory=list)
    _made: list[bool] = field(default_factory=list)

    def make(self) -> None:
        """Make it ready to be written into."""
        self._made.append(not is_url(self.files.root) and not Path(self.files.root).exists())
        self.files.make()

    @contextmanager
    def file(self, name: str, size: int = 0) -> Iterator[Stream]:
        """A new file, written from its beginning to its end; `size` bytes are reserved for it."""
        self._begun.append(name)
        with self.files.create(name, size) as writer:
            yield Stream(writer, self.trace)
            if self.sync:
                writer.sync()

    def rename(self, begun: str, name: str) -> None:
        """Give a file that is whole its name."""
        self.files.rename(begun, name, self.sync)
        if name not in (self.old.metadata.files if self.old else ()) and name != self.name:
            self._begun.append(name)

    def discard(self) -> None:
        """Remove what was begun; never raises, for something else went wrong already."""
        for name in self._begun:
            with suppress(CheckpointError, OSError):
                self.files.remove(name)
        if any(self._made):
            with suppress(CheckpointError, OSError):
                self.files.unmake()

    def clear(self, new: Collection[str]) -> None:
        """Remove what the old checkpoint left, first what makes it one, and what killed conversions left."""
        names = [name for name in self.files.names() if name not in new]
        data = set(self.old.metadata.files if self.old else ())
        control = [name for name in names if self.old and _control(name)]
        unfinished = [name for name in names if (found := _BEGUN.fullmatch(name)) and found[1] in new]
        for name in dict.fromkeys([*control, *(name for name in names if name in data), *unfinished]):
            self.files.remove(name)


def temporary(name: str) -> str:
    """A name for a file that is not whole yet."""
    return f".{name}.{uuid.uuid4().hex}.tmp"


def target_at(
    path: str | os.PathLike[str],
    format: Format,
    source: Checkpoint,
    overwrite: bool,
    sync: bool,
    trace: Trace,
) -> Target:
    """The place at `path` for a checkpoint of this format.

    Raises `PathError` if it is the source, is there already (unless `overwrite`), or is a directory where the
    format has one file.
    """
    text = os.fspath(path)
    single = format == "torch" or (format == "safetensors" and text.endswith(SUFFIX))
    if single:
        root, name = parted(text)
        parent = files_at(root)
        kind = parent.entries().get(name)
        if kind == "folder" or name in ("", ".", ".."):
            raise PathError(
                f"{text} is a directory; name a file, such as {text.rstrip('/')}/model.pt", [text]
            )
        if _real(parent, name) in _source(source):
            raise PathError(f"{text} is the source itself; choose another target", [text])
        _refuse(text, kind is not None, overwrite)
        return Target(text, format, parent, name, None, "", sync, trace)
    files = files_at(path)
    if not is_url(files.root) and Path(files.root).is_file():
        raise PathError(f"{text} is a file; such a checkpoint is a directory", [text])
    old = _old(text, files)
    same = old is not None and bool(_source(old) & _source(source))
    if same or (source.format == "dcp" and _real(files) == _real(source.files)):
        raise PathError(f"{text} is the source itself; choose another target", [text])
    parts = [name for name in files.names() if _control(name) or name.endswith((SUFFIX, ".distcp"))]
    _refuse(text, old is not None or bool(parts), overwrite)
    generation = uuid.uuid4().hex[:8] if parts else ""
    return Target(text, format, files, None, old, generation, sync, trace)


def _old(path: str, files: Files) -> Checkpoint | None:
    """The checkpoint in a directory, if there is one."""
    try:
        return open_directory(path, files)
    except PathError:
        return None
    except CheckpointError as error:
        raise PathError(
            f"{path} holds a checkpoint that cannot be opened; remove it or choose another path: {error}",
            [path],
        ) from error


def _refuse(path: str, there: bool, overwrite: bool) -> None:
    if there and not overwrite:
        raise PathError(f"{path} is there already; choose another path or overwrite=True", [path])


def _control(name: str) -> bool:
    """Whether a file makes others a checkpoint, or tells of one."""
    return name == METADATA_FILE or name.endswith(INDEX_SUFFIX) or name.startswith(SIDECAR_PREFIX)


def _source(checkpoint: Checkpoint) -> set[str]:
    """Every data file of a checkpoint, each by one name."""
    return {_real(checkpoint.files, name) for name in checkpoint.metadata.files}


def _real(files: Files, name: str = "") -> str:
    root = files.root.rstrip("/")
    return f"{root}/{name}" if is_url(files.root) else os.fspath(Path(files.root, name).resolve())
