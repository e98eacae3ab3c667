"""Elements of two stored tensors, measured as torch measures them; every dtype, any cut, little memory."""

import math
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import stored_ops
import torch
from crosswise_ops import DTYPES
from ranks_fixture import pool
from tensors import TORCH_DTYPES, as_bytes, made

from ckptlab import save
from ckptlab.errors import CorruptError
from ckptlab.explorer import compare_tiles
from ckptlab.explorer.compare_tiles import Norm, Tolerance, measure
from ckptlab.layout import Box
from ckptlab.storage import open_checkpoint


@pytest.fixture
def stored(tmp_path):
    """Saves tensors, and opens what was saved."""

    def store(name, **tensors):
        save(tensors, tmp_path / name, no_dist=True)
        return open_checkpoint(tmp_path / name)

    return store


def measured(stored, a, b, tolerance=None):
    return measure(stored("a", w=a), stored("b", w=b), ("w", "w"), tolerance)


def wide(tensor):
    return tensor.to(torch.complex128 if tensor.dtype.is_complex else torch.float64)


def small_tiles(monkeypatch):
    monkeypatch.setattr(compare_tiles, "TILE", 100)
    monkeypatch.setattr(compare_tiles, "_PIECE", 7)


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_as_torch_says(stored, monkeypatch, dtype):
    """Random bits: NaN, infinities, numbers of every size."""
    small_tiles(monkeypatch)
    a, b = made(dtype, (9, 7), 1), made(dtype, (9, 7), 1)
    other = made(dtype, (9, 7), 2)
    b[2:5, 1:4] = other[2:5, 1:4]
    found = measured(stored, a, b)

    size = a.element_size()
    bits = [np.frombuffer(as_bytes(t), np.uint8).reshape(9, 7, size) for t in (a, b)]
    differ = torch.from_numpy((bits[0] != bits[1]).any(axis=2))
    one, two = wide(a), wide(b)
    finite = one.isfinite() & two.isfinite()
    odd = differ & ~finite & ~(one.isnan() & two.isnan())
    apart = torch.where(differ & finite, (two - one).abs(), 0.0)
    assert (found.different, found.beyond, found.odd) == (differ.sum(), differ.sum(), odd.sum())
    assert found.largest == pytest.approx(float(apart.max()), rel=1e-12)
    # Squares of float64 leave its range: divided, so that torch's do not.
    scale = max(1.0, float(apart.max()))
    assert found.norm == pytest.approx(float((apart / scale).norm()) * scale, rel=1e-12)
    there = differ.nonzero()
    low, high = there.min(0).values, there.max(0).values + 1
    assert found.box == Box(tuple(low.tolist()), tuple((high - low).tolist()))
    if odd.any():
        assert found.worst == tuple(odd.nonzero()[0].tolist())
    else:
        assert float(apart[found.worst]) == pytest.approx(found.largest, rel=1e-12)


@pytest.mark.parametrize(
    ("a", "b", "common"),
    [
        ("float32", "bfloat16", "float64"),
        ("float8_e4m3fn", "float32", "float64"),
        ("int8", "int64", "int64"),
        ("uint8", "uint64", "uint64"),
        ("bool", "float16", "float64"),
        ("int64", "float32", "float64"),
        ("complex64", "float32", "complex128"),
    ],
)
def test_other_dtypes_are_compared_in_a_wider_one(stored, a, b, common):
    numbers = torch.tensor([0.0, 1.0, 1.0, 0.0])
    found = measured(stored, numbers.to(TORCH_DTYPES[a]), numbers.to(TORCH_DTYPES[b]))
    assert (found.common, found.different) == (common, 0)
    numbers = torch.tensor([0.0, 1.0, 0.0, 0.0])
    found = measured(
        stored, torch.tensor([0.0, 1.0, 1.0, 0.0]).to(TORCH_DTYPES[a]), numbers.to(TORCH_DTYPES[b])
    )
    assert (found.different, found.largest, found.worst, found.relative) == (1, 1.0, (2,), 1.0)


def test_nan_zero_and_infinity(stored):
    nan, inf = math.nan, math.inf
    other_nan = torch.tensor([0x7FC00001], dtype=torch.int32).view(torch.float32)
    a = torch.tensor([nan, 0.0, inf, inf, 1.0, nan, 5.0])
    b = torch.tensor([nan, -0.0, inf, -inf, nan, 0.0, 5.0])
    b[0] = other_nan
    found = measured(stored, a, b)
    assert (found.different, found.odd, found.largest, found.norm) == (5, 3, 0.0, 0.0)
    assert (found.worst, found.values) == ((3,), ("inf", "-inf"))
    # Within a tolerance, however small, zeros are zeros and NaNs are NaNs.
    found = measured(stored, a, b, Tolerance())
    assert (found.beyond, found.box) == (3, Box((3,), (3,)))
    # Of another dtype, the same.
    found = measured(stored, a, b.double())
    assert (found.different, found.odd) == (3, 3)


def test_the_same_bits_of_nan_are_equal(stored):
    assert measured(stored, torch.full((5,), math.nan), torch.full((5,), math.nan)).different == 0


def test_integers_are_compared_to_the_last_digit(stored):
    a = torch.tensor([2**62, -(2**63), 5])
    b = torch.tensor([2**62 + 1, 2**63 - 1, 5])
    found = measured(stored, a, b)
    assert (found.different, found.largest, found.worst) == (2, float(2**64 - 1), (1,))
    # As float64, which these are beyond, they would be the same.
    assert measured(stored, a[:1], b[:1]).largest == 1.0
    found = measured(stored, torch.tensor([-1, 7]), torch.tensor([2**64 - 1, 7], dtype=torch.uint64))
    assert (found.different, found.largest) == (1, float(2**64))


def test_tolerance_is_of_a(stored):
    a, b = torch.tensor([100.0, 1.0, 0.0]), torch.tensor([101.0, 1.011, 0.001])
    assert measured(stored, a, b, Tolerance(rtol=0.0105)).beyond == 2
    assert measured(stored, a, b, Tolerance(rtol=0.0105, atol=0.002)).beyond == 0
    less, more = torch.tensor([100.0]), torch.tensor([110.0])
    assert measured(stored, less, more, Tolerance(rtol=0.095)).beyond == 1
    assert measured(stored, more, less, Tolerance(rtol=0.095)).beyond == 0


@pytest.mark.parametrize("shape", [(), (0, 4), (1,), (3, 0, 2), (2, 3, 4, 5)])
def test_every_shape(stored, monkeypatch, shape):
    small_tiles(monkeypatch)
    a = torch.rand(shape)
    assert measured(stored, a, a.clone()).different == 0
    found = measured(stored, a, a + 1)
    assert found.different == a.numel()
    assert found.box == (Box((0,) * len(shape), shape) if a.numel() else None)


def test_norms_of_numbers_of_any_size():
    for scale in (1e-300, 1e-170, 1.0, 1e160, 1e300):
        norm, parts = Norm(), np.arange(1.0, 1001.0).reshape(10, 100)
        for part in parts:
            norm.add(part * scale)
        assert norm.value == pytest.approx(float(np.linalg.norm(parts)) * scale, rel=1e-12)
    norm.add(np.array([math.nan, math.inf]))
    assert math.isfinite(norm.value)
    norm.add(np.full(9, 1.7e308))
    assert norm.value == math.inf


def test_however_each_side_is_cut_it_is_read_once_in_runs(tmp_path, monkeypatch):
    """Rows against columns against tiles: no byte is asked for twice, none that is not wanted."""
    small_tiles(monkeypatch)
    pool(4).run(stored_ops.save_grid, str(tmp_path / "c"), "ours", ["rows", "columns", "tiles", "stripes"])
    opened = open_checkpoint(tmp_path / "c")
    names = [fqn for fqn in opened if opened.metadata.tensor(fqn).shape == (7, 5)]
    assert len(names) == 4
    for fqn in names:
        files, whole = Counting(opened.files), opened.metadata.tensor(fqn).nbytes
        found = measure(replace(opened, files=files), opened, (fqn, fqn))
        assert found.different == 0
        assert len(files.asked) == whole
        assert len(set(files.asked)) == whole


class Counting:
    """Files that remember each byte that was asked for."""

    def __init__(self, files):
        self.files, self.asked = files, []

    def __getattr__(self, name):
        assert name != "view", "elements were picked out of what lies between"
        return getattr(self.files, name)

    def read_into(self, name, start, *into):
        length = sum(buffer.nbytes for buffer in into)
        self.asked += [(name, at) for at in range(start, start + length)]
        self.files.read_into(name, start, *into)


def test_memory_is_bounded_by_tiles(stored):
    """Two tensors of 32 MiB, of which every element differs: about two tiles are held, and their masks."""
    a = stored("a", w=torch.zeros(4096, 2048))
    b = stored("b", w=torch.ones(4096, 2048))
    measure(a, b, ("w", "w"))
    tracemalloc.start()
    try:
        found = measure(a, b, ("w", "w"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (found.different, found.change) == (4096 * 2048, math.inf)
    assert found.norm == pytest.approx(math.sqrt(4096 * 2048))
    assert peak < 5 * compare_tiles.TILE


def test_what_cannot_be_read_is_said_of_its_side(stored, tmp_path):
    a, b = stored("a", w=torch.ones(400, 10)), stored("b", w=torch.ones(400, 10))
    file = tmp_path / "b" / b.metadata.files[0]
    data = bytearray(file.read_bytes())
    data[data.index(b"\0\0\x80?" * 100) + 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(CorruptError, match=r"/b/__0_0.distcp: its bytes have crc"):
        measure(a, open_checkpoint(tmp_path / "b"), ("w", "w"))
