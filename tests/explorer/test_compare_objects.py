"""Objects compared by value, whatever format they are in; what is not read is compared as bytes."""

import math
from collections import OrderedDict
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from ckptlab import open_checkpoint, save
from ckptlab.explorer.compare_objects import compare_objects

VALUE = {
    "lr": 0.1,
    "betas": (0.9, math.nan),
    "steps": [1, 2, {"x": None}],
    "dtype": torch.bfloat16,
    "size": torch.Size([3, 4]),
    "ordered": OrderedDict(b=1, a=b"bytes"),
    "set": {1, 2},
}


@pytest.fixture
def answer(tmp_path):
    """Saves two values as DCP, and says how they compare."""

    def ask(a, b, suffix=""):
        opened = []
        # In a tuple, which is one object however it is saved.
        for name, value in (("a", a), ("b", b)):
            if suffix and name == "b":
                torch.save({"it": (value,)}, tmp_path / f"b{suffix}")
            else:
                save({"it": (value,)}, tmp_path / name, no_dist=True)
            opened.append(open_checkpoint(tmp_path / f"{name}{suffix if name == 'b' else ''}"))
        (key,) = (key for key in opened[0] if key.startswith("it"))
        return compare_objects(*opened, (key, next(iter(opened[1]))))

    return ask


def test_equal_values(answer):
    for key, value in VALUE.items():
        assert answer(value, value) == ("equal", ""), key


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (3, 4, "3 -> 4"),
        (1, 1.0, "1 -> 1.0"),
        (1, True, "1 -> True"),
        ("x", "y" * 100, "'x' -> '" + "y" * 16),
        ((1, 2), [1, 2], "[0]: (1, 2) -> [1, 2]"),
        ([1, 3], [1, 4], "[0][1]: 3 -> 4"),
        ([1, 2], [1], "[0] has 2 items here, 1 there"),
        (torch.float16, torch.bfloat16, "torch.float16' -> 'torch.bfloat16"),
        (math.nan, 0.0, "nan -> 0.0"),
        ({1: {"x": 2}}, {1: {"y": 2}}, "['x']: only here"),
    ],
)
def test_where_values_differ(answer, a, b, words):
    state, why = answer(a, b)
    assert state == "values"
    assert words in why


def test_a_torch_file_has_the_same_values(answer):
    value = {"betas": (0.9, math.nan), "dtype": torch.bfloat16, "size": torch.Size([3, 4])}
    for part in value.values():
        assert answer(part, part, ".pt") == ("equal", "")
    assert answer((0.9, 1.0), (0.9, 2.0), ".pt") == ("values", "[0][1]: 1.0 -> 2.0")


def test_what_is_not_read_is_compared_as_bytes(answer):
    assert answer(Fraction(1, 3), Fraction(1, 3)) == ("equal", "")
    state, why = answer(Fraction(1, 3), Fraction(1, 4))
    assert state == "unknown"
    assert "holds fractions.Fraction; its bytes are not the same" in why
    assert answer(Path("x"), 3)[0] == "unknown"


def test_values_that_hold_each_other_end(answer):
    deep = [0]
    for _ in range(60):
        deep = [deep, deep]
    assert answer(deep, deep)[0] == "equal"
    loop = [1]
    loop.append(loop)
    assert answer((loop,), (loop,))[0] == "unknown"
