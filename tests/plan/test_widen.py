"""What widens keeps every value: torch converts all values of the small dtypes there and back."""

import itertools

import pytest
import torch

from ckptlab.metadata import ITEMSIZE
from ckptlab.plan.widen import widens

SMALL = [name for name, size in ITEMSIZE.items() if size <= 2 and not name.startswith(("complex", "uint16"))]
FLOATS = [name for name in ITEMSIZE if "float" in name]


@pytest.mark.parametrize(
    ("stored", "wanted"), list(itertools.permutations([*SMALL, "float32", "float64"], 2))
)
def test_what_widens_loses_nothing(stored, wanted):
    if stored not in SMALL or not widens(stored, wanted):
        return
    bits = torch.arange(256 ** ITEMSIZE[stored]).to(torch.uint8 if ITEMSIZE[stored] == 1 else torch.int16)
    if stored == "bool":
        bits = bits[:2]
    every = bits.view(getattr(torch, stored))
    wide = every.to(getattr(torch, wanted))
    exact = every.to(torch.float64)
    same = wide.to(torch.float64) == exact
    assert bool((same | exact.isnan() & wide.to(torch.float64).isnan()).all())


def test_floats_of_8_bits_do_not_hold_each_other():
    eights = [name for name in FLOATS if name.startswith("float8")]
    assert not any(widens(a, b) for a, b in itertools.permutations(eights, 2))
    assert all(widens(name, "float32") for name in eights)
