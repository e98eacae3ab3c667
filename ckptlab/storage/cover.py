"""Does what a checkpoint says of itself make sense: each element in one chunk, each byte in one place?

Geometry of boxes and of ranges of bytes. It reads nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ckptlab.layout import Box, Boxes, overlaps
from ckptlab.layout.box import Ints
from ckptlab.metadata import Metadata
from ckptlab.storage.finding import Finding, count

_MOST = 4096


@dataclass(frozen=True)
class Piece:
    """One chunk of tensor `key`, or one object (`box` is None), and the bytes of `file` that hold it."""

    file: int
    start: int
    length: int
    key: str
    box: Box | None = None
    dtype: str = ""

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.start + self.length

    def __str__(self) -> str:
        what = f"object {self.key!r}" if self.box is None else f"chunk {self.box} of tensor {self.key!r}"
        return f"{what}, bytes {self.start} to {self.end}"


def pieces(metadata: Metadata) -> list[Piece]:
    """Every chunk and object that has bytes, each place once, in the order of files and bytes.

    A chunk without elements that shares its place with another chunk is left out: old torch lists those.
    """
    chunks = metadata.chunks
    found: dict[tuple[int, int, int, str], Piece] = {}
    files, starts, lengths = chunks.file.tolist(), chunks.start.tolist(), chunks.length.tolist()
    for row, tensor in enumerate(metadata.tensors):
        boxes, rows, fqn = metadata.boxes(row), metadata.chunk_rows(row), tensor.fqn
        places = zip(files[rows], starts[rows], lengths[rows], strict=True)
        corners = zip(boxes.offsets.tolist(), boxes.shapes.tolist(), strict=True)
        for (file, start, length), (offset, shape) in zip(places, corners, strict=True):
            known = found.get((file, start, length, fqn))
            if known is None or (known.box and not known.box.numel):
                box = Box(tuple(offset), tuple(shape))
                found[file, start, length, fqn] = Piece(file, start, length, fqn, box, tensor.dtype)
    for fqn, extent in metadata.objects.items():
        found[extent.file, extent.start, extent.length, fqn] = Piece(
            extent.file, extent.start, extent.length, fqn
        )
    return sorted(found.values(), key=lambda piece: (piece.file, piece.start, piece.length))


def check_boxes(metadata: Metadata) -> Iterator[Finding]:
    """Tensors of which some element is in no chunk, or in more than one."""
    known: dict[tuple[object, ...], tuple[Box, Box] | Box | None] = {}
    for row, tensor in enumerate(metadata.tensors):
        boxes = metadata.boxes(row)
        key = (tensor.shape, boxes.offsets.tobytes(), boxes.shapes.tobytes())
        if key not in known:
            known[key] = _twice(boxes) or _nowhere(tensor.shape, boxes)
        match known[key]:
            case (Box() as one, Box() as other):
                detail = f"tensor {tensor.fqn!r} has chunks {one} and {other}, which overlap in {one & other}"
                remedy = "Which of both a load takes depends on the reader; save it again from a whole model."
                yield Finding("damage", "overlap", detail, remedy, keys=(tensor.fqn,))
            case Box() as box:
                detail = f"tensor {tensor.fqn!r} {list(tensor.shape)} has no chunk for {box}"
                remedy = "Elements there are not in this checkpoint; stock DCP leaves them as they were."
                yield Finding("damage", "hole", detail, remedy, keys=(tensor.fqn,))


def _twice(boxes: Boxes) -> tuple[Box, Box] | None:
    """Two different boxes that meet, if there are any."""
    once = _once(boxes)
    meet = overlaps(once, once)
    pairs = np.flatnonzero(meet.a < meet.b)
    return (once[int(meet.a[pairs[0]])], once[int(meet.b[pairs[0]])]) if len(pairs) else None


def _nowhere(shape: Sequence[int], boxes: Boxes) -> Box | None:
    """A box of elements that are in no box; the boxes do not overlap, but may stand there twice."""
    once, whole = _once(boxes), Box((0,) * len(shape), tuple(shape))
    if int(once.numel.sum()) == whole.numel:
        return None
    rest = [whole]
    for i in range(min(len(once), _MOST)):
        rest = [part for left in rest for part in _without(left, left & once[i])]
    return max(rest, key=lambda box: box.numel)


def _once(boxes: Boxes) -> Boxes:
    """The different ones of some boxes."""
    columns = np.concatenate([boxes.offsets, boxes.shapes], axis=1)
    unique: Ints = np.unique(columns, axis=0) if boxes.ndim else columns[:1]
    return Boxes(unique[:, : boxes.ndim], unique[:, boxes.ndim :])


def _without(box: Box, hole: Box) -> Iterator[Box]:
    """The box less a hole in it, as boxes."""
    if not hole.numel:
        yield box
        return
    offset, shape = list(box.offset), list(box.shape)
    for dim, (low, high) in enumerate(zip(hole.offset, hole.stop, strict=True)):
        begin, end = offset[dim], offset[dim] + shape[dim]
        for a, b in ((begin, low), (high, end)):
            if a < b:
                yield Box((*offset[:dim], a, *offset[dim + 1 :]), (*shape[:dim], b - a, *shape[dim + 1 :]))
        offset[dim], shape[dim] = low, high - low


def check_bytes(found: Iterable[Piece], names: Sequence[str]) -> Iterator[Finding]:
    """Chunks and objects that claim bytes of one another; `found` in the order of files and bytes."""
    before: Piece | None = None
    for piece in found:
        if before is not None and piece.file == before.file and piece.start < before.end and piece.length:
            detail = f"{names[piece.file]}: {before} and {piece} lie over each other"
            remedy = "One of them, at least, cannot be read; save it again from a whole model."
            keys = tuple(dict.fromkeys((before.key, piece.key)))
            yield Finding("damage", "bytes", detail, remedy, names[piece.file], keys)
        if before is None or piece.file != before.file or piece.end > before.end:
            before = piece


def gaps(found: Iterable[Piece], sizes: Sequence[int | None]) -> Iterator[tuple[int, int, int]]:
    """Runs of bytes that nothing lies in: file, first byte, first byte behind; `found` as above."""
    reached = dict.fromkeys((file for file, size in enumerate(sizes) if size is not None), 0)
    for piece in found:
        at = reached.get(piece.file, piece.start)
        if piece.start > at:
            yield piece.file, at, piece.start
        reached[piece.file] = max(at, piece.end)
    for file, at in reached.items():
        if at < (sizes[file] or 0):
            yield file, at, sizes[file] or 0


def differing(one: Metadata, other: Metadata) -> tuple[str, ...]:
    """The keys of which two say different things: shapes, dtypes, boxes or places."""
    here, there = _said(one), _said(other)
    return tuple(key for key in {**here, **there} if here.get(key) != there.get(key))


def _said(metadata: Metadata) -> dict[str, tuple[object, ...]]:
    chunks, names = metadata.chunks, metadata.files
    said: dict[str, tuple[object, ...]] = {}
    for row, tensor in enumerate(metadata.tensors):
        rows, boxes = metadata.chunk_rows(row), metadata.boxes(row)
        numbers = (boxes.offsets, boxes.shapes, chunks.start[rows], chunks.length[rows])
        files = [names[file] for file in chunks.file[rows]]
        said[tensor.fqn] = (tensor, files, *(np.asarray(part, np.int64).tobytes() for part in numbers))
    for fqn, extent in metadata.objects.items():
        said[fqn] = (names[extent.file], extent.start, extent.length)
    return said


def many(found: Sequence[Piece]) -> str:
    """`3 chunks and 1 object`."""
    objects = sum(piece.box is None for piece in found)
    words = [count(len(found) - objects, "chunk")] if len(found) > objects else []
    return " and ".join(words + ([count(objects, "object")] if objects else []))
