import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import as_bytes, made, same_bits
from torch.utils.serialization import config

from ckptlab.errors import CheckpointError
from ckptlab.metadata import ITEMSIZE, Tensor
from ckptlab.storage.crc import crc32
from ckptlab.storage.plain import pickled
from ckptlab.storage.torch_file_write import object_archive, tensor_code, tree_code, write_torch_file

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")


def written(state):
    """A flat state as a file."""
    tensors = {
        str(i): Tensor(fqn, str(value.dtype).removeprefix("torch."), tuple(value.shape))
        for i, (fqn, value) in enumerate(state.items())
    }
    code = tree_code({(tensor.fqn,): tensor_code(tensor, number) for number, tensor in tensors.items()})
    out = io.BytesIO()

    def elements(fqn):
        out.write(as_bytes(state[fqn]))
        return crc32(as_bytes(state[fqn]))

    write_torch_file(code, tensors, out.write, elements)
    return out.getvalue()


@given(
    st.dictionaries(
        st.text(max_size=5),
        st.tuples(st.sampled_from(sorted(ITEMSIZE)), st.lists(st.integers(0, 4), max_size=3)),
        max_size=5,
    )
)
@settings(deadline=None)
def test_torch_loads_it(tmp_path_factory, kinds):
    state = {fqn: made(dtype, shape, i) for i, (fqn, (dtype, shape)) in enumerate(kinds.items())}
    path = tmp_path_factory.mktemp("pt") / "m.pt"
    path.write_bytes(written(state))
    for options in ({}, {"mmap": True}):
        assert same_bits(torch.load(path, weights_only=True, **options), state)
    for value in torch.load(path, weights_only=True).values():
        assert value.is_contiguous()
        assert not value.requires_grad


def test_places_can_be_worked_out_without_reading(tmp_path):
    state = {f"w{i}": torch.arange(i) for i in range(20)}
    (tmp_path / "m.pt").write_bytes(written(state))
    with config.patch("load.calculate_storage_offsets", True):
        assert same_bits(torch.load(tmp_path / "m.pt", mmap=True), state)


def test_more_than_four_gigabytes(tmp_path):
    big, small = Tensor("big", "uint8", (2**32 + 5,)), Tensor("small", "int32", (3,))
    tensors = {"0": big, "1": small}
    code = tree_code({(tensor.fqn,): tensor_code(tensor, number) for number, tensor in tensors.items()})
    values = torch.tensor([1, 2, 3], dtype=torch.int32)
    with (tmp_path / "m.pt").open("wb") as out:

        def elements(fqn):
            if fqn == "big":
                out.seek(big.nbytes - 1, io.SEEK_CUR)
                out.write(b"\x07")
                return 0
            out.write(as_bytes(values))
            return crc32(as_bytes(values))

        write_torch_file(code, tensors, out.write, elements)
    found = torch.load(tmp_path / "m.pt", mmap=True, weights_only=True)
    assert found["big"].shape == big.shape
    assert found["big"][-1] == 7
    assert torch.equal(found["small"], values)


def test_nested_states():
    leaves = {
        ("a", "x"): pickled(1),
        ("l", 1, "b"): pickled(3),
        ("l", 0): pickled(2),
        ("a", "y.z"): pickled(None),
    }
    found = io.BytesIO()
    write_torch_file(tree_code(leaves), {}, found.write, lambda fqn: 0)
    found.seek(0)
    assert torch.load(found) == {"a": {"x": 1, "y.z": None}, "l": [2, {"b": 3}]}


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (
            [("l", 0), ("l", 2)],
            "list 'l' would have only the positions \\[0, 2\\]; choose all keys of a list or none",
        ),
        ([("a", "l", 1)], r"list 'a\.l' would have only the positions \[1\]"),
        ([("a",), ("a", "b")], "leads through a value that is no dict"),
        ([("a", "b"), ("a",)], "leads to two values"),
        ([("a", "b"), ("a", 0)], "would have only the positions"),
    ],
)
def test_states_that_cannot_be(paths, message):
    with pytest.raises(CheckpointError, match=message):
        tree_code({path: pickled(1) for path in paths})


def test_an_empty_state():
    out = io.BytesIO()
    write_torch_file(tree_code({}), {}, out.write, lambda fqn: 0)
    out.seek(0)
    assert torch.load(out) == {}


def test_objects():
    value = {"a": [1, (2.5, "é", b"x")], "dtype": None}
    assert torch.load(io.BytesIO(object_archive(value)), weights_only=True) == value
    with pytest.raises(CheckpointError, match=r"a io\.BytesIO is no plain value|_io\.BytesIO"):
        object_archive(io.BytesIO())
