"""Which tensors of a checkpoint hold elements that are no numbers, and where the first of them are.

Read as a stream, a block at a time. No torch, no rank and no drawing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ckptlab.errors import CheckpointError
from ckptlab.events import Progress, Trace, silent
from ckptlab.explorer.sums import Flags, not_finite
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
