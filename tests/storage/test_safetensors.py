import json
import os

import pytest
import torch
import torch.distributed.checkpoint as stock
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file
from tensors import TORCH_DTYPES, as_bytes, made

from ckptlab.errors import CheckpointError, CorruptError
from ckptlab.metadata import ITEMSIZE
from ckptlab.storage import open_checkpoint
from ckptlab.storage.local import LocalFiles
from ckptlab.storage.safetensors import DTYPES, open_files, open_index, read_header

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")

INDEX = "model.safetensors.index.json"


def file_of(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def opened(tmp_path, data):
    (tmp_path / "m.safetensors").write_bytes(data)
    return open_checkpoint(tmp_path / "m.safetensors")


def tensor(dtype="F32", shape=(2,), places=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(places)}


# ---------------------------------------------------------------- what the library writes


@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(DTYPES.values())), st.lists(st.integers(0, 4), max_size=3)),
        max_size=6,
    ),
    st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2),
)
@settings(max_examples=60, deadline=None)
def test_every_dtype_and_shape_that_the_library_writes(tmp_path_factory, kinds, notes):
    state = {f"é.{i}": made(dtype, shape, i) for i, (dtype, shape) in enumerate(kinds)}
    path = tmp_path_factory.mktemp("st") / "m.safetensors"
    # The library writes no JSON for neither tensors nor notes.
    save_file(state, path, notes or None)
    checkpoint = open_checkpoint(path)
    assert set(checkpoint.keys()) == set(state)
    assert checkpoint.notes == notes
    assert checkpoint.check_files() == []
    for fqn, value in state.items():
        stored = checkpoint[fqn]
        assert (stored.dtype, stored.shape) == (str(value.dtype).removeprefix("torch."), tuple(value.shape))
        assert stored.numpy().tobytes() == as_bytes(value)
        assert checkpoint.metadata.paths[fqn] == (fqn,)


def test_names_of_dtypes_are_the_library_s():
    data = save({d: torch.zeros(1, dtype=TORCH_DTYPES[d]) for d in DTYPES.values()})
    names = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert {entry["dtype"]: dtype for dtype, entry in names.items()} == DTYPES
    assert set(ITEMSIZE) - set(DTYPES.values()) == {"complex32", "complex128"}


def test_opening_reads_the_header_only(tmp_path, monkeypatch):
    save_file({"w": torch.zeros(1000, 1000)}, tmp_path / "m.safetensors")
    asked = []
    real = LocalFiles.read
    monkeypatch.setattr(LocalFiles, "read", lambda self, *a: asked.append(a[2]) or real(self, *a))
    repr(open_checkpoint(tmp_path / "m.safetensors"))
    assert sum(asked) < 1 << 17


def test_a_long_header(tmp_path):
    state = {f"{'name' * 20}.{i}": torch.full((1,), i) for i in range(2000)}
    save_file(state, tmp_path / "m.safetensors")
    checkpoint = open_checkpoint(tmp_path / "m.safetensors")
    assert len(checkpoint) == 2000
    assert checkpoint[f"{'name' * 20}.1234"][0] == 1234


def test_what_it_says_of_itself(tmp_path):
    save_file({"a": torch.zeros(3, 5), "b": torch.zeros(2)}, tmp_path / "m.safetensors", {"by": "x\n" * 50})
    assert repr(open_checkpoint(tmp_path)).splitlines() == [
        f"Checkpoint {tmp_path} (safetensors)",
        "  2 tensors, 17 elements, 68 B",
        "  2 chunks in 1 file",
        f"  notes by={'x ' * 20}...",
        "  keys a, b",
    ]


# ---------------------------------------------------------------- several files


@pytest.fixture
def parts(tmp_path):
    state = {f"w{i}": torch.full((4, 3), float(i)) for i in range(4)}
    names = ["a-00001-of-00002.safetensors", "a-00002-of-00002.safetensors"]
    save_file({k: state[k] for k in ("w0", "w1")}, tmp_path / names[0], {"format": "pt"})
    save_file({k: state[k] for k in ("w2", "w3")}, tmp_path / names[1])
    listed = {"w0": names[0], "w1": names[0], "w2": names[1], "w3": names[1]}
    (tmp_path / INDEX).write_text(json.dumps({"metadata": {"total_size": 192}, "weight_map": listed}))
    return tmp_path


@pytest.mark.parametrize("how", ["directory", "index", "no index"])
def test_parts(parts, how):
    if how == "no index":
        (parts / INDEX).unlink()
    checkpoint = open_checkpoint(parts / INDEX if how == "index" else parts)
    assert checkpoint.keys() == ("w0", "w1", "w2", "w3")
    assert [float(checkpoint[k][3, 2]) for k in checkpoint.keys()] == [0, 1, 2, 3]  # noqa: SIM118
    assert checkpoint.metadata.files == ("a-00001-of-00002.safetensors", "a-00002-of-00002.safetensors")
    assert checkpoint.metadata.writers == (-1, -1)
    assert checkpoint.notes == {"format": "pt"}


def test_a_part_that_is_missing(parts):
    (parts / "a-00002-of-00002.safetensors").unlink()
    with pytest.raises(
        CorruptError, match=r"a-00002-of-00002.safetensors is missing; 2 tensors are in it, says"
    ):
        open_checkpoint(parts)


def change(parts, **listed):
    index = json.loads((parts / INDEX).read_text())
    index["weight_map"] |= listed
    (parts / INDEX).write_text(json.dumps(index))


def test_an_index_that_is_wrong(parts):
    change(parts, w9="a-00001-of-00002.safetensors")
    with pytest.raises(CorruptError, match="has no tensor 'w9', though the index says so"):
        open_checkpoint(parts)
    change(parts, w9="../x.safetensors")
    with pytest.raises(CorruptError, match="not inside the checkpoint"):
        open_checkpoint(parts)
    for text in ("[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}'):
        (parts / INDEX).write_text(text)
        with pytest.raises(CorruptError, match="has no weight_map"):
            open_checkpoint(parts)
    for text in ("", "{", '{"weight_map": {"a": "b", "a": "c"}}', "[" * 100_000):
        (parts / INDEX).write_text(text)
        with pytest.raises(CorruptError, match=r"no JSON|names 'a' twice"):
            open_checkpoint(parts)


def test_a_tensor_in_two_files(parts):
    save_file({"w1": torch.zeros(2), "w2": torch.ones(4, 3)}, parts / "a-00002-of-00002.safetensors")
    change(parts, w3="a-00001-of-00002.safetensors")
    with pytest.raises(CorruptError, match="has no tensor 'w3'"):
        open_checkpoint(parts)
    save_file({k: torch.zeros(2) for k in ("w1", "w2", "w3")}, parts / "a-00002-of-00002.safetensors")
    change(parts, w3="a-00002-of-00002.safetensors")
    assert open_checkpoint(parts)["w1"].shape == (4, 3)
    (parts / INDEX).unlink()
    with pytest.raises(CorruptError, match=r"tensor 'w1' is in a-00001-of-00002\.safetensors and a-00002"):
        open_checkpoint(parts)


# ---------------------------------------------------------------- one file a rank, as torch writes them


def rank_file(tmp_path, rank, offsets, **tensors):
    told = {fqn: {"saved_offsets": offset} for fqn, offset in offsets.items()}
    notes = {"DCP_SHARDING_INFO": json.dumps(told), "DCP_VERSION": "1.0", "format": "pt"}
    save_file(tensors, tmp_path / f"shard-{rank + 1:05d}-model-00001-of-00001.safetensors", notes)


def test_pieces_by_rank(tmp_path):
    whole = torch.arange(35.0).reshape(7, 5)
    rank_file(tmp_path, 0, {"w": [0, 0], "s": []}, w=whole[:4].clone(), s=torch.tensor(3))
    rank_file(tmp_path, 2, {"w": [4, 0]}, w=whole[4:].clone())
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint["w"].numpy().tolist() == whole.tolist()
    assert checkpoint["s"].numpy().tolist() == 3
    assert checkpoint.metadata.writers == (0, 2)
    assert checkpoint.notes == {"format": "pt"}
    assert "3 chunks in 2 files, written by ranks 0, 2" in repr(checkpoint)


def test_pieces_of_torch_s_own_writer(tmp_path):
    state = {"w": torch.randn(6, 4), "b": torch.randn(5).bfloat16()}
    writer = stock.HuggingFaceStorageWriter(str(tmp_path), save_distributed=True)
    stock.save(state, storage_writer=writer, no_dist=True)
    assert os.listdir(tmp_path) == ["shard-00001-model-00001-of-00001.safetensors"]
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint["w"].numpy().tobytes() == as_bytes(state["w"])
    assert checkpoint["b"].numpy().tobytes() == as_bytes(state["b"])
    assert checkpoint.metadata.writers == (0,)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("", "no JSON"),
        ("[]", "does not say where 'w' belongs: None"),
        ('{"w": 3}', "does not say where 'w' belongs: None"),
        ('{"w": {"saved_offsets": [0]}}', r"where 'w' belongs: \[0\]"),
        ('{"w": {"saved_offsets": [0, -1]}}', r"where 'w' belongs: \[0, -1\]"),
        ('{"w": {"saved_offsets": [0, 1.0]}}', "where 'w' belongs"),
        ('{"w": {"saved_offsets": [9223372036854775807, 0]}}', "larger than any memory"),
    ],
)
def test_places_of_pieces_are_checked(tmp_path, told, message):
    save_file({"w": torch.zeros(2, 2)}, tmp_path / "shard-1-m.safetensors", {"DCP_SHARDING_INFO": told})
    with pytest.raises(CorruptError, match=message):
        open_checkpoint(tmp_path)


def test_pieces_that_contradict_each_other(tmp_path):
    rank_file(tmp_path, 0, {"w": [0]}, w=torch.zeros(2))
    rank_file(tmp_path, 1, {"w": [2]}, w=torch.zeros(2, dtype=torch.float64))
    with pytest.raises(CorruptError, match="contradict each other about tensor 'w'"):
        open_checkpoint(tmp_path)


# ---------------------------------------------------------------- damaged and hostile files

HOSTILE = {
    "empty": (b"", "it has 0 bytes"),
    "seven bytes": (b"\0" * 7, "it has 7 bytes"),
    "longer than the file": (file_of({}, length=3), "header claims 3 bytes"),
    "length bomb": (file_of({}, length=2**63), "header claims 9223372036854775808 bytes"),
    "all ones": (b"\xff" * 64, "header claims 18446744073709551615 bytes"),
    "no object": (file_of(b"[]"), "its header claims 2 bytes and begins with b'\\['"),
    "not JSON": (file_of(b"{nope}"), "no JSON"),
    "not UTF-8": (file_of(b'{"\xff": 1}'), "no JSON"),
    "deep": (file_of(b'{"a":' * 50_000 + b"1" + b"}" * 50_000), "no JSON"),
    "half a character": (file_of(b'{"\\ud800": 3}'), "no JSON"),
    "a name twice": (file_of(b'{"a":{},"a":{}}'), "names 'a' twice"),
    "a field twice": (file_of(b'{"a":{"dtype":"F32","dtype":"F32"}}'), "names 'dtype' twice"),
    "no fields": (file_of({"a": {}}), "tensor 'a' has the shape None"),
    "no record": (file_of({"a": 3}), "says 3 of tensor 'a'"),
    "notes of another type": (file_of({"__metadata__": {"a": 3}}), "is not text by name"),
    "notes that are a list": (file_of({"__metadata__": []}), "is not text by name"),
    "negative shape": (file_of({"a": tensor(shape=(-2,))}, b"\0" * 8), r"has the shape \[-2\]"),
    "shape of floats": (file_of({"a": tensor(shape=(2.0,))}, b"\0" * 8), "has the shape"),
    "shape of bools": (file_of({"a": tensor("U8", (True,), (0, 1))}, b"\0"), "has the shape"),
    "too few bytes": (file_of({"a": tensor(shape=(3,))}, b"\0" * 8), "takes 12 bytes, not 8"),
    "too many bytes": (file_of({"a": tensor(shape=(1,))}, b"\0" * 8), "takes 4 bytes, not 8"),
    "huge": (file_of({"a": tensor(shape=(2**62, 2**62))}, b"\0" * 8), "takes"),
    "huge and empty": (file_of({"a": tensor(shape=(2**63, 0), places=(0, 0))}), "takes 0 bytes"),
    "huge strides": (file_of({"a": tensor(shape=(2**32, 2**32, 0), places=(0, 0))}), "takes 0 bytes"),
    "backwards": (file_of({"a": tensor(places=(8, 0))}, b"\0" * 8), "which is no range of bytes"),
    "three places": (file_of({"a": tensor(places=(0, 4, 8))}, b"\0" * 8), "which is no range of bytes"),
    "negative places": (file_of({"a": tensor(places=(-8, 0))}, b"\0" * 8), "which is no range of bytes"),
    "behind the end": (file_of({"a": tensor(places=(0, 8))}, b"\0" * 7), "it was cut short"),
    "far behind": (file_of({"a": tensor(places=(2**60, 2**60 + 8))}, b"\0" * 8), "leaves a hole"),
    "overlapping": (
        file_of({"a": tensor(), "b": tensor(places=(4, 12))}, b"\0" * 12), "tensor 'b' begins at byte 4 of"
    ),
    "the same bytes": (file_of({"a": tensor(), "b": tensor()}, b"\0" * 8), "overlaps the one before it"),
    "a hole": (file_of({"a": tensor(), "b": tensor(places=(12, 20))}, b"\0" * 20), "a hole from byte 8"),
    "a tail": (file_of({"a": tensor()}, b"\0" * 9), "what is behind it belongs to no tensor"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_headers(tmp_path, kind):
    data, message = HOSTILE[kind]
    with pytest.raises(CorruptError, match=message):
        opened(tmp_path, data)
    # What the library takes and we do not: a name twice, dims that no index can count.
    if kind not in ("a name twice", "huge and empty", "huge strides"):
        with pytest.raises(SafetensorError), safe_open(tmp_path / "m.safetensors", "pt"):
            pass


@pytest.mark.parametrize("name", ["F4", "F6_E2M3", "X", 3, None, ["F32"]])
def test_dtypes_that_are_not_known(tmp_path, name):
    with pytest.raises(CheckpointError, match="a dtype that is not supported"):
        opened(tmp_path, file_of({"a": tensor(name)}, b"\0" * 8))


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_damage_is_an_error_of_ours_or_does_not_matter(tmp_path_factory, data):
    whole = bytearray(
        save({"w": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(2, dtype=torch.int8)}, {"a": "b"})
    )
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("st")
    (path / "m.safetensors").write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        checkpoint = open_checkpoint(path / "m.safetensors")
    except CheckpointError:
        return
    for key in checkpoint.keys():  # noqa: SIM118
        assert checkpoint[key].numpy().nbytes == checkpoint[key].nbytes


def test_the_parts_of_it_can_be_used_alone(parts):
    files = LocalFiles(parts)
    header = read_header(files, "a-00001-of-00002.safetensors")
    assert [(e.tensor.fqn, e.start, e.length) for e in header.entries] == [("w0", 0, 48), ("w1", 48, 48)]
    assert (header.data_start - 8) % 8 == 0
    assert open_index("x", files, INDEX).keys() == ("w0", "w1", "w2", "w3")
    assert open_files("x", files, ["a-00002-of-00002.safetensors"]).path == "x"
