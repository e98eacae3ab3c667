"""The file beside `.metadata`: what stock torch does not record, and the same once more as columns.

Mesh and placements; and all that `.metadata` says, so that it opens without a pickle, in a blink
however many chunks there are. Stock readers never look at it, and without it all still works. It
belongs to one save, by its id; another save's, or a damaged one, counts as none. Whether the columns
that say where each chunk lies are as they were written is a question of its own, as they are long: it
is asked before bytes are read. It opens no file itself.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ckptlab.errors import CheckpointError, LayoutError
from ckptlab.layout import Layout, Mesh, Replicate, parse_placements
from ckptlab.metadata import ITEMSIZE, Chunks, Extent, Metadata, Tensors
from ckptlab.storage.crc import crc32
from ckptlab.storage.files import inside

SIDECAR_PREFIX = ".ckptlab-"
TAIL = 512
"""Bytes at the end of a `.metadata` of our own that hold the id of its save."""

_SUFFIX = ".index"
_MAGIC = b"ckptlab2"
_HEAD = struct.Struct("<8sQQII")
_MOST_RANKS = 1 << 20
_COLUMNS = {
    "kind": "<i4", "layout": "<i4", "first": "<i8", "corner": "<i8", "offsets": "<i8", "shapes": "<i8",
    "file": "<i4", "start": "<i8", "length": "<i8",
}  # fmt: skip
_PLACES = 3
"""So many columns, the last, have a row a chunk; all before them have a crc of their own."""


@dataclass(frozen=True, eq=False)
class Sidecar:
    """What such a file says, and `record_crc`, that of its `.metadata` as it was saved.

    `places` are the columns that say where chunks lie. They are within bounds, and are what was written
    if `sound()`.
    """

    metadata: Metadata
    record_crc: int
    places: memoryview
    places_crc: int

    def sound(self) -> bool:
        """Whether the places have the crc that was written with them; 4 ms for three million chunks."""
        return crc32(self.places) == self.places_crc


def sidecar_file(save_id: str | None) -> str:
    """The name of a save's file: its own, so that an older save's outlives a newer one that fails."""
    return f"{SIDECAR_PREFIX}{save_id}{_SUFFIX}"


def sidecars(names: Sequence[str]) -> list[str]:
    """Those of `names` that some save wrote beside its `.metadata`."""
    return [name for name in names if name.startswith(SIDECAR_PREFIX) and name.endswith(_SUFFIX)]


def belongs(name: str, tail: bytes) -> bool:
    """Whether it may be of the save whose `.metadata` ends in the bytes `tail`."""
    return len(_id(name)) > 8 and _id(name).encode(errors="replace") in tail


def _id(name: str) -> str:
    return name.removeprefix(SIDECAR_PREFIX).removesuffix(_SUFFIX)


def write_sidecar(metadata: Metadata, record: bytes) -> bytes:
    """All of `metadata`, whose `.metadata` is `record`.

    A header in JSON, then each column, at a multiple of 8 bytes; the front has one crc, the places another.
    """
    layouts: dict[Layout, int] = {}
    placed, paths = metadata.layouts, metadata.paths
    # Tensors that are sharded alike share their layout, and to hash it for each takes long.
    shared = {id(layout): layout for layout in placed.values()}
    number = {known: layouts.setdefault(layout, len(layouts)) for known, layout in shared.items()}
    names = metadata.tensors.names
    columns = {
        "kind": metadata.tensors.kinds,
        "layout": [number[id(placed[fqn])] if fqn in placed else -1 for fqn in names],
        **{name: getattr(metadata.chunks, name) for name in list(_COLUMNS)[2:]},
    }
    arrays = {name: np.asarray(column, _COLUMNS[name]) for name, column in columns.items()}
    head = {
        "save_id": metadata.save_id,
        "record": [len(record), crc32(record)],
        "names": names,
        "kinds": metadata.tensors.forms,
        "layouts": [_layout_record(layout) for layout in layouts],
        "files": metadata.files,
        "writers": metadata.writers,
        "objects": {fqn: [e.file, e.start, e.length] for fqn, e in metadata.objects.items()},
        "paths": {fqn: path for fqn in (*names, *metadata.objects) if (path := paths.get(fqn)) != (fqn,)},
        "lengths": [len(array) for array in arrays.values()],
    }
    header = json.dumps(head, separators=(",", ":")).encode()
    parts = [_padded(header), *(_padded(array.tobytes()) for array in arrays.values())]
    front, places = b"".join(parts[:-_PLACES]), b"".join(parts[-_PLACES:])
    return _HEAD.pack(_MAGIC, len(header), len(front), crc32(front), crc32(places)) + front + places


def read_sidecar(data: memoryview | bytes, name: str, size: int) -> Sidecar | None:
    """What the file `name` says, if its front is sound and of the save whose `.metadata` has `size` bytes.

    Columns are views of `data` where the machine's byte order allows. Every claim is checked.
    """
    try:
        magic, length, ahead, crc, places_crc = _HEAD.unpack_from(data)
        body = memoryview(data)[_HEAD.size :]
        if magic != _MAGIC or ahead > len(body) or crc32(body[:ahead]) != crc:
            return None
        head = json.loads(bytes(body[:length]))
        recorded, crc_recorded = map(int, head["record"])
        if head["save_id"] != _id(name) or recorded != size:
            return None
        column, places = _arrays(body, length, head["lengths"])
        _require(places == ahead)
        return Sidecar(_metadata(head, column), crc_recorded, body[ahead:], places_crc)
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError, struct.error):
        return None
    except CheckpointError:
        return None


def _arrays(body: memoryview, at: int, lengths: Sequence[int]) -> tuple[dict[str, npt.NDArray[Any]], int]:
    """The columns, which fill the body to its end, and where the places begin."""
    found: dict[str, npt.NDArray[Any]] = {}
    places = 0
    for (name, kind), n in zip(_COLUMNS.items(), lengths, strict=True):
        at += -at % 8
        _require(type(n) is int and n >= 0)
        places = at if len(found) == len(_COLUMNS) - _PLACES else places
        # A copy only where it must be one, as millions of chunks are better left in the file.
        found[name] = np.frombuffer(body, kind, n, at).astype(np.dtype(kind).newbyteorder("="), copy=False)
        at += found[name].nbytes
    _require(at + -at % 8 == len(body))
    return found, places


def _metadata(head: Mapping[str, Any], column: Mapping[str, npt.NDArray[Any]]) -> Metadata:
    names, files, kinds = head["names"], tuple(map(str, head["files"])), _kinds(head["kinds"])
    for file in files:
        inside(file, "a sidecar")
    chunks = Chunks(**{name: column[name] for name in list(_COLUMNS)[2:]})
    _require(len(names) == len(column["kind"]) == len(column["layout"]) == len(set(names)))
    _check(chunks, column["kind"], kinds, len(files))
    objects = {str(fqn): Extent(*map(int, extent)) for fqn, extent in head["objects"].items()}
    _require(all(0 <= e.file < len(files) and min(e.start, e.length) >= 0 for e in objects.values()))
    layouts = [_layout(one) for one in head["layouts"]]
    placed = {}
    pairs = list(zip(column["layout"].tolist(), column["kind"].tolist(), strict=True))
    fitting = {
        (layout, kind)
        for layout, kind in set(pairs)
        if layout >= 0 and _fits(layouts[layout], len(kinds[kind][1]))
    }
    for fqn, pair in zip(names, pairs, strict=True):
        if pair in fitting:
            placed[fqn] = layouts[pair[0]]
    paths: dict[str, tuple[str | int, ...]] = {fqn: (fqn,) for fqn in (*names, *objects)}
    for fqn, path in head["paths"].items():
        if path is None:
            del paths[fqn]
        else:
            _require(all(type(step) in (str, int) for step in path))
            paths[fqn] = tuple(path)
    return Metadata(
        Tensors(names, column["kind"].astype(np.int64), kinds),
        chunks,
        files,
        tuple(map(int, head["writers"])),
        objects,
        paths,
        placed,
        str(head["save_id"]),
    )


def _kinds(records: Sequence[Any]) -> list[tuple[str, tuple[int, ...]]]:
    kinds = [(str(dtype), tuple(map(int, shape))) for dtype, shape in records]
    _require(all(dtype in ITEMSIZE and min(shape, default=0) >= 0 for dtype, shape in kinds))
    _require(all(math.prod(shape) * ITEMSIZE[dtype] < 2**63 for dtype, shape in kinds))
    return kinds


def _check(chunks: Chunks, kind: npt.NDArray[Any], kinds: Sequence[Any], files: int) -> None:
    """Every claim of the columns against the others; one look at each set of boxes."""
    count = np.diff(chunks.first)
    _require(len(chunks.first) == len(kind) + 1 == len(chunks.corner) + 1 and chunks.first[0] == 0)
    _require(bool((count >= 0).all()) and chunks.first[-1] == len(chunks.file))
    _require(len(chunks.file) == len(chunks.start) == len(chunks.length))
    _require(len(chunks.offsets) == len(chunks.shapes))
    if len(kind):
        _require(int(kind.min()) >= 0 and int(kind.max()) < len(kinds) and int(chunks.corner.min()) >= 0)
    if len(chunks.file):
        # Read without their sign, negative numbers are the largest: one look at millions, not two.
        _require(int(chunks.file.view(np.uint32).max()) < files)
        _require(int(chunks.start.view(np.uint64).max()) < 2**62)
        _require(int(chunks.length.view(np.uint64).max()) < 2**62)
    for number, corner, n in set(zip(kind.tolist(), chunks.corner.tolist(), count.tolist(), strict=True)):
        shape = kinds[number][1]
        stop = corner + n * len(shape)
        _require(stop <= len(chunks.offsets))
        offsets = chunks.offsets[corner:stop].reshape(n, len(shape))
        sizes = chunks.shapes[corner:stop].reshape(n, len(shape))
        room = np.array(shape, np.int64) - offsets
        _require(bool((offsets >= 0).all() and (sizes >= 0).all() and (sizes <= room).all()))


def _require(true: bool) -> None:
    if not true:
        raise ValueError("the sidecar contradicts itself")


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


def _layout_record(layout: Layout) -> dict[str, object]:
    mesh = layout.mesh
    return {
        "mesh": {"shape": mesh.shape, "axes": mesh.axes, "ranks": mesh.ranks},
        "placements": ", ".join(map(repr, layout.placements)),
    }


def _layout(record: Mapping[str, Any]) -> Layout:
    mesh = record["mesh"]
    shape = tuple(map(int, mesh["shape"]))
    if math.prod(shape) > _MOST_RANKS:
        raise LayoutError(f"a mesh of {shape}")
    axes = tuple(map(str, mesh["axes"]))
    return Layout(Mesh(shape, axes, tuple(mesh["ranks"])), parse_placements(record["placements"]))


def _fits(layout: Layout, ndim: int) -> bool:
    return all(isinstance(p, Replicate) or -ndim <= p.dim < ndim for p in layout.placements)
