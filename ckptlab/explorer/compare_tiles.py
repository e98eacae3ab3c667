"""Two stored tensors of one shape, measured against each other a tile at a time.

A tile is a run of elements in row-major order, so that it is one run in every chunk that it meets, on both
sides, however each is cut: every byte is read once, and memory is a tile a side. It knows no keys
and no words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

from ckptlab.errors import CheckpointError, CorruptError
from ckptlab.explorer.sums import Array, Flags, Floats
from ckptlab.layout import Box
from ckptlab.metadata import ITEMSIZE, Tensor
from ckptlab.storage import Checkpoint
from ckptlab.storage.stored import numpy_dtype
from ckptlab.storage.stream import blocks, cut

TILE = 4 << 20
"""Bytes of a tile of the side whose elements are larger."""

_PIECE = 1 << 17
"""Elements that are worked on at once: few enough to stay in a core's cache."""

_LITTLE = 1e-200
"""Sums of squares below this may have lost small ones."""


@dataclass(frozen=True)
class Measured:
    """How the elements of a tensor `a` and a tensor `b` compare, as numbers of the dtype `common`.

    `different` elements are not the same, bit for bit; where dtypes differ, not the same number (NaN is
    the same as NaN). `beyond` of them count: all, or those that are not within the tolerance. `odd` of the
    different ones are NaN or infinite on one side and something else on the other. Of the rest, which are
    finite on both sides, `largest` is the largest `|b - a|`, `relative` the largest of it divided by the
    larger magnitude (so from 0 to 2), and `norm` the 2-norm of `b - a`. `base` is the 2-norm of what is
    finite in `a`. `box` is round all that count; `worst` is the index of the first odd one, else of the
    largest difference, and `values` are what stands there.
    """

    common: str
    elements: int
    different: int = 0
    beyond: int = 0
    odd: int = 0
    largest: float = 0.0
    relative: float = 0.0
    norm: float = 0.0
    base: float = 0.0
    box: Box | None = None
    worst: tuple[int, ...] | None = None
    values: tuple[str, str] = ("", "")

    @property
    def change(self) -> float:
        """The norm of the change relative to that of `a`; infinite if something came where all was zero."""
        if not self.norm:
            return 0.0
        return self.norm / self.base if self.base else math.inf


@dataclass(frozen=True)
class Tolerance:
    """Elements count as close if `|b - a| <= atol + rtol * |a|`, or if both are NaN."""

    rtol: float = 0.0
    atol: float = 0.0


def common_dtype(a: str, b: str) -> str:
    """The dtype as whose numbers elements of two dtypes are compared: one that has both, as a rule.

    Integers of 8 bytes are rounded where the other side is no integer.
    """
    if a == b:
        return a
    if any("complex" in dtype for dtype in (a, b)):
        return "complex128"
    if any("float" in dtype for dtype in (a, b)):
        return "float64"
    return "uint64" if "uint64" in (a, b) else "int64"


def measure(
    a: Checkpoint,
    b: Checkpoint,
    keys: tuple[str, str],
    tolerance: Tolerance | None = None,
    moved: Callable[[int], None] = lambda nbytes: None,
) -> Measured:
    """Compare the tensors of two keys, which have one shape; `moved` is told the bytes of each tile.

    `CorruptError` that names the side for elements that are stored nowhere or wrongly.
    """
    one, other = a.metadata.tensor(keys[0]), b.metadata.tensor(keys[1])
    assert one.shape == other.shape
    sizes = ITEMSIZE[one.dtype], ITEMSIZE[other.dtype]
    most = TILE // max(sizes)
    sums = _Sums(one.dtype, other.dtype, tolerance)
    sides = (_tiles(a, one, most * sizes[0]), _tiles(b, other, most * sizes[1]))
    for box, mine, theirs in zip(cut(one.shape, most), *sides, strict=True):
        sums.add(box, mine, theirs)
        moved(mine.nbytes + theirs.nbytes)
    return sums.measured(math.prod(one.shape))


def _tiles(checkpoint: Checkpoint, tensor: Tensor, nbytes: int) -> Iterator[Array]:
    """The elements, flat, so many bytes at a time."""
    stream = blocks(checkpoint, tensor.fqn, nbytes)
    while True:
        try:
            data = next(stream)
        except StopIteration:
            return
        except CheckpointError as error:
            where = "" if checkpoint.path in str(error) else f"{checkpoint.path}: "
            raise CorruptError(f"{where}{error}", error.problems) from error
        yield np.frombuffer(data, numpy_dtype(tensor.dtype))


@dataclass
class Norm:
    """A 2-norm that grows; numbers that are not finite are left out. Infinite if it is beyond float64."""

    value: float = 0.0

    def add(self, numbers: Array) -> None:
        """Take in some float64 or complex128 numbers."""
        flat: Floats = numbers.view(np.float64)
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            square = float(np.einsum("i,i->", flat, flat))
        exponent = 0
        if not _LITTLE < square < math.inf:
            flat = numbers[np.isfinite(numbers)].view(np.float64)
            exponent = math.frexp(float(np.abs(flat).max(initial=0.0)))[1]
            flat = np.ldexp(flat, -exponent)
            square = float(np.einsum("i,i->", flat, flat))
        try:
            self.value = math.hypot(self.value, math.ldexp(math.sqrt(square), exponent))
        except OverflowError:
            self.value = math.inf


@dataclass
class _Sums:
    """What tiles add up to."""

    dtype_a: str
    dtype_b: str
    tolerance: Tolerance | None
    different: int = 0
    beyond: int = 0
    odd: int = 0
    largest: float = 0.0
    relative: float = 0.0
    norm: Norm = field(default_factory=Norm)
    base: Norm = field(default_factory=Norm)
    low: tuple[int, ...] | None = None
    high: tuple[int, ...] = ()
    _worst: tuple[bool, float] = (False, -1.0)
    _at: tuple[int, ...] | None = None
    _values: tuple[str, str] = ("", "")

    def add(self, box: Box, a: Array, b: Array) -> None:
        """Take in a tile, flat on both sides."""
        counts: Flags | None = None
        for start in range(0, len(a), _PIECE):
            mine, theirs = a[start : start + _PIECE], b[start : start + _PIECE]
            wide = _wide(mine)
            self.base.add(wide)
            differ = _differ(mine, theirs)
            if not differ.any():
                continue
            (rows,) = np.nonzero(differ)
            beyond = self._compare(mine[rows], theirs[rows], rows + start, box)
            if counts is None:
                counts = np.zeros(len(a), bool)
            counts[rows[beyond] + start] = True
        if counts is not None and counts.any():
            self._surround(box, counts.reshape(box.shape))

    def _compare(self, a: Array, b: Array, places: Array, box: Box) -> Flags:
        """Take in elements that differ; which of them are beyond the tolerance."""
        with np.errstate(invalid="ignore", over="ignore"):
            wide_a, wide_b = _wide(a), _wide(b)
            finite = np.isfinite(wide_a) & np.isfinite(wide_b)
            apart = np.where(finite, _apart(a, b, wide_a, wide_b), 0.0)
            size = np.maximum(np.abs(wide_a), np.abs(wide_b))
            nan = np.isnan(wide_a) & np.isnan(wide_b)
            share = np.divide(apart, size, out=np.zeros_like(apart), where=finite & (size > 0))
            if self.tolerance is None:
                beyond = np.ones(len(a), bool)
            else:
                near = self.tolerance.atol + self.tolerance.rtol * np.abs(wide_a)
                beyond = ~nan & ~(finite & (apart <= near))
        odd = ~finite & ~nan
        self.different += len(a)
        self.beyond += int(beyond.sum())
        self.odd += int(odd.sum())
        self.largest = max(self.largest, float(apart.max()))
        self.relative = max(self.relative, float(share.max()))
        self.norm.add(apart)
        worst = int(np.argmax(odd)) if odd.any() else int(np.argmax(apart))
        rank = (bool(odd[worst]), 0.0 if odd[worst] else float(apart[worst]))
        if rank > self._worst:
            at = np.unravel_index(int(places[worst]), box.shape)
            self._worst = rank
            self._at = tuple(int(i) + low for i, low in zip(at, box.offset, strict=True))
            self._values = (_said(a[worst]), _said(b[worst]))
        return beyond

    def _surround(self, box: Box, counts: Flags) -> None:
        """Widen the box round what counts."""
        low, high = [], []
        for dim in range(counts.ndim):
            others = tuple(d for d in range(counts.ndim) if d != dim)
            (there,) = np.nonzero(counts.any(axis=others))
            low.append(int(there[0]) + box.offset[dim])
            high.append(int(there[-1]) + 1 + box.offset[dim])
        before, behind = self.low or tuple(low), self.high or tuple(high)
        self.low = tuple(map(min, zip(before, low, strict=True)))
        self.high = tuple(map(max, zip(behind, high, strict=True)))

    def measured(self, elements: int) -> Measured:
        """All of it."""
        box = None
        if self.low is not None:
            box = Box(self.low, tuple(h - n for h, n in zip(self.high, self.low, strict=True)))
        return Measured(
            common_dtype(self.dtype_a, self.dtype_b),
            elements,
            self.different,
            self.beyond,
            self.odd,
            self.largest,
            self.relative,
            self.norm.value,
            self.base.value,
            box,
            self._at,
            self._values,
        )


def _wide(values: Array) -> Array:
    """As float64 or complex128."""
    # A signalling NaN makes the processor complain.
    with np.errstate(invalid="ignore"):
        if values.dtype == ml_dtypes.complex32:
            values = values.astype(np.complex64)
        return values.astype(np.complex128 if values.dtype.kind == "c" else np.float64)


def _differ(a: Array, b: Array) -> Flags:
    """Which elements are not the same: by their bits, or by their values where dtypes differ."""
    if a.dtype == b.dtype:
        width = min(a.itemsize, 8)
        mine, theirs = (side.view(f"u{width}").reshape(len(a), -1) for side in (a, b))
        return np.asarray(mine[:, 0] != theirs[:, 0]) if mine.shape[1] == 1 else (mine != theirs).any(axis=1)
    if _exact(a) and _exact(b):
        return np.asarray(a != b)
    one, other = _wide(a), _wide(b)
    with np.errstate(invalid="ignore"):
        return np.asarray((one != other) & ~(np.isnan(one) & np.isnan(other)))


def _exact(values: Array) -> bool:
    return values.dtype.kind in "biu"


def _apart(a: Array, b: Array, wide_a: Array, wide_b: Array) -> Floats:
    """How far apart elements are; of integers rounded once."""
    signs = {values.dtype.kind for values in (a, b)} - {"b"}
    far: Floats
    if not (_exact(a) and _exact(b)) or max(a.itemsize, b.itemsize) < 8 or len(signs) > 1:
        far = np.abs(wide_b - wide_a)
    else:
        kind = np.uint64 if "u" in signs else np.int64
        one, other = a.astype(kind), b.astype(kind)
        # Beyond the range of an int64 the difference wraps round to what a uint64 has.
        far = np.where(one > other, one - other, other - one).view(np.uint64).astype(np.float64)
    return far


def _said(value: Any) -> str:
    return f"{value:.6g}" if value.dtype.kind in "fc" else str(value)
