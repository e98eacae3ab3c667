"""Which tensors of a checkpoint hold elements that are no numbers, and where the first of them are.

Read as a stream, a block at a time. No torch, no rank and no drawing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ckptlab.errors import CheckpointError
from ckptlab.events import Progress, Trace, silent
from ckptlab.explorer.sums import Flags, not_finite
from ckptlab.explorer.table import Column, Line
from ckptlab.metadata import human_shape
from ckptlab.storage.blocks import Block, blocks
from ckptlab.storage.checkpoint import Checkpoint
from ckptlab.storage.stored import StoredTensor


@dataclass(frozen=True)
class Odd:
    """A tensor of which some elements are NaN or infinite, and the index of the first of each.

    `trouble` says why, if it could not be read to its end.
    """

    fqn: str
    dtype: str
    shape: tuple[int, ...]
    nan: int = 0
    inf: int = 0
    first_nan: tuple[int, ...] | None = None
    first_inf: tuple[int, ...] | None = None
    trouble: str = ""


def scan(checkpoint: Checkpoint, progress: Progress = silent) -> Iterator[Odd]:
    """Every tensor of a checkpoint that holds a NaN or an infinity, as each is found; reads all floats.

    What `progress` raises ends it, and is raised here. A tensor that cannot be read is told of too.
    """
    tensors = [t for t in checkpoint.metadata.tensors if "float" in t.dtype or "complex" in t.dtype]
    trace = Trace(progress=progress)
    with trace.phase("read", sum(t.nbytes for t in tensors)):
        for tensor in tensors:
            odd = _odd(checkpoint[tensor.fqn], trace)
            if odd.nan or odd.inf or odd.trouble:
                yield odd
    trace.check()


def _odd(tensor: StoredTensor, trace: Trace) -> Odd:
    counts: Counter[str] = Counter()
    first: dict[str, tuple[int, ...]] = {}
    trouble = ""
    stream = blocks(tensor)
    while True:
        try:
            block = next(stream)
        except StopIteration:
            break
        except CheckpointError as error:
            trouble = str(error)
            break
        for kind, there in not_finite(block.values):
            counts[kind] += int(np.count_nonzero(there))
            at = _first(block, there)
            first[kind] = min(first.get(kind, at), at)
        trace.moved(block.values.nbytes)
        trace.check()
    return Odd(
        tensor.fqn,
        tensor.dtype,
        tensor.shape,
        counts["nan"],
        counts["inf"],
        first.get("nan"),
        first.get("inf"),
        trouble,
    )


def _first(block: Block, there: Flags) -> tuple[int, ...]:
    at = np.unravel_index(int(np.argmax(there)), there.shape)
    return tuple(r[int(i)] for r, i in zip(block.ranges, at, strict=True))


@dataclass(frozen=True, eq=False)
class Found:
    """A table of what a scan found; the line of the tensor `fqn` is the chosen one."""

    odds: Sequence[Odd]
    fqn: str = ""

    columns = (
        Column("tensor", wide=3.0, least=140),
        Column("NaN", number=True, least=60),
        Column("Inf", number=True, least=60),
        Column("first NaN", least=80),
        Column("first Inf", least=80),
        Column("dtype", least=80),
        Column("shape", least=80),
    )

    @property
    def caption(self) -> str:
        """What is below the table: whatever could not be read."""
        return next((f"{odd.fqn}: {odd.trouble}" for odd in self.odds if odd.trouble), "")

    @property
    def chosen(self) -> int:
        """The line of the chosen tensor; -1: it is not among them."""
        return next((i for i, odd in enumerate(self.odds) if odd.fqn == self.fqn), -1)

    def __len__(self) -> int:
        return len(self.odds)

    def lines(self, first: int, count: int) -> list[Line]:
        """At most `count` lines from `first` on."""
        shown = self.odds[first : first + count]
        return [Line(_cells(odd), chosen=odd.fqn == self.fqn, hint=odd.trouble) for odd in shown]

    def records(self) -> Iterator[Sequence[object]]:
        """All of it for programs."""
        yield ("tensor", "dtype", "shape", "nan", "inf", "first nan", "first inf", "trouble")
        for odd in self.odds:
            places = (_index(odd.first_nan), _index(odd.first_inf))
            yield (odd.fqn, odd.dtype, human_shape(odd.shape), odd.nan, odd.inf, *places, odd.trouble)


def _cells(odd: Odd) -> tuple[str, ...]:
    counts = ("unreadable", "") if odd.trouble and not odd.nan else (f"{odd.nan:,}", f"{odd.inf:,}")
    return (odd.fqn, *counts, _index(odd.first_nan), _index(odd.first_inf), odd.dtype, human_shape(odd.shape))


def _index(index: tuple[int, ...] | None) -> str:
    return "" if index is None else f"[{', '.join(map(str, index))}]"
