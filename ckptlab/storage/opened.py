"""A checkpoint that was opened: what it is, what it holds, and whether it is whole.

It knows no rank of this process and no plan, and not how the formats are read.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ckptlab.errors import CorruptError
from ckptlab.metadata import Metadata, human_bytes
from ckptlab.storage.files import Files
from ckptlab.storage.stored import stored
from ckptlab.storage.torch_save import Payload

Format = Literal["dcp", "safetensors", "torch"]

_SHOWN = 6
_LINE = 40


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

    `payloads[i]` is where the elements of chunk row i lie within it, `crcs[i]` the crc32 of that chunk's
    whole storage (0 if nobody knows), and `values` are the objects, if opening told so; None where
    each chunk and each object must be looked at. `ours` says that ckptlab saved it, so that every chunk
    is wrapped as `storage.template` says. `notes` is what a safetensors file says of itself in words.
    `settle` checks what opening put off because it takes long, once; whoever reads bytes where the metadata
    says they lie calls it before: `CorruptError` if the metadata is not what was saved.
    """

    path: str
    format: Format
    metadata: Metadata
    files: Files
    payloads: Sequence[Payload] | None = None
    values: Mapping[str, object] | None = None
    crcs: Sequence[int] | None = None
    ours: bool = False
    notes: Mapping[str, str] = field(default_factory=dict)
    settle: Callable[[], None] = lambda: None

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
        return self.file_problems(dict(zip(self.metadata.files, self._ends(), strict=True)))

    def file_problems(self, needed: Mapping[str, int]) -> list[FileProblem]:
        """Those of these files that are missing or have not got the bytes that are needed of them."""
        problems = []
        # Of far files one listing tells all sizes, where each by itself is a request.
        known = {} if self.files.mapped else self.files.sizes()
        for name, end in needed.items():
            size: int | None = known.get(name, 0)
            try:
                if end and name not in known:
                    size = self.files.size(name)
            except CorruptError:
                size = None
            if size is None or size < end:
                problems.append(FileProblem(name, end, size))
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
        ]
        if self.format == "dcp":
            lines += [f"  {line}" for line in _layout_lines(metadata)]
        if self.notes:
            said = [f"{key}={_short(value)}" for key, value in self.notes.items()]
            lines.append(f"  notes {_some(said)}")
        if metadata.save_id is not None:
            lines.append(f"  save_id {metadata.save_id}")
        names = [*metadata.tensors.names, *metadata.objects]
        if names:
            lines.append(f"  keys {_some(names)}")
        return "\n".join(lines)


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
    return f"ranks {_some(list(map(str, ranks)))}"


def _some(words: list[str]) -> str:
    return f"{', '.join(words[:_SHOWN])}{', ...' if len(words) > _SHOWN else ''}"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LINE else f"{line[:_LINE]}..."


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
