"""What a checkpoint says of itself: tensors, chunks, objects, and where their bytes lie.

Chunks are columns, not one object a chunk: half a million of them are a few arrays.
This module does not know who reads a `Metadata`, nor from which format it came.
"""

from __future__ import annotations

import difflib
import math
import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from typing import NamedTuple, overload

import numpy as np
import numpy.typing as npt

from ckptlab.errors import CheckpointError
from ckptlab.layout import Boxes, Layout
from ckptlab.layout.box import Ints

ITEMSIZE: Mapping[str, int] = {
    "bool": 1, "uint8": 1, "int8": 1, "uint16": 2, "int16": 2, "uint32": 4, "int32": 4, "uint64": 8,
    "int64": 8,
    "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "complex32": 4, "complex64": 8, "complex128": 16,
    "float8_e4m3fn": 1, "float8_e4m3fnuz": 1, "float8_e5m2": 1, "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1,
}  # fmt: skip
"""Bytes an element, by dtype; dtypes are named as torch names them, without the `torch.`."""


Keys = str | re.Pattern[str] | Iterable[str] | Callable[[str], bool]
"""Which keys: a pattern as file names have them (`model.*`), a regular expression, names, or a question."""


class Tensor(NamedTuple):
    """What is known of one tensor without looking at its chunks."""

    fqn: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its elements, each counted once."""
        return math.prod(self.shape) * ITEMSIZE[self.dtype]


@dataclass(frozen=True, eq=False)
class Tensors(Sequence[Tensor]):
    """Tensors as columns: tensor i is called `names[i]`, its dtype and shape are `forms[kinds[i]]`.

    A checkpoint has thousands of tensors, but few forms; each stands there once.

    >>> every = Tensors.of([Tensor("w", "int8", (2,)), Tensor("v", "int8", (2,))])
    >>> every[1], every.kinds.tolist(), every.forms
    (Tensor(fqn='v', dtype='int8', shape=(2,)), [0, 0], [('int8', (2,))])
    """

    names: Sequence[str]
    kinds: Ints
    forms: Sequence[tuple[str, tuple[int, ...]]]

    @classmethod
    def of(cls, tensors: Iterable[Tensor]) -> Tensors:
        """These, in their order."""
        if isinstance(tensors, Tensors):
            return tensors
        every = tuple(tensors)
        forms: dict[tuple[str, tuple[int, ...]], int] = {}
        kinds = [forms.setdefault((dtype, shape), len(forms)) for _, dtype, shape in every]
        return cls([tensor.fqn for tensor in every], np.array(kinds, np.int64), list(forms))

    def under(self, names: Sequence[str]) -> Tensors:
        """The same by other names."""
        return Tensors(names, self.kinds, self.forms)

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, at: int) -> Tensor: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Tensor]: ...
    def __getitem__(self, at: int | slice) -> Tensor | Sequence[Tensor]:
        if isinstance(at, slice):
            return Tensors(self.names[at], self.kinds[at], self.forms)
        return Tensor(self.names[at], *self.forms[self.kinds[at]])

    def __iter__(self) -> Iterator[Tensor]:
        forms = self.forms
        return (Tensor(n, *forms[kind]) for n, kind in zip(self.names, self.kinds.tolist(), strict=True))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Extent:
    """A range of bytes in the file `files[file]` of a `Metadata`."""

    file: int
    start: int
    length: int


@dataclass(frozen=True, eq=False)
class Chunks:
    """Every chunk of a checkpoint, tensor by tensor, as columns.

    Tensor `t` has the rows `first[t]:first[t + 1]`. Row `i` lies in `files[file[i]]`, in the
    `length[i]` bytes from `start[i]` (wrapping included). Offsets and shapes of boxes have as many
    numbers a row as the tensor has dims, so they stand in two flat arrays, `offsets` and
    `shapes`, where those of tensor `t` begin at `corner[t]`. Tensors cut alike share their boxes.
    """

    first: Ints
    corner: Ints
    offsets: Ints
    shapes: Ints
    file: npt.NDArray[np.int32]
    start: Ints
    length: Ints

    def __len__(self) -> int:
        return len(self.file)


@dataclass(frozen=True, eq=False)
class Metadata:
    """A checkpoint without its bytes.

    `files` are names relative to the checkpoint, `writers[i]` is the rank that wrote `files[i]`
    (-1 if nobody knows). `paths` leads from an fqn to its place in the nested state_dict.
    `layouts` holds mesh and placements of those tensors for which the writer recorded them.
    """

    tensors: Tensors
    chunks: Chunks
    files: tuple[str, ...]
    writers: tuple[int, ...]
    objects: Mapping[str, Extent] = field(default_factory=dict)
    paths: Mapping[str, tuple[str | int, ...]] = field(default_factory=dict)
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    save_id: str | None = None

    @cached_property
    def rows(self) -> Mapping[str, int]:
        """Position in `tensors`, by fqn."""
        return dict(zip(self.tensors.names, range(len(self.tensors)), strict=True))

    def tensor(self, fqn: str) -> Tensor:
        """The tensor of this name; `CheckpointError` that tells the nearest names if there is none."""
        if fqn in self.rows:
            return self.tensors[self.rows[fqn]]
        raise CheckpointError(f"no tensor {fqn!r} in this checkpoint{near(fqn, self.rows)}", [fqn])

    def boxes(self, row: int) -> Boxes:
        """The boxes of all chunks of tensor `row`, in elements of the tensor."""
        low = self.chunks.corner[row]
        ndim = len(self.tensors[row].shape)
        shape = int(self.chunks.first[row + 1] - self.chunks.first[row]), ndim
        high = low + shape[0] * shape[1]
        return Boxes(
            self.chunks.offsets[low:high].reshape(shape), self.chunks.shapes[low:high].reshape(shape)
        )

    def chunk_rows(self, row: int) -> slice:
        """Where the chunks of tensor `row` stand in the chunk columns."""
        return slice(int(self.chunks.first[row]), int(self.chunks.first[row + 1]))

    def chunk_writers(self, row: int) -> Ints:
        """The rank that wrote each chunk of tensor `row` (-1 if nobody knows)."""
        files = self.chunks.file[self.chunk_rows(row)]
        return np.array(self.writers, np.int64)[files]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, each element counted once."""
        return sum(tensor.nbytes for tensor in self.tensors)


def near(name: str, names: Mapping[str, object] | list[str]) -> str:
    """`; did you mean ...?`, for an error about a name that is not among `names`."""
    close = difflib.get_close_matches(name, list(names), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


def meant(keys: Iterable[str], which: Keys) -> tuple[list[str], list[str]]:
    """Those of `keys` that are meant, in their order; and what of `which` means none: names, or the pattern.

    >>> meant(["model.w", "model.b", "step"], ["step", "w"])
    (['step'], ['w'])
    """
    every = list(keys)
    if callable(which):
        return [key for key in every if which(key)], []
    if isinstance(which, re.Pattern):
        found = [key for key in every if which.search(key)]
        return found, [] if found else [which.pattern]
    if isinstance(which, str):
        found = [key for key in every if fnmatchcase(key, which)]
        return found, [] if found else [which]
    asked, known = dict.fromkeys(which), set(every)
    return [key for key in every if key in asked], [key for key in asked if key not in known]


def grouped(keys: Iterable[Hashable]) -> list[Ints]:
    """The positions of keys that are the same, ascending; the groups as their keys first appear.

    >>> [rows.tolist() for rows in grouped("abca")]
    [[0, 3], [1], [2]]
    """
    rows: defaultdict[Hashable, list[int]] = defaultdict(list)
    for row, key in enumerate(keys):
        rows[key].append(row)
    return [np.array(some, np.int64) for some in rows.values()]


def human_shape(shape: Sequence[int]) -> str:
    """A shape as people read it: `1003 x 96`, `7`, `scalar`."""
    return " x ".join(map(str, shape)) or "scalar"


def human_bytes(n: int) -> str:
    """Bytes as people read them, in powers of 1024: exact below 1 KiB, else three figures.

    `0 B`, `512 B`, `1.50 KiB`, `16.0 MiB`, `754 GiB`.
    """
    if abs(n) < 1024:
        return f"{n} B"
    value, unit = float(n), "B"
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB"):  # noqa: B007
        value /= 1024
        if abs(value) < 999.5:
            break
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{digits}f} {unit}"


class BoxColumns:
    """Grows the flat `offsets` and `shapes` of `Chunks`, each different set of boxes once."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, bytes, bytes], int] = {}
        self._offsets: list[Ints] = []
        self._shapes: list[Ints] = []
        self._end = 0

    def corner(self, boxes: Boxes) -> int:
        """Where these boxes begin; they are appended if they are not there yet."""
        key = (boxes.ndim, boxes.offsets.tobytes(), boxes.shapes.tobytes())
        at = self._known.setdefault(key, self._end)
        if at == self._end:
            self._offsets.append(boxes.offsets.ravel())
            self._shapes.append(boxes.shapes.ravel())
            self._end += boxes.offsets.size
        return at

    def build(self) -> tuple[Ints, Ints]:
        """Both columns."""
        empty = np.zeros(0, np.int64)
        return np.concatenate([empty, *self._offsets]), np.concatenate([empty, *self._shapes])


class ChunkColumns:
    """Grows `Chunks` tensor by tensor; for codecs that read one."""

    def __init__(self) -> None:
        self._first = [0]
        self._corner: list[int] = []
        self._boxes = BoxColumns()
        self._file: list[int] = []
        self._start: list[int] = []
        self._length: list[int] = []

    def add(self, boxes: Boxes, file: list[int], start: list[int], length: list[int]) -> None:
        """Append one tensor's chunks: one file, start and length for each box."""
        self._first.append(self._first[-1] + len(boxes))
        self._corner.append(self._boxes.corner(boxes))
        self._file += file
        self._start += start
        self._length += length

    def build(self) -> Chunks:
        """The columns."""
        return Chunks(
            np.array(self._first, np.int64),
            np.array(self._corner, np.int64),
            *self._boxes.build(),
            np.array(self._file, np.int32),
            np.array(self._start, np.int64),
            np.array(self._length, np.int64),
        )
