"""What the elements of a tensor are: how large, how spread, and which of them are no numbers.

Computed as a stream, a block at a time, so memory is bounded however large the tensor is. Pure
numpy: no torch, no rank and no drawing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ckptlab.events import Progress, Trace, silent
from ckptlab.explorer.sums import Array, Floats, Sums, binned, edges_of
from ckptlab.layout.box import Ints
from ckptlab.metadata import human_shape
from ckptlab.storage.blocks import blocks
from ckptlab.storage.index import parse_index, typed_index
from ckptlab.storage.stored import StoredTensor, numpy_dtype

BINS = 60

_PIECE = 1 << 18
"""Elements that are worked on at once: few enough to stay in a core's cache."""


@dataclass(frozen=True, eq=False)
class Values:
    """The elements of a tensor, or of a part of it, as numbers.

    `nan` are NaN, `inf` infinite, `zeros` zero, of `count` in all; `mean`, `norm` (the 2-norm), `low` and
    `high` are of the finite elements (None, and a norm of 0, if there are none): exact for integers, and
    as float64 has them. Bin `i` of `bins` counts the finite elements from `edges[i]` up to, not including,
    `edges[i + 1]`; the last one includes it. Of complex elements `low`, `high` and `bins` are of magnitudes.
    """

    fqn: str
    part: str
    dtype: str
    shape: tuple[int, ...]
    count: int
    nan: int
    inf: int
    zeros: int
    mean: float | complex | None
    norm: float
    low: float | int | None
    high: float | int | None
    edges: Floats
    bins: Ints

    @property
    def finite(self) -> int:
        """Elements that are neither NaN nor infinite."""
        return self.count - self.nan - self.inf

    def __repr__(self) -> str:
        rows = "\n".join(f"  {label:<5} {said}" for label, said in self.facts())
        return f"Values of {self.fqn}{self.part}: {self.dtype}, {human_shape(self.shape)}\n{rows}"

    def facts(self) -> list[tuple[str, str]]:
        """Each number with its label, in words."""
        size = "|x| " if self.dtype.startswith("complex") else ""
        return [
            ("count", f"{self.count:,}"),
            ("NaN", f"{self.nan:,}"),
            ("Inf", f"{self.inf:,}"),
            ("zeros", f"{self.zeros:,}"),
            (f"{size}min", _number(self.low)),
            (f"{size}max", _number(self.high)),
            ("mean", _number(self.mean)),
            ("norm", _number(self.norm)),
        ]


def values_of(tensor: StoredTensor, part: str = "", bins: int = BINS, progress: Progress = silent) -> Values:
    """The values of a stored tensor, `open_checkpoint(path)[fqn]`, or of a `part` such as `[10:20, ::3]`.

    Elements of two bytes and less are read once, larger ones twice. What `progress` raises ends it, and
    is raised here. `SliceError` for a part that the tensor has not, `CorruptError` for a damaged file.
    """
    index = typed_index(part)
    shape = tuple(map(len, parse_index(index, tensor.shape, tensor.fqn)[0]))
    count, size = math.prod(shape), tensor.itemsize
    counted = size <= 2
    trace = Trace(progress=progress)
    sums = Sums(tensor.dtype)
    with trace.phase("read", count * size * (1 if counted else 2)):
        if counted:
            found, times = _distinct(tensor, index, trace)
            sums.add(found, times)
            edges = edges_of(sums, bins)
            tally = binned(found, edges, times)
        else:
            for values in _pieces(tensor, index, trace):
                sums.add(values)
            edges = edges_of(sums, bins)
            tally = np.zeros(len(edges) - 1, np.int64)
            for values in _pieces(tensor, index, trace):
                tally += binned(values, edges)
    trace.check()
    return Values(
        tensor.fqn,
        f"[{part.strip().removeprefix('[').removesuffix(']')}]" if part.strip() else "",
        tensor.dtype,
        shape,
        count,
        sums.odd["nan"],
        sums.odd["inf"],
        sums.zeros,
        sums.mean,
        sums.norm,
        sums.low,
        sums.high,
        edges,
        tally,
    )


def _pieces(tensor: StoredTensor, index: Sequence[Any], trace: Trace) -> Iterator[Array]:
    """The elements, some at a time, in one dim."""
    for block in blocks(tensor, tuple(index)):
        flat = block.values.reshape(-1)
        for at in range(0, len(flat), _PIECE):
            yield flat[at : at + _PIECE]
        trace.moved(flat.nbytes)
        trace.check()


def _distinct(tensor: StoredTensor, index: Sequence[Any], trace: Trace) -> tuple[Array, Ints]:
    """The different elements that there are, and how often there is each."""
    code = np.dtype(f"u{tensor.itemsize}")
    times = np.zeros(256**tensor.itemsize, np.int64)
    for values in _pieces(tensor, index, trace):
        times += np.bincount(values.view(code), minlength=len(times))
    (there,) = np.nonzero(times)
    return there.astype(code).view(numpy_dtype(tensor.dtype)), times[there]


def _number(value: float | complex | None) -> str:
    match value:
        case None:
            return "-"
        case int():
            return f"{value:,}"
        case complex():
            return f"{value.real:.6g} {'-' if value.imag < 0 else '+'} {abs(value.imag):.6g}i"
    return f"{value:.6g}"
