"""Numbers that can be added up a piece at a time: counts, extremes, sum, squares, bins.

Numerically sound whatever the dtype and however many elements there are. Pure numpy: it knows no
checkpoint.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from ckptlab.layout.box import Ints

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_MILD = 1e140
"""Magnitudes up to this, and down to its inverse, are squared and summed in float64 as they are."""


@dataclass
class Sums:
    """What can be added up: counts, extremes, and parts of a sum and of a sum of squares.

    A part is `(sum, squares, exponent)` of elements that were divided by `2**exponent`, so that no square
    leaves float64's range; parts are put together by `math.fsum`, which rounds once. Integers are
    summed exactly.
    """

    dtype: str
    odd: Counter[str] = field(default_factory=Counter)
    """How many are "nan" and how many "inf"."""
    zeros: int = 0
    finite: int = 0
    low: float | int | None = None
    high: float | int | None = None
    _total: int = 0
    _parts: list[tuple[complex, float, int]] = field(default_factory=list)

    @property
    def integer(self) -> bool:
        """Whether the elements are integers, or True and False."""
        return "float" not in self.dtype and "complex" not in self.dtype

    def add(self, values: Array, times: Ints | None = None) -> None:
        """Take in some elements, each so many `times`."""
        if self.integer:
            self._total += _exact_sum(values, times)
        else:
            for kind, there in not_finite(values):
                self.odd[kind] += _many(there, times)
        wide, times = _finite(values, times)
        if not wide.size:
            return
        self.finite += len(wide) if times is None else int(times.sum())
        self.zeros += _many(wide == 0, times)
        size = values if self.integer else np.abs(wide) if np.iscomplexobj(wide) else wide
        low, high = (int(end) if self.integer else float(end) for end in (size.min(), size.max()))
        self.low = low if self.low is None else min(self.low, low)
        self.high = high if self.high is None else max(self.high, high)
        self._parts.append(_part(wide, times, max(abs(float(low)), abs(float(high)))))

    @property
    def _top(self) -> int:
        return max((exponent for total, squares, exponent in self._parts if squares), default=0)

    @property
    def mean(self) -> float | complex | None:
        """Of the finite elements; rounded once for integers, twice for floats of two bytes or less."""
        if not self.finite:
            return None
        if self.integer:
            return self._total / self.finite
        top = self._top
        real, imaginary = (
            math.ldexp(math.fsum(math.ldexp(term, e - top) for term, e in terms) / self.finite, top)
            for terms in (
                [(total.real, e) for total, _, e in self._parts],
                [(total.imag, e) for total, _, e in self._parts],
            )
        )
        return complex(real, imaginary) if "complex" in self.dtype else real

    @property
    def norm(self) -> float:
        """Of the finite elements; infinite if it is beyond float64."""
        top = self._top
        scaled = math.sqrt(math.fsum(math.ldexp(squares, 2 * (e - top)) for _, squares, e in self._parts))
        try:
            return math.ldexp(scaled, top)
        except OverflowError:
            return math.inf


def _finite(values: Array, times: Ints | None = None) -> tuple[Array, Ints | None]:
    """The finite elements as float64 or complex128, and how often there is each."""
    # A signalling NaN makes the processor complain.
    with np.errstate(invalid="ignore"):
        wide = values.astype(np.complex128 if "complex" in values.dtype.name else np.float64)
        finite = np.isfinite(wide)
    if bool(finite.all()):
        return wide, times
    return wide[finite], None if times is None else times[finite]


def _part(wide: Array, times: Ints | None, largest: float) -> tuple[complex, float, int]:
    mild = largest == 0 or 1 / _MILD < largest < _MILD
    exponent = 0 if mild else math.frexp(largest)[1]
    flat = wide.view(np.float64)
    if exponent:
        flat = np.ldexp(flat, -exponent)
    if times is not None:
        return complex(math.fsum(flat * times)), math.fsum(flat * flat * times), exponent
    return complex(flat.view(wide.dtype).sum()), float(np.square(flat).sum()), exponent


def _exact_sum(values: Array, times: Ints | None) -> int:
    if times is not None:
        return sum(int(value) * n for value, n in zip(values.tolist(), times.tolist(), strict=True))
    if values.itemsize < 8:
        return int(values.sum(dtype=np.int64))
    # Halves of 32 bits: those of a piece cannot overflow 64.
    high, low = values >> 32, values & 0xFFFFFFFF
    return (int(high.sum()) << 32) + int(low.sum())


def _many(there: Flags, times: Ints | None) -> int:
    return int(np.count_nonzero(there) if times is None else times[there].sum())


def not_finite(values: Array) -> list[tuple[str, Flags]]:
    """Where there are NaNs, and where infinities, if there are any."""
    with np.errstate(invalid="ignore"):
        wide = values.astype(np.complex64) if values.dtype == ml_dtypes.complex32 else values
        if bool(np.isfinite(wide).all()):
            return []
        nan = np.isnan(wide)
        found = [("nan", nan), ("inf", np.isinf(wide) & ~nan)]
    return [(kind, there) for kind, there in found if there.any()]


def edges_of(sums: Sums, bins: int) -> Floats:
    """Edges of at most `bins` bins as wide as each other; one an integer where there are few."""
    low, high = sums.low, sums.high
    if low is None or high is None:
        return np.zeros(1)
    if sums.integer and high - low < bins:
        each: Floats = np.arange(int(high) - int(low) + 2, dtype=np.float64) + (float(low) - 0.5)
        return each
    if low == high:
        return np.array([low, np.nextafter(low, np.inf)], np.float64)
    # In quarters, since the whole span may be beyond float64.
    edges = np.linspace(float(low) / 4, float(high) / 4, bins + 1) * 4
    edges[0], edges[-1] = low, high
    distinct: Floats = np.unique(edges).astype(np.float64)
    return distinct


def binned(values: Array, edges: Floats, times: Ints | None = None) -> Ints:
    """How many of the finite elements, or of their magnitudes, are in each bin."""
    wide, times = _finite(values, times)
    size = np.abs(wide) if np.iscomplexobj(wide) else wide
    with np.errstate(over="ignore", invalid="ignore"):
        even = np.array_equal(edges, np.linspace(edges[0], edges[-1], len(edges)))
    # numpy finds the bin of each by arithmetic where edges are even, else by sorting.
    found = (
        np.histogram(size, len(edges) - 1, (edges[0], edges[-1]), weights=times)
        if even and len(edges) > 1
        else np.histogram(size, edges, weights=times)
    )
    tally: Ints = found[0].astype(np.int64)
    return tally
