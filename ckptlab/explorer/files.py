"""The files of a checkpoint: how each stands, as a table, and what the bytes of one are, as another.

Names, sizes and metadata only; no data is read. Plain data: no torch and no drawing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from ckptlab.errors import CheckpointError, CorruptError
from ckptlab.explorer.extents import ALIEN, BETWEEN, CHUNK, LOST, OBJECT, Extents, alien, extents, wrapping
from ckptlab.explorer.scene import count
from ckptlab.explorer.table import Column, Line
from ckptlab.layout.box import Ints
from ckptlab.metadata import human_bytes
from ckptlab.storage import Checkpoint
from ckptlab.storage.dcp import METADATA_FILE
from ckptlab.storage.finding import Finding
from ckptlab.storage.leftovers import check_names, check_parts
from ckptlab.storage.safetensors import INDEX_SUFFIX
from ckptlab.storage.sidecar import sidecar_file
from ckptlab.storage.torch_save import locate

Standing = Literal["missing", "short", "unfinished", "stale", "whole", "index", "other"]
"""How a file stands: not there; cut off; left by a save that did not end, or by another; as it should be;
what says where everything is; none of the checkpoint's."""

TROUBLED: tuple[Standing, ...] = ("missing", "short", "unfinished", "stale")


@dataclass
class Files:
    """Every file of a checkpoint and beside it, as a `Table`; what is in trouble comes first.

    `names` are those of the checkpoint's metadata, then others that are there; `size` is -1 for one that is
    not. `order` is the order of the lines, `file` the one that is looked into (-1: none).
    """

    checkpoint: Checkpoint = field(repr=False)
    file: int = -1

    columns: ClassVar = (
        Column("file", wide=2.4, least=150),
        Column("size", number=True, wide=0.8, least=74, bar=True),
        Column("stands", wide=0.8, least=76),
        Column("chunks", number=True, wide=0.6, least=64),
        Column("objects", number=True, wide=0.6, least=64),
        Column("in neither", number=True, wide=0.8, least=80),
        Column("written by", wide=0.8, least=76),
    )

    @cached_property
    def _there(self) -> dict[str, int]:
        """Sizes of the files that one listing tells of, and of those of the metadata that lie deeper."""
        files, found = self.checkpoint.files, dict(self.checkpoint.files.sizes())
        for name in self.checkpoint.metadata.files:
            if name not in found:
                try:
                    found[name] = files.size(name)
                except CorruptError:
                    continue
        return found

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All names, the data files first."""
        data = self.checkpoint.metadata.files
        beside = self.checkpoint.path.rstrip("/") == self.checkpoint.files.root.rstrip("/")
        return (*data, *(name for name in self._there if name not in set(data) and beside))

    @cached_property
    def size(self) -> Ints:
        """Bytes of each file; -1 where it is not there."""
        return np.array([self._there.get(name, -1) for name in self.names], np.int64)

    def _counted(self, which: npt.NDArray[np.integer], weights: Ints | None = None) -> Ints:
        return np.bincount(which, weights, minlength=len(self.names)).astype(np.int64)

    @cached_property
    def chunks(self) -> Ints:
        """Chunks in each."""
        return self._counted(self.checkpoint.metadata.chunks.file)

    @cached_property
    def _objects(self) -> tuple[Ints, Ints]:
        """How many objects each file holds, and their bytes."""
        held = list(self.checkpoint.metadata.objects.values())
        which = np.array([extent.file for extent in held], np.int64)
        return self._counted(which), self._counted(which, np.array([extent.length for extent in held]))

    @cached_property
    def stored(self) -> Ints:
        """Bytes of the chunks and objects in each, wrapping included."""
        columns = self.checkpoint.metadata.chunks
        return self._counted(columns.file, columns.length) + self._objects[1]

    @cached_property
    def needed(self) -> Ints:
        """Where the last chunk or object of each ends."""
        columns = self.checkpoint.metadata.chunks
        ends = np.zeros(len(self.names), np.int64)
        np.maximum.at(ends, columns.file, columns.start + columns.length)
        for extent in self.checkpoint.metadata.objects.values():
            ends[extent.file] = max(int(ends[extent.file]), extent.start + extent.length)
        return ends

    @cached_property
    def stands(self) -> tuple[Standing, ...]:
        """How each file stands."""
        return tuple(self._standing(i) for i in range(len(self.names)))

    def _standing(self, i: int) -> Standing:
        name, metadata = self.names[i], self.checkpoint.metadata
        if i < len(metadata.files):
            if self.size[i] < 0:
                # A file that holds nothing need not be there.
                return "missing" if self.needed[i] else "whole"
            return "short" if self.size[i] < self.needed[i] else "whole"
        if name in (METADATA_FILE, sidecar_file(metadata.save_id)) or name.endswith(INDEX_SUFFIX):
            return "index"
        found = next(iter(self._leftovers([name])), None)
        return "other" if found is None else "unfinished" if found.what == "unfinished" else "stale"

    def _leftovers(self, names: Sequence[str]) -> Iterator[Finding]:
        """What saves left that is not this checkpoint's."""
        used = frozenset(self.checkpoint.metadata.files)
        if self.checkpoint.format == "dcp":
            yield from check_names(names, used, self.checkpoint.metadata.save_id)
        elif self.checkpoint.format == "safetensors":
            yield from check_parts(names, used)

    @cached_property
    def order(self) -> tuple[int, ...]:
        """The files, those in trouble first, those of somebody else last."""
        place = {"whole": 1, "index": 2, "other": 3}
        return tuple(sorted(range(len(self.names)), key=lambda i: place.get(self.stands[i], 0)))

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What is wrong or worth telling, a line each."""
        said = [str(problem) for problem in self.checkpoint.check_files()]
        return (*said, *(f"{f.detail}. {f.remedy}" for f in self._leftovers(self.names)))

    def extents(self, file: int) -> Extents:
        """What the bytes of a file are."""
        if file >= len(self.checkpoint.metadata.files):
            return alien(int(self.size[file]))
        return extents(self.checkpoint.metadata, file, int(self.size[file]))

    def elements(self, chunk: int) -> tuple[int, int] | None:
        """Where in its file the elements of a chunk begin and end; None if that cannot be told."""
        opened = self.checkpoint
        columns, metadata = opened.metadata.chunks, opened.metadata
        start, length = int(columns.start[chunk]), int(columns.length[chunk])
        name, row = (
            metadata.files[columns.file[chunk]],
            int(np.searchsorted(columns.first, chunk, "right")) - 1,
        )
        tensor, box = metadata.tensors[row], metadata.boxes(row)[chunk - int(columns.first[row])]
        try:
            inner = (
                opened.payloads[chunk]
                if opened.payloads is not None
                else locate(
                    lambda at, n: opened.files.read(name, start + at, n),
                    length,
                    tensor.dtype,
                    box.shape,
                    name,
                )
            )
        except CheckpointError:
            return None
        return start + inner.start, start + inner.start + inner.nbytes

    # ---- the table

    def __len__(self) -> int:
        return len(self.order)

    @property
    def chosen(self) -> int:
        """The line of the file that is looked into."""
        return self.order.index(self.file) if self.file >= 0 else -1

    @property
    def caption(self) -> str:
        """How many there are, and how they stand."""
        troubled = [f"{self.stands.count(one)} {one}" for one in TROUBLED if one in self.stands]
        data = len(self.checkpoint.metadata.files)
        size = human_bytes(int(np.maximum(self.size, 0).sum()))
        return ", ".join([count(data, "data file"), size, *troubled])

    def lines(self, first: int, count: int) -> list[Line]:
        """At most `count` files from line `first` on."""
        most = max(1, int(self.size.max(initial=1)))
        return [self._line(i, most) for i in self.order[max(0, first) : first + count]]

    def _line(self, i: int, most: int) -> Line:
        size, data = int(self.size[i]), i < len(self.checkpoint.metadata.files)
        return Line(
            (
                self.names[i],
                human_bytes(size) if size >= 0 else "",
                self.stands[i],
                f"{int(self.chunks[i]):,}" if data else "",
                f"{int(self._objects[0][i]):,}" if data else "",
                human_bytes(max(0, size - int(self.stored[i]))) if data and size >= 0 else "",
                self.writer(i),
            ),
            share=max(0, size) / most,
            chosen=i == self.file,
            hint=f"{self.names[i]}: {self.stands[i]}",
        )

    def rank(self, file: int) -> int:
        """The rank that wrote a file; -1 if nobody knows."""
        writers = self.checkpoint.metadata.writers
        return writers[file] if file < len(writers) else -1

    def writer(self, file: int) -> str:
        """The same in words."""
        return f"rank {self.rank(file)}" if self.rank(file) >= 0 else ""

    def records(self) -> Iterator[Sequence[object]]:
        """Every file."""
        yield ("file", "size", "stands", "chunks", "objects", "stored", "needed", "rank")
        for i in self.order:
            numbers = (self.chunks[i], self._objects[0][i], self.stored[i], self.needed[i], self.rank(i))
            yield (self.names[i], int(self.size[i]), self.stands[i], *map(int, numbers))


@dataclass
class Inside:
    """What the bytes of one file are, as a `Table`: a line for each extent. `fqn` is the chosen tensor."""

    files: Files = field(repr=False)
    file: int
    fqn: str = ""

    columns: ClassVar = (
        Column("from byte", number=True, wide=0.8, least=96),
        Column("bytes", number=True, wide=0.7, least=74, bar=True),
        Column("holds", wide=2.6, least=160),
        Column("elements", wide=1.4, least=120),
        Column("wrapping", number=True, wide=0.6, least=70),
    )

    @cached_property
    def found(self) -> Extents:
        """The extents."""
        return self.files.extents(self.file)

    @cached_property
    def wrapped(self) -> Ints:
        """Bytes of each chunk that are none of its elements."""
        return wrapping(self.files.checkpoint.metadata, self.found)

    def __len__(self) -> int:
        return len(self.found)

    @property
    def chosen(self) -> int:
        """The first extent of the chosen tensor."""
        row = self.files.checkpoint.metadata.rows.get(self.fqn, -2)
        mine = np.flatnonzero(self.found.tensor == row)
        return int(mine[0]) if len(mine) else -1

    @property
    def caption(self) -> str:
        """The file in one line."""
        size = int(self.files.size[self.file])
        held = f"{human_bytes(size)}" if size >= 0 else "not there"
        wrapped = human_bytes(int(self.wrapped.sum()))
        return f"{held}, {count(len(self), 'extent')}, {wrapped} of wrapping round its chunks"

    def said(self, i: int) -> tuple[str, str]:
        """What an extent holds: of which key, and which elements of it."""
        metadata, found = self.files.checkpoint.metadata, self.found
        kind, item, row = int(found.kind[i]), int(found.item[i]), int(found.tensor[i])
        lost = "lost: " if kind == LOST else ""
        if row >= 0:
            box = metadata.boxes(row)[item - int(metadata.chunks.first[row])]
            return f"{lost}{metadata.tensors[row].fqn}", str(box).removeprefix("Box")
        if kind == OBJECT or (kind == LOST and item >= 0):
            return f"{lost}object {list(metadata.objects)[item]}", ""
        return self.rest(i), ""

    def rest(self, i: int) -> str:
        """What bytes are that are neither chunk nor object."""
        if int(self.found.kind[i]) == ALIEN:
            stands = self.files.stands[self.file]
            return {"index": "where everything is", "other": "none of the checkpoint's"}.get(stands, stands)
        if self.files.checkpoint.format == "torch":
            return "of the archive: its pickle, headers and directory"
        if self.files.checkpoint.format == "safetensors" and not self.found.start[i]:
            return "header: names, dtypes, shapes and places"
        return "nobody refers to these bytes"

    def lines(self, first: int, count: int) -> list[Line]:
        """At most `count` extents from line `first` on."""
        most = max(1, int((self.found.stop - self.found.start).max(initial=1)))
        return [self._line(i, most) for i in range(max(0, first), min(first + count, len(self)))]

    def _line(self, i: int, most: int) -> Line:
        start, size = int(self.found.start[i]), int(self.found.stop[i] - self.found.start[i])
        holds, elements = self.said(i)
        wrapped = human_bytes(int(self.wrapped[i])) if self.found.kind[i] == CHUNK else ""
        cells = (f"{start:,}", human_bytes(size), holds, elements, wrapped)
        row = int(self.found.tensor[i])
        mine = row >= 0 and self.files.checkpoint.metadata.tensors[row].fqn == self.fqn
        return Line(cells, share=size / most, chosen=mine, hint=f"{holds} {elements}".strip())

    def records(self) -> Iterator[Sequence[object]]:
        """Every extent."""
        yield ("file", "start", "stop", "kind", "holds", "elements", "wrapping")
        names = {CHUNK: "chunk", OBJECT: "object", BETWEEN: "neither", LOST: "lost", ALIEN: "file"}
        for i in range(len(self)):
            numbers = (int(self.found.start[i]), int(self.found.stop[i]))
            kind = names[int(self.found.kind[i])]
            yield (self.files.names[self.file], *numbers, kind, *self.said(i), int(self.wrapped[i]))
