"""A stored tensor, or a part of it, as a stream: blocks of bounded size, each element once.

They come in the order in which they lie in the files. It knows no torch and no plan.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ckptlab.errors import CorruptError
from ckptlab.layout import Box
from ckptlab.storage.index import parse_index, within
from ckptlab.storage.stored import Array, StoredTensor

BLOCK = 8 << 20
"""Bytes of a block, at most, unless one element has more."""


@dataclass(frozen=True, eq=False)
class Block:
    """The elements at the product of ascending `ranges`, one a dim of the tensor; `values` has that shape."""

    ranges: tuple[range, ...]
    values: Array


def blocks(tensor: StoredTensor, index: Any = ..., most: int = BLOCK) -> Iterator[Block]:
    """The elements that numpy's `tensor[index]` has, in blocks of at most `most` bytes.

    A dim that is given by an int stays, one element long. `SliceError` for an index that the tensor has
    not; `CorruptError` for elements that are stored nowhere, before the first block, or wrongly. A chunk
    that fits into a block is checked against its stored crc.
    """
    ranges, _ = parse_index(index, tensor.shape, tensor.fqn)
    parts = _by_chunk(tensor, ranges)
    there, wanted = sum(_numel(part) for part in parts), _numel(ranges)
    if there != wanted:
        raise CorruptError(
            f"tensor {tensor.fqn!r} {list(tensor.shape)}: its chunks hold {there} of the {wanted} "
            "elements asked for; the checkpoint is incomplete or contradicts itself",
            [tensor.fqn],
        )
    for part in parts:
        for piece in _cut(part, max(1, most // tensor.itemsize)):
            yield Block(piece, tensor.product(piece))


def _by_chunk(tensor: StoredTensor, ranges: Sequence[range]) -> list[tuple[range, ...]]:
    """What each chunk has of a product of ranges; chunks in the order in which they lie in the files."""
    metadata = tensor.checkpoint.metadata
    boxes, rows = metadata.boxes(tensor.row), metadata.chunk_rows(tensor.row)
    order = np.lexsort((metadata.chunks.start[rows], metadata.chunks.file[rows]))
    # Old torch lists one chunk for each replica that it left out.
    unique: dict[Box, None] = dict.fromkeys(boxes[i] for i in order.tolist())
    parts = []
    for box in unique:
        inside = [within(r, low, high) for r, low, high in zip(ranges, box.offset, box.stop, strict=True)]
        part = tuple(r[s.start : max(s.start, s.stop)] for r, s in zip(ranges, inside, strict=True))
        if _numel(part):
            parts.append(part)
    return parts


def _cut(ranges: tuple[range, ...], most: int) -> Iterator[tuple[range, ...]]:
    """Products of at most `most` elements each, in row-major order."""
    if not ranges or _numel(ranges) <= most:
        yield ranges
        return
    first, *others = ranges
    rest = tuple(others)
    step = most // _numel(rest)
    for at in range(0, len(first), max(1, step)):
        here = first[at : at + max(1, step)]
        if step:
            yield (here, *rest)
        else:
            yield from ((here, *piece) for piece in _cut(rest, most))


def _numel(ranges: Sequence[range]) -> int:
    return math.prod(map(len, ranges))
