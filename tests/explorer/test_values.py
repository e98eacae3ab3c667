"""Values of stored tensors: torch in float64 is the judge, of every dtype; memory stays bounded."""

import math
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
import torch
from crosswise_ops import DTYPES

from ckptlab import save
from ckptlab.errors import CancelledError, CorruptError, SliceError
from ckptlab.explorer import sums
from ckptlab.explorer.values import values_of
from ckptlab.storage import open_checkpoint

SHAPE = (61, 37)


def drawn(dtype):
    """Elements of every size that the dtype has, with NaNs and infinities where it has them."""
    pattern = torch.randint(0, 256, (*SHAPE, dtype.itemsize), dtype=torch.uint8, generator=GENERATOR)
    if dtype == torch.bool:
        return pattern[..., 0] > 128
    return pattern.reshape(-1).view(dtype).reshape(SHAPE)


GENERATOR = torch.Generator().manual_seed(7)
STATE = {name: drawn(getattr(torch, name)) for name in DTYPES}
WHOLE = {name for name, tensor in STATE.items() if not (tensor.is_floating_point() or tensor.is_complex())}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("values") / "checkpoint"
    extra = {"none": torch.empty(0, 3), "nans": torch.full((5,), torch.nan), "same": torch.full((9,), 3.7)}
    save({**STATE, **extra}, path, no_dist=True)
    return open_checkpoint(path)


def finite(tensor):
    """Its finite elements in float64 (complex128), as numpy has them; and its NaNs and infinities."""
    wide = tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)
    nan, inf = wide.isnan(), wide.isinf() & ~wide.isnan()
    return wide[~nan & ~inf].numpy(), int(nan.sum()), int(inf.sum())


def exact(tensor):
    """The sum of its elements and of their squares, as fractions."""
    values = [Fraction(int(v)) for v in tensor.reshape(-1).tolist()]
    return sum(values), sum(v * v for v in values)


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize("part", ["", "[5:40:3, 1::2]"])
@pytest.mark.parametrize("dtype", STATE)
def test_values_are_torchs_in_float64(checkpoint, dtype, part):
    tensor = STATE[dtype] if not part else STATE[dtype][5:40:3, 1::2]
    seen = values_of(checkpoint[dtype], part)
    there, nan, inf = finite(tensor)
    assert (seen.count, seen.nan, seen.inf, seen.finite) == (tensor.numel(), nan, inf, len(there))
    assert seen.zeros == int((there == 0).sum())
    assert seen.shape == tuple(tensor.shape)
    if dtype in WHOLE:
        total, squares = exact(tensor)
        assert seen.mean == float(total / tensor.numel())
        assert math.isclose(seen.norm, math.sqrt(squares), rel_tol=1e-13)
        every = tensor.reshape(-1).tolist()
        assert (seen.low, seen.high) == (min(every), max(every))
    else:
        size = np.abs(there)
        with np.errstate(under="ignore", over="ignore"):
            scale = size.max()
            norm = scale * np.sqrt(np.sum((size / scale) ** 2))
        assert math.isclose(seen.norm, norm, rel_tol=1e-13)
        parts = [(there.real, seen.mean.real)]
        parts += [(there.imag, seen.mean.imag)] if tensor.is_complex() else []
        for terms, mean in parts:
            true = sum(map(Fraction, terms.tolist())) / len(terms)
            within = np.abs(terms).max() * 1e-15 if tensor.element_size() > 2 else np.spacing(abs(mean))
            assert abs(mean - float(true)) <= within
        judged = size if tensor.is_complex() else there
        assert (seen.low, seen.high) == (judged.min(), judged.max())
    judged = np.abs(there) if tensor.is_complex() else there
    assert seen.bins.sum() == len(there)
    np.testing.assert_array_equal(seen.bins, np.histogram(judged, seen.edges)[0])
    if dtype in ("float32", "float16", "bfloat16") and np.array_equal(
        seen.edges, np.linspace(seen.low, seen.high, len(seen.edges))
    ):
        torchs = torch.histogram(torch.from_numpy(there), 60, range=(seen.low, seen.high)).hist
        np.testing.assert_array_equal(seen.bins, torchs.numpy())


def test_few_integers_have_a_bin_each(checkpoint):
    seen = values_of(checkpoint["bool"])
    assert seen.edges.tolist() == [-0.5, 0.5, 1.5]
    assert seen.bins.tolist() == [int((~STATE["bool"]).sum()), int(STATE["bool"].sum())]


def test_nothing_finite_and_all_the_same(checkpoint):
    none, nans, same = (values_of(checkpoint[fqn]) for fqn in ("none", "nans", "same"))
    assert (none.count, none.mean, none.norm, none.low, len(none.bins)) == (0, None, 0.0, None, 0)
    assert (nans.count, nans.nan, nans.mean, len(nans.bins)) == (5, 5, None, 0)
    assert (same.low, same.high, same.bins.tolist()) == (np.float32(3.7), np.float32(3.7), [9])
    assert "mean  -" in repr(nans)


def test_pieces_are_put_together_soundly(checkpoint, monkeypatch):
    """The sum of a large value, small ones and its opposite; squares far out of float64's range."""
    huge = sums.Sums("float64")
    for piece in ([1e200, 1.0], [1.0, 3.0], [-1e200, 1.0]):
        huge.add(np.array(piece))
    assert math.isclose(huge.norm, math.sqrt(2) * 1e200, rel_tol=1e-15)
    large = sums.Sums("float64")
    for piece in ([1e30], [1.0, 3.0], [-1e30]):
        large.add(np.array(piece))
    assert large.mean == 1.0
    tiny = sums.Sums("float64")
    tiny.add(np.array([3e-200, 4e-200]))
    assert math.isclose(tiny.norm, 5e-200, rel_tol=1e-15)
    edge = sums.Sums("float64")
    edge.add(np.array([1.7e308, 1.7e308]))
    assert (edge.mean, edge.norm) == (1.7e308, math.inf)


def test_memory_is_bounded_and_progress_is_told_to_the_byte(tmp_path):
    tensor = torch.arange(12_000_000, dtype=torch.float32)
    save({"w": tensor}, tmp_path / "c", no_dist=True)
    stored, told = open_checkpoint(tmp_path / "c")["w"], []
    tracemalloc.start()
    try:
        seen = values_of(stored, progress=told.append)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 20 << 20 < tensor.nbytes
    n = len(tensor)
    assert seen.mean == (n - 1) / 2
    assert math.isclose(seen.norm, math.sqrt(n * (n - 1) * (2 * n - 1) // 6), rel_tol=1e-15)
    assert math.isclose(seen.norm, tensor.double().norm().item(), rel_tol=1e-12)
    assert (told[-1].done, told[-1].total) == (2 * tensor.nbytes, 2 * tensor.nbytes)
    assert [e.done for e in told] == sorted(e.done for e in told)


def test_progress_can_end_it(checkpoint):
    def enough(event):
        raise CancelledError("enough")

    with pytest.raises(CancelledError, match="enough"):
        values_of(checkpoint["float32"], progress=enough)


def test_a_wrong_part_and_a_damaged_file_are_said(tmp_path):
    save({"w": torch.arange(1000.0)}, tmp_path / "c", no_dist=True)
    stored = open_checkpoint(tmp_path / "c")["w"]
    with pytest.raises(SliceError, match="has 1 dims, and the index has 2 parts"):
        values_of(stored, "[1, 2]")
    (file,) = (tmp_path / "c").glob("*.distcp")
    data = file.read_bytes()
    at = data.index(torch.arange(1000.0).numpy().tobytes())
    file.write_bytes(data[: at + 8] + b"\x07" + data[at + 9 :])
    with pytest.raises(CorruptError, match="the file is damaged"):
        values_of(stored)


def test_a_span_that_no_float_holds_and_one_too_narrow_to_cut(tmp_path):
    wide = torch.tensor([-1.7e308, 0.0, 1.7e308], dtype=torch.float64)
    narrow = torch.tensor([1.0, 1.0 + 2**-52, 1.0 + 2**-51], dtype=torch.float64)
    save({"wide": wide, "narrow": narrow}, tmp_path / "c", no_dist=True)
    checkpoint = open_checkpoint(tmp_path / "c")
    seen = values_of(checkpoint["wide"], bins=4)
    assert (seen.bins.tolist(), seen.edges[[0, 2, 4]].tolist()) == ([1, 0, 1, 1], wide.tolist())
    seen = values_of(checkpoint["narrow"])
    assert seen.bins.sum() == 3
    assert (np.diff(seen.edges) > 0).all()
