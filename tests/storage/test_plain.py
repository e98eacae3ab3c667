import argparse
import io
import math
from collections import Counter, OrderedDict
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ckptlab.errors import CheckpointError
from ckptlab.storage import opcodes
from ckptlab.storage.archive import Archive
from ckptlab.storage.plain import FAITHFUL, Kept, Spelled, pickled
from ckptlab.storage.torch_file_write import object_archive
from ckptlab.storage.torch_save import restricted_load


def kept(value, weights_only=True):
    """What torch's careful reader makes of a value that torch saved, after it went through our hands."""
    out = io.BytesIO()
    torch.save(value, out)
    data = out.getvalue()
    code = Archive(lambda start, n: data[start : start + n], len(data)).content("data.pkl")
    again = object_archive(restricted_load(code, FAITHFUL, "here"))
    return torch.load(io.BytesIO(again), weights_only=weights_only)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False)
    | st.text(max_size=5) | st.binary(max_size=5) | st.complex_numbers(allow_nan=False),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner)
    | st.dictionaries(st.text(max_size=3), inner) | st.sets(st.integers()),
    max_leaves=12,
)  # fmt: skip


@given(values)
def test_plain_values_come_back(value):
    found = kept(value)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "value",
    [torch.float8_e4m3fn, torch.Size([1, 2]), torch.device("cuda", 3), torch.device("cpu"),
     OrderedDict([("b", 1), ("a", OrderedDict())]), {"x": [torch.int8, (torch.Size([]),)]}, Counter("aab"),
     True, set(), -0.0, b""],
    ids=repr,
)  # fmt: skip
def test_what_torch_and_collections_add(value):
    found = kept(value)
    assert found == value
    assert type(found) is type(value)
    assert repr(found) == repr(value)


@pytest.mark.parametrize(
    "value",
    [Path("a/b"), PureWindowsPath("c:/x"), argparse.Namespace(lr=0.1, dims=[1, (2,)]), SimpleNamespace(a=1),
     datetime(2026, 1, 2, tzinfo=UTC), timedelta(3, 4), bytearray(b"xy"), frozenset({1, 2}), range(3, 9, 2),
     slice(1, None), np.float64(0.5), np.int32(7), np.dtype("<f4"), np.ndarray],
    ids=repr,
)  # fmt: skip
def test_objects_of_harmless_classes_are_kept_as_they_are(value):
    found = kept({"deep": [value]}, weights_only=False)["deep"][0]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "value",
    [
        np.arange(6.0).reshape(2, 3),
        np.arange(6).reshape(2, 3).T,
        np.array(["a", "bc"]),
        np.zeros((0, 2), "M8[s]"),
    ],
)
def test_numpy_arrays_are_kept_as_they_are(value):
    found = kept(value, weights_only=False)
    assert found.dtype == value.dtype
    assert found.strides == value.strides or not value.size
    assert np.array_equal(found, value)


def test_the_state_of_numpy_s_random_numbers():
    state = np.random.RandomState(3).get_state()
    found = kept(state, weights_only=False)
    assert np.array_equal(found[1], state[1])
    assert found[2:] == state[2:]


def test_what_was_made_without_its_arguments_being_taken_is_written_so():
    for code in (b"cargparse\nNamespace\n)\x81}b", b"cargparse\nNamespace\n)R"):
        assert pickled(restricted_load(b"\x80\x02" + code + b".", FAITHFUL, "here")) == code


def test_what_is_kept_is_not_run():
    out = io.BytesIO()
    torch.save(bytearray(b"abc"), out)
    data = out.getvalue()
    code = Archive(lambda start, n: data[start : start + n], len(data)).content("data.pkl")
    found = restricted_load(code, FAITHFUL, "here")
    assert isinstance(found, Kept)
    assert repr(found) == "__builtin__.bytearray(b'abc')"
    huge = restricted_load(b"\x80\x02c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R.", FAITHFUL, "here")
    assert isinstance(huge, Kept)
    assert huge.args == (2**31 - 1,)


def test_not_a_number():
    assert math.isnan(kept(math.nan))


def test_what_is_not_plain_is_named():
    with pytest.raises(CheckpointError, match=r"a fractions\.Fraction is no plain value"):
        pickled([1, {"a": Fraction(1, 2)}])


def test_opcodes_go_in_as_they_are():
    assert pickled([Spelled(opcodes.NONE)]) == pickled([None])


def test_stand_ins_cannot_be_altered():
    for made in (value for value in FAITHFUL.values() if isinstance(value, type)):
        with pytest.raises(TypeError):
            made.x = 1
    with pytest.raises((TypeError, AttributeError)):
        FAITHFUL["torch", "float32"].x = 1
