"""What a narrower dtype would make of stored elements: the largest change, and what is lost altogether.

Read as a stream, a block at a time. Pure numpy: no torch, no rank and no drawing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ckptlab.events import Progress, Trace, silent
from ckptlab.storage import Checkpoint
from ckptlab.storage.blocks import blocks
from ckptlab.storage.stored import numpy_dtype


@dataclass(frozen=True)
class Rounding:
    """The worst of some tensors: `largest` and `relative` are changes of one element, `changed` counts them.

    `relative` is of elements that are not 0; `lost` became 0, infinite or NaN. `fqn` has the largest
    relative change.
    """

    count: int = 0
    changed: int = 0
    largest: float = 0.0
    relative: float = 0.0
    lost: int = 0
    fqn: str = ""

    def __str__(self) -> str:
        if not self.changed:
            return f"none of {self.count:,} elements changes"
        lost = f"; {self.lost:,} become 0, infinite or NaN" if self.lost else ""
        return (
            f"{self.changed:,} of {self.count:,} elements change, by {self.largest:.3g} at most, and by "
            f"{self.relative:.3g} of themselves at worst (in {self.fqn}){lost}"
        )


def rounding(checkpoint: Checkpoint, dtypes: Mapping[str, str], progress: Progress = silent) -> Rounding:
    """What becomes of stored tensors in the dtypes given by key; reads all of them."""
    trace = Trace(progress=progress)
    worst = Rounding()
    with trace.phase("read", sum(checkpoint.metadata.tensor(fqn).nbytes for fqn in dtypes)):
        for fqn, dtype in dtypes.items():
            to = numpy_dtype(dtype)
            for block in blocks(checkpoint[fqn]):
                worst = _worse(worst, fqn, block.values.reshape(-1), to)
                trace.moved(block.values.nbytes)
                trace.check()
    return worst


def _worse(known: Rounding, fqn: str, values: np.ndarray, to: np.dtype) -> Rounding:
    with np.errstate(all="ignore"):
        before = values.astype(np.complex128 if values.dtype.kind == "c" else np.float64)
        after = values.astype(to).astype(before.dtype)
        same = (before == after) | (np.isnan(before) & np.isnan(after))
        change = np.abs(after - before)
        fine = ~same & np.isfinite(before) & np.isfinite(after)
        largest = float(change[fine].max(initial=0.0))
        rel = fine & (before != 0)
        relative = float((change[rel] / np.abs(before[rel])).max(initial=0.0))
        lost = ~same & np.isfinite(before) & (~np.isfinite(after) | ((after == 0) & (before != 0)))
    return Rounding(
        known.count + values.size,
        known.changed + int(np.count_nonzero(~same)),
        max(known.largest, largest),
        max(known.relative, relative),
        known.lost + int(np.count_nonzero(lost)),
        fqn if relative > known.relative or not known.fqn else known.fqn,
    )
