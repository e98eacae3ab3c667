"""A scan for what is no number: counts and first indexes as torch finds them, whatever the chunks."""

import pytest
import torch
import values_ops
from crosswise_ops import DTYPES
from ranks_fixture import pool

from ckptlab import save
from ckptlab.errors import CancelledError
from ckptlab.explorer.scan import Found, Odd, scan
from ckptlab.storage import open_checkpoint

FLOATS = [d for d in (getattr(torch, name) for name in DTYPES) if d.is_floating_point or d.is_complex]


def first(there):
    found = there.nonzero().tolist()
    return tuple(found[0]) if found else None


@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_every_float_that_is_none_is_found(tmp_path):
    generator = torch.Generator().manual_seed(3)
    state, expected = {"ints": torch.arange(10), "fine": torch.ones(4, 4)}, []
    for dtype in FLOATS:
        name = str(dtype).removeprefix("torch.")
        pattern = torch.randint(0, 256, (300, dtype.itemsize), dtype=torch.uint8, generator=generator)
        state[name] = tensor = pattern.reshape(-1).view(dtype).reshape(20, 15)
        wide = tensor.to(torch.complex128 if dtype.is_complex else torch.float64)
        nan = wide.isnan()
        inf = wide.isinf() & ~nan
        counts = (int(nan.sum()), int(inf.sum()), first(nan), first(inf))
        if nan.any() or inf.any():
            expected.append(Odd(name, name, (20, 15), *counts))
    save(state, tmp_path / "c", no_dist=True)
    found = list(scan(open_checkpoint(tmp_path / "c")))
    assert len(expected) > 6
    assert sorted(found, key=lambda odd: odd.fqn) == sorted(expected, key=lambda odd: odd.fqn)


def test_the_first_is_the_first_of_the_tensor_not_of_the_file(tmp_path):
    """Columns on four ranks: the file that comes first does not hold the first NaN."""
    pool(4).run(values_ops.save_columns_with_nans, str(tmp_path / "c"))
    (found,) = scan(open_checkpoint(tmp_path / "c"))
    assert (found.nan, found.first_nan) == (4, (1, 7))
    assert (found.inf, found.first_inf) == (1, (0, 6))


def test_a_tensor_that_cannot_be_read_is_told_of_and_the_scan_goes_on(tmp_path):
    state = {"a": torch.full((3000,), torch.nan), "b": torch.full((5,), torch.nan)}
    save(state, tmp_path / "c", no_dist=True)
    (file,) = (tmp_path / "c").glob("*.distcp")
    data = file.read_bytes()
    at = data.index(state["a"].numpy().tobytes())
    file.write_bytes(data[: at + 8] + b"\x07" + data[at + 9 :])
    bad, good = scan(open_checkpoint(tmp_path / "c"))
    assert bad.fqn == "a"
    assert "the file is damaged" in bad.trouble
    assert (good.fqn, good.nan, good.trouble) == ("b", 5, "")


def test_progress_counts_the_floats_and_can_end_the_scan(tmp_path):
    save({"w": torch.ones(100), "i": torch.arange(9)}, tmp_path / "c", no_dist=True)
    checkpoint, told = open_checkpoint(tmp_path / "c"), []
    assert list(scan(checkpoint, told.append)) == []
    assert (told[0].total, told[-1].done) == (400, 400)

    def enough(event):
        raise CancelledError("enough")

    with pytest.raises(CancelledError, match="enough"):
        list(scan(checkpoint, enough))


def test_a_line_for_each_tensor_with_its_places():
    odds = [Odd("a", "float32", (2, 3), 4, 0, (0, 1)), Odd("b", "bfloat16", (9,), trouble="damaged")]
    table = Found(odds, "b")
    lines = table.lines(0, 9)
    assert lines[0].cells == ("a", "4", "0", "[0, 1]", "", "float32", "2 x 3")
    assert lines[1].cells[:3] == ("b", "unreadable", "")
    assert [line.chosen for line in lines] == [False, True]
    assert (table.chosen, len(table), table.caption) == (1, 2, "b: damaged")
    assert list(table.records())[1] == ("a", "float32", "2 x 3", 4, 0, "[0, 1]", "", "")
    assert len(table.lines(0, 1)[0].cells) == len(table.columns)


def test_a_complex_element_is_nan_or_infinite_but_not_both(tmp_path):
    nan, inf = torch.nan, torch.inf
    tensor = torch.tensor([1.0, complex(nan, inf), complex(0, -inf), complex(inf, 2), complex(3, nan)])
    save({"w": tensor}, tmp_path / "c", no_dist=True)
    (found,) = scan(open_checkpoint(tmp_path / "c"))
    assert (found.nan, found.first_nan, found.inf, found.first_inf) == (2, (1,), 2, (2,))
