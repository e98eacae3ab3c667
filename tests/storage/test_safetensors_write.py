import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from tensors import as_bytes, made, same_bits

from ckptlab.errors import CheckpointError
from ckptlab.metadata import Tensor
from ckptlab.storage.safetensors import DTYPES
from ckptlab.storage.safetensors_write import parse_size, part_names, split, unfit, write_header, write_index


@given(
    st.dictionaries(
        st.text(max_size=6).filter(lambda name: name != "__metadata__"),
        st.tuples(st.sampled_from(sorted(DTYPES.values())), st.lists(st.integers(0, 4), max_size=3)),
        max_size=6,
    )
)
@settings(deadline=None)
def test_the_same_bytes_as_the_library(kinds):
    state = {fqn: made(dtype, shape, i) for i, (fqn, (dtype, shape)) in enumerate(kinds.items())}
    tensors = [Tensor(fqn, dtype, tuple(shape)) for fqn, (dtype, shape) in kinds.items()]
    header, ordered = write_header(tensors, {"format": "pt"})
    data = header + b"".join(as_bytes(state[tensor.fqn]) for tensor in ordered)
    assert data == save(state, {"format": "pt"})
    # The library writes it, but does not read it.
    if all(dtype != "float8_e8m0fnu" for dtype, _ in kinds.values()):
        assert same_bits(load(data), state)


def test_notes_are_sorted_and_optional():
    assert (
        write_header([], {"b": "é", "a": ""})[0][8:].rstrip() == '{"__metadata__":{"a":"","b":"é"}}'.encode()
    )
    assert write_header([], {})[0] == b"\x08\0\0\0\0\0\0\0{}      "


def test_dtypes_that_the_format_has_not():
    tensors = [Tensor("a", "complex128", ()), Tensor("b", "bool", ()), Tensor("c", "complex32", ())]
    assert [tensor.fqn for tensor in unfit(tensors)] == ["a", "c"]


@pytest.mark.parametrize(
    ("most", "parts"),
    [
        (1000, ["abcd"]),
        (24, ["ab", "cd"]),
        (12, ["a", "b", "cd"]),
        (11, ["a", "b", "cd"]),
        (8, ["a", "b", "cd"]),
    ],
)
def test_parts(most, parts):
    tensors = [Tensor(fqn, "float32", (n,)) for fqn, n in zip("abcd", (3, 3, 2, 0), strict=True)]
    assert ["".join(t.fqn for t in part) for part in split(tensors, most)] == parts


def test_names_and_index():
    assert part_names(1, "") == part_names(1, "g") == ["model.safetensors"]
    assert part_names(2, "") == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert part_names(2, "g")[1] == "model-g-00002-of-00002.safetensors"
    index = json.loads(write_index({"x": [Tensor("b", "int8", (3,))], "y": [Tensor("a", "float64", ())]}))
    assert index == {"metadata": {"total_size": 11}, "weight_map": {"a": "y", "b": "x"}}


@pytest.mark.parametrize(
    ("said", "meant"),
    [(7, 7), ("7", 7), ("5GB", 5 * 10**9), ("5 gib", 5 * 2**30), ("1.5 MiB", 3 << 19), ("2kb", 2000),
     ("9B", 9), ("1TB", 10**12)],
)  # fmt: skip
def test_sizes_in_words(said, meant):
    assert parse_size(said) == meant


@pytest.mark.parametrize("said", ["", "GB", "5XB", "-1", 0, -5, "0.1", "5 GB more", "5IB", None])
def test_what_is_no_size(said):
    with pytest.raises(CheckpointError, match="is no size; write bytes as a number, or words such as '5GB'"):
        parse_size(said)
