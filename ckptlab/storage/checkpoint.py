"""A checkpoint on disk: open it, and say what it is and whether it is whole.

Opening reads what the checkpoint says of itself, none of its data. It knows no rank of this
process and no plan.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ckptlab.errors import CorruptError, PathError
from ckptlab.metadata import Metadata, human_bytes
from ckptlab.storage.dcp import METADATA_FILE, read_metadata
from ckptlab.storage.files import Files
from ckptlab.storage.sidecar import layout_file, read_layouts
from ckptlab.storage.stored import stored
from ckptlab.storage.torch_save import Payload
from ckptlab.storage.where import files_at

Format = Literal["dcp"]

_SHOWN = 6
_NOT_YET = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


@dataclass(frozen=True)
class FileProblem:
    """A file that is missing (`size` is None) or shorter than the `needed` bytes that it should hold."""

    name: str
    needed: int
    size: int | None

    def __str__(self) -> str:
        if self.size is None:
            return f"{self.name} is missing; it should hold {human_bytes(self.needed)}"
        return f"{self.name} ends at byte {self.size}; what it should hold ends at byte {self.needed}"


@dataclass(frozen=True, repr=False, eq=False)
class Checkpoint:
    """A checkpoint that was opened: what it says of itself, and the files that hold its bytes.

    `payloads[i]` is where the elements of chunk row i lie within it, and `values` are the objects, if
    opening told so; None where each chunk and each object must be looked at.
    """

    path: str
    format: Format
    metadata: Metadata
    files: Files
    payloads: Sequence[Payload] | None = None
    values: Mapping[str, object] | None = None

    def __getitem__(self, key: str) -> Any:
        """A `StoredTensor`, of which only the elements that it is then indexed by are read; or an object.

        `CheckpointError` with near names for a key that is not there, `UnsafeError` for an object that
        is not made of plain values.
        """
        return stored(self, key)

    def keys(self) -> tuple[str, ...]:
        """The keys of all tensors, then of all objects."""
        return (*self.metadata.rows, *self.metadata.objects)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __contains__(self, key: object) -> bool:
        return key in self.metadata.rows or key in self.metadata.objects

    def __len__(self) -> int:
        return len(self.metadata.rows) + len(self.metadata.objects)

    def _ipython_key_completions_(self) -> list[str]:
        return list(self.keys())

    def check_files(self) -> list[FileProblem]:
        """Every data file that is missing or too short for what it should hold; no data is read."""
        problems = []
        for name, needed in zip(self.metadata.files, self._ends(), strict=True):
            try:
                size = self.files.size(name) if needed else 0
            except CorruptError:
                size = None
            if size is None or size < needed:
                problems.append(FileProblem(name, needed, size))
        return problems

    def missing_files(self) -> list[str]:
        """Data files that are not there."""
        return [problem.name for problem in self.check_files() if problem.size is None]

    def _ends(self) -> list[int]:
        """Where the last chunk or object of each file ends; 0 for a file that holds nothing."""
        chunks = self.metadata.chunks
        ends = np.zeros(len(self.metadata.files), np.int64)
        np.maximum.at(ends, chunks.file, chunks.start + chunks.length)
        for extent in self.metadata.objects.values():
            ends[extent.file] = max(int(ends[extent.file]), extent.start + extent.length)
        return [int(end) for end in ends]

    def __repr__(self) -> str:
        metadata = self.metadata
        elements = sum(math.prod(tensor.shape) for tensor in metadata.tensors)
        objects = f", {_count(len(metadata.objects), 'object')}" if metadata.objects else ""
        files = sum(end > 0 for end in self._ends())
        ranks = sorted({rank for rank in metadata.writers if rank >= 0})
        wrote = f", written by {_ranks(ranks)}" if ranks else ""
        lines = [
            f"Checkpoint {self.path} ({self.format})",
            f"  {_count(len(metadata.tensors), 'tensor')}, {_count(elements, 'element')}, "
            f"{human_bytes(metadata.nbytes)}{objects}",
            f"  {_count(len(metadata.chunks), 'chunk')} in {_count(files, 'file')}{wrote}",
            *(f"  {line}" for line in _layout_lines(metadata)),
        ]
        if metadata.save_id is not None:
            lines.append(f"  save_id {metadata.save_id}")
        names = [*(tensor.fqn for tensor in metadata.tensors), *metadata.objects]
        if names:
            lines.append(f"  keys {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}")
        return "\n".join(lines)


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open the checkpoint at `path`, a directory; reads what it says of itself, none of its data.

    Raises `PathError` that tells what is there instead, `CorruptError` for a damaged checkpoint,
    `UnsafeError` for one that asks to run something.
    """
    root = Path(path)
    if not root.is_dir():
        raise PathError(_not_a_directory(root), [os.fspath(path)])
    files = files_at(root)
    names = files.names()
    if METADATA_FILE not in names:
        raise PathError(f"{root} {_without_metadata(root, names)}", [os.fspath(path)])
    metadata = read_metadata(_whole(files, METADATA_FILE), os.fspath(root / METADATA_FILE))
    beside = layout_file(metadata.save_id)
    if beside in names:
        layouts = read_layouts(_whole(files, beside), metadata.save_id, metadata)
        metadata = replace(metadata, layouts=layouts)
    return Checkpoint(os.fspath(path), "dcp", metadata, files)


def _whole(files: Files, name: str) -> bytes:
    return files.read(name, 0, files.size(name))


def _not_a_directory(path: Path) -> str:
    if not path.exists():
        parent = next(p for p in path.absolute().parents if p.exists())
        return f"{path} does not exist; the nearest directory that does is {parent}"
    if path.name == METADATA_FILE or path.suffix == ".distcp":
        return f"{path} is one file of a checkpoint; open its directory, {path.parent}"
    if path.suffix in _NOT_YET:
        return f"{path} is a {path.suffix} file: not supported yet"
    return f"{path} is a file; a checkpoint is a directory"


def _without_metadata(root: Path, names: tuple[str, ...]) -> str:
    """What a directory holds instead of a checkpoint."""
    data = sum(name.endswith(".distcp") for name in names)
    if data:
        return f"holds {data} .distcp files but no {METADATA_FILE}: the save did not finish"
    for name in names:
        if name.endswith(_NOT_YET):
            return f"holds {name}: not supported yet"
    below = [entry for entry in sorted(root.iterdir()) if entry.is_dir()]
    inner = [entry.name for entry in below if (entry / METADATA_FILE).is_file()]
    if inner:
        more = f" and {len(inner) - 3} more" if len(inner) > 3 else ""
        return f"is no checkpoint, but holds some; open one of {', '.join(inner[:3])}{more}"
    held = [*names, *(f"{entry.name}/" for entry in below)]
    if not held:
        return "is empty: no checkpoint"
    return f"holds no checkpoint; it has {', '.join(held[:3])}{', ...' if len(held) > 3 else ''}"


def _layout_lines(metadata: Metadata) -> list[str]:
    """The recorded layouts, the most used first."""
    used = Counter(metadata.layouts.values()).most_common()
    lines = [f"{layout!r} for {_count(n, 'tensor')}" for layout, n in used[:_SHOWN]]
    if len(used) > _SHOWN:
        lines.append(f"and {len(used) - _SHOWN} more layouts")
    return lines or ["no layouts recorded"]


def _ranks(ranks: list[int]) -> str:
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    if ranks == list(range(ranks[0], ranks[-1] + 1)):
        return f"ranks {ranks[0]}-{ranks[-1]}"
    return f"ranks {', '.join(map(str, ranks[:_SHOWN]))}{', ...' if len(ranks) > _SHOWN else ''}"


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
