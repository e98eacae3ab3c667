"""The `.metadata` of a torch.distributed.checkpoint directory, read without torch into columns.

Every size and place that it claims is checked. Writing one is in `dcp_write`; the file of
our own beside it is in `sidecar`. It knows no rank of this process, and opens no file.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NoReturn

import numpy as np

from ckptlab.errors import CheckpointError, CorruptError
from ckptlab.layout.box import Ints
from ckptlab.metadata import ITEMSIZE, Chunks, Extent, Metadata, Tensor, Tensors
from ckptlab.storage.dcp_names import (
    STOCK,
    BytesEntry,
    ChunkEntry,
    IndexEntry,
    MetaEntry,
    PlaceEntry,
    PropertiesEntry,
    TensorEntry,
    TopEntry,
)
from ckptlab.storage.files import inside
from ckptlab.storage.lockstep import Irregular, Records, Shape
from ckptlab.storage.regular import read_regular
from ckptlab.storage.torch_save import gc_paused, restricted_load

METADATA_FILE = ".metadata"

_MAX = 2**63 - 1
_LARGE = 256 << 10
"""Bytes up to which objects are no slower than columns."""

_DATA_FILE = re.compile(r"(?:.*/)?__(\d{1,9})_\d+(?:_[^/]*)?\.distcp")


def data_file(rank: int, index: int, generation: str) -> str:
    """The name of a rank's data file: stock torch's own for the first `generation`, "", else a new one."""
    return f"__{rank}_{index}_{generation}.distcp" if generation else f"__{rank}_{index}.distcp"


_PLACES = Shape(IndexEntry, PlaceEntry, tuple, "fqn", "index", "offset", "relative_path", "offset", "length")


def read_metadata(data: bytes, where: str) -> Metadata:
    """What a `.metadata` says, every claim in it checked against the others; `where` names the file.

    `CorruptError` if it is damaged or contradicts itself, `UnsafeError` if it asks for anything that
    such a file does not need, `CheckpointError` for what stock torch can write and this cannot read
    (compressed chunks, quantised dtypes).
    """
    with gc_paused():
        try:
            return _Reader(where).read(_unpickled(data, where))
        # Stand-ins hold whatever the file put there: a value of the wrong type surfaces where it is used.
        except (TypeError, ValueError, AttributeError, LookupError, OverflowError) as error:
            raise CorruptError(f"{where}: damaged, a value is not what it must be: {error}") from error


def _unpickled(data: bytes, where: str) -> object:
    """The objects of a `.metadata`; of a large one, the places of most chunks as columns."""
    if len(data) > _LARGE:
        with suppress(Irregular):
            return read_regular(data, STOCK, _PLACES)
    return restricted_load(data, STOCK, where)


class _Reader:
    """Turns the objects of one `.metadata` into columns."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._tensors: list[Tensor] = []
        self._rows: dict[str, int] = {}
        self._first, self._corner = array("q", [0]), array("q")
        self._offsets, self._shapes, self._limits = array("q"), array("q"), array("q")
        self._boxes: dict[tuple[bytes, ...], int] = {}
        self._lists: dict[tuple[int, tuple[int, ...]], int] = {}
        self._files: dict[str, int] = {}
        self._file = np.empty(0, np.int32)
        self._start, self._length = np.empty((2, 0), np.int64)
        self._objects: dict[str, Extent | None] = {}
        self._by_offset: dict[int, dict[tuple[int, ...], list[int]]] = {}

    def read(self, top: object) -> Metadata:
        if type(top) is not TopEntry:
            self._fail(f"holds a {type(top).__name__}, not what a checkpoint says of itself")
        for fqn, entry in self._dict(top.state_dict_metadata, "state_dict_metadata").items():
            self._entry(fqn, entry)
        self._check_boxes()
        self._file = np.full(self._first[-1], -1, np.int32)
        self._start, self._length = np.zeros(len(self._file), np.int64), np.zeros(len(self._file), np.int64)
        for index, place in self._dict(top.storage_data, "storage_data").items():
            if type(index) is Records:
                self._places(index)
            else:
                self._place(index, place)
        self._check_places()
        meta = top.storage_meta
        save_id = meta.save_id if type(meta) is MetaEntry else None
        return Metadata(
            Tensors.of(self._tensors),
            Chunks(
                _column(self._first),
                _column(self._corner),
                _column(self._offsets),
                _column(self._shapes),
                self._file,
                self._start,
                self._length,
            ),
            tuple(self._files),
            tuple(writer(name) for name in self._files),
            {fqn: extent for fqn, extent in self._objects.items() if extent is not None},
            _paths(top.planner_data),
            {},
            save_id if isinstance(save_id, str) else None,
        )

    def _fail(self, what: str, fqn: object = None) -> NoReturn:
        about = f"{fqn!r} " if fqn is not None else ""
        raise CorruptError(f"{self._where}: {about}{what}", [] if fqn is None else [fqn])

    def _dict(self, value: object, name: str) -> dict[object, object]:
        if type(value) is not dict:
            self._fail(f"has no {name}")
        return value

    def _entry(self, fqn: object, entry: object) -> None:
        """One tensor with its chunks, or one object."""
        if type(fqn) is not str:
            self._fail(f"names something by {fqn!r}, which is no text")
        if type(entry) is BytesEntry:
            self._objects[fqn] = None
            return
        if type(entry) is not TensorEntry:
            self._fail(f"is a {type(entry).__name__}, neither tensor nor object", fqn)
        tensor = Tensor(fqn, self._dtype(fqn, entry.properties), self._shape(fqn, entry.size))
        if not 0 <= tensor.nbytes <= _MAX:
            self._fail(f"of {tensor.dtype} {list(tensor.shape)} is larger than any memory", fqn)
        self._rows[fqn] = len(self._tensors)
        self._tensors.append(tensor)
        chunks = entry.chunks
        if type(chunks) is not list:
            self._fail("has no list of chunks", fqn)
        self._first.append(self._first[-1] + len(chunks))
        same = self._lists.get((id(chunks), tensor.shape))
        self._corner.append(self._corner_of(tensor, chunks) if same is None else same)
        self._lists[id(chunks), tensor.shape] = self._corner[-1]

    def _corner_of(self, tensor: Tensor, chunks: list[object]) -> int:
        """Where the boxes of these chunks begin."""
        ndim = len(tensor.shape)
        offsets, shapes = array("q"), array("q")
        for chunk in chunks:
            if type(chunk) is not ChunkEntry or not len(chunk.offsets) == len(chunk.sizes) == ndim:
                self._fail(f"has a chunk that does not fit its shape {list(tensor.shape)}", tensor.fqn)
            offsets.extend(chunk.offsets)
            shapes.extend(chunk.sizes)
        limits = array("q", tensor.shape)
        # Tensors cut alike share their boxes.
        key = (offsets.tobytes(), shapes.tobytes(), limits.tobytes())
        corner = self._boxes.setdefault(key, len(self._offsets))
        if corner == len(self._offsets):
            self._offsets.extend(offsets)
            self._shapes.extend(shapes)
            self._limits.extend(limits * len(chunks))
        return corner

    def _dtype(self, fqn: str, properties: object) -> str:
        state = properties.state if type(properties) is PropertiesEntry else None
        if type(state) is not tuple or not state or type(state[0]) is not str:
            self._fail("has no dtype", fqn)
        if state[0] not in ITEMSIZE:
            raise CheckpointError(
                f"{self._where}: {fqn!r} is {state[0]}, a dtype that is not supported", [fqn]
            )
        return state[0]

    def _shape(self, fqn: str, size: object) -> tuple[int, ...]:
        if type(size) is not tuple or not all(type(n) is int and 0 <= n <= _MAX for n in size):
            self._fail(f"has the shape {size}", fqn)
        return size

    def _check_boxes(self) -> None:
        """Every chunk lies inside its tensor."""
        offsets, shapes, limits = _column(self._offsets), _column(self._shapes), _column(self._limits)
        bad = np.flatnonzero((offsets < 0) | (shapes < 0) | (offsets > limits - np.maximum(shapes, 0)))
        if not len(bad):
            return
        for tensor, corner, chunks in zip(self._tensors, self._corner, np.diff(self._first), strict=True):
            ndim = len(tensor.shape)
            if corner <= bad[0] < corner + chunks * ndim:
                break
        low = int(bad[0]) - (int(bad[0]) - corner) % ndim
        offset, shape = self._offsets[low : low + ndim].tolist(), self._shapes[low : low + ndim].tolist()
        self._fail(
            f"has a chunk of shape {shape} at {offset}, outside its shape {list(tensor.shape)}", tensor.fqn
        )

    def _place(self, index: object, place: object) -> None:
        """Where one chunk or object lies."""
        if type(index) is not IndexEntry or type(place) is not PlaceEntry:
            self._fail(f"has {type(place).__name__} for a place in a file")
        fqn, start, length = index.fqn, place.offset, place.length
        if place.transform_descriptors:
            raise CheckpointError(
                f"{self._where}: {fqn!r} is stored through {place.transform_descriptors}, "
                "a transform that is not supported",
                [fqn],
            )
        if type(start) is not int or type(length) is not int or min(start, length, _MAX - start - length) < 0:
            self._fail(f"lies at byte {start!r}, {length!r} bytes long", fqn)
        file = self._file_of(place.relative_path, fqn)
        if fqn in self._objects:
            self._objects[fqn] = Extent(file, start, length)
        elif fqn in self._rows:
            for row in self._chunk(self._rows[fqn], index):
                self._file[row], self._start[row], self._length[row] = file, start, length

    def _file_of(self, name: str, fqn: str) -> int:
        """The number of a file, which the place of `fqn` names."""
        file = self._files.get(name)
        if file is None:
            file = len(self._files)
            self._files[inside(name, f"{self._where}: {fqn!r}")] = file
        return file

    def _places(self, records: Records) -> None:
        """Where many chunks lie: those whose hints are right all together, others one by one."""
        tensor = np.array([self._rows.get(fqn, -1) for fqn in records.texts], np.int64)[records.text]
        known = np.maximum(tensor, 0)
        first, corner = _column(self._first), _column(self._corner)
        offsets, hint = _column(self._offsets), records.hint
        ndim = np.array([len(t.shape) for t in self._tensors], np.int64)[known]
        good = (tensor >= 0) & (hint >= 0) & (hint < np.diff(first)[known]) & (records.ndim == ndim)
        good &= (np.minimum(records.start, records.length) >= 0) & (
            records.length <= _MAX - np.maximum(records.start, 0)
        )
        low = corner[known] + hint * ndim
        for d in range(records.dims.shape[1]):
            some = np.flatnonzero(good & (ndim > d))
            good[some] = offsets[low[some] + d] == records.dims[some, d]
        files = np.zeros(len(records.names), np.int64)
        names, at = np.unique(records.name, return_index=True)
        # In the order in which they come, as they are numbered in it.
        for i in np.argsort(at).tolist():
            fqn = records.texts[int(records.text[at[i]])]
            files[names[i]] = self._file_of(records.names[int(names[i])], fqn)
        row, file = first[known[good]] + hint[good], files[records.name[good]]
        self._file[row], self._start[row], self._length[row] = file, records.start[good], records.length[good]
        for i in np.flatnonzero(~good).tolist():
            self._place(*_alone(records, i))

    def _chunk(self, tensor: int, index: IndexEntry) -> Sequence[int]:
        """The chunks that an index means: its hint, if that is right, else every one at this offset."""
        offset, hint = tuple(index.offset or ()), index.index
        first, after = self._first[tensor], self._first[tensor + 1]
        if type(hint) is int and 0 <= hint < after - first and self._offset(tensor, first + hint) == offset:
            return (first + hint,)
        return self._at(tensor).get(offset, ())

    def _offset(self, tensor: int, row: int) -> tuple[int, ...]:
        ndim = len(self._tensors[tensor].shape)
        low = self._corner[tensor] + (row - self._first[tensor]) * ndim
        return tuple(self._offsets[low : low + ndim])

    def _at(self, tensor: int) -> dict[tuple[int, ...], list[int]]:
        """The chunks of a tensor by offset, made when a hint was of no use."""
        if tensor not in self._by_offset:
            found: dict[tuple[int, ...], list[int]] = {}
            for row in range(self._first[tensor], self._first[tensor + 1]):
                found.setdefault(self._offset(tensor, row), []).append(row)
            self._by_offset[tensor] = found
        return self._by_offset[tensor]

    def _check_places(self) -> None:
        """Every chunk and every object lies somewhere."""
        for fqn, extent in self._objects.items():
            if extent is None:
                self._fail("has no place in any file", fqn)
        for row in np.flatnonzero(self._file < 0).tolist():
            tensor = int(np.searchsorted(self._first, row, side="right")) - 1
            offset = self._offset(tensor, row)
            # Old torch stored replicas and empty shards under one key, though it listed each.
            same = [other for other in self._at(tensor)[offset] if self._file[other] >= 0]
            if not same:
                self._fail(
                    f"has a chunk at {list(offset)} with no place in any file", self._tensors[tensor].fqn
                )
            self._file[row], self._start[row], self._length[row] = (
                self._file[same[0]],
                self._start[same[0]],
                self._length[same[0]],
            )


def _alone(records: Records, i: int) -> tuple[IndexEntry, PlaceEntry]:
    """One of many records, as the objects that it stands for."""
    index, place = IndexEntry(), PlaceEntry()
    hint, ndim = int(records.hint[i]), int(records.ndim[i])
    offset = tuple(records.dims[i, :ndim].tolist()) if ndim >= 0 else None
    index.__dict__.update(
        fqn=records.texts[int(records.text[i])], index=hint if hint >= 0 else None, offset=offset
    )
    place.__dict__.update(
        relative_path=records.names[int(records.name[i])],
        offset=int(records.start[i]),
        length=int(records.length[i]),
    )
    return index, place


def _column(numbers: array[int]) -> Ints:
    return np.array(numbers, np.int64)


def writer(name: str) -> int:
    """The rank that wrote a data file, by its name; -1 if the name does not tell."""
    found = _DATA_FILE.fullmatch(name)
    return int(found[1]) if found else -1


def _paths(planner_data: object) -> Mapping[str, tuple[str | int, ...]]:
    """What stock's own planner keeps; another planner's data is none of ours."""
    if type(planner_data) is not dict:
        return {}
    return {
        fqn: path
        for fqn, path in planner_data.items()
        if type(fqn) is str and type(path) is tuple and all(type(step) in (str, int) for step in path)
    }
