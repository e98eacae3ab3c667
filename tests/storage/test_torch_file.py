import argparse
import io
import json
import os
import pickle
import struct
import threading
import time
import zipfile
from collections import Counter, OrderedDict
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile import ATTEMPTS, proven
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import as_bytes, made

from ckptlab.errors import CheckpointError, CorruptError, UnsafeError
from ckptlab.metadata import ITEMSIZE
from ckptlab.storage import open_checkpoint
from ckptlab.storage.local import LocalFiles
from ckptlab.storage.plain import Device, Dtype, Size
from ckptlab.storage.stream import blocks
from ckptlab.storage.torch_file import open_torch_file

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")


def opened(path, state, **options):
    torch.save(state, path / "m.pt", **options)
    return open_checkpoint(path / "m.pt")


@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(ITEMSIZE)), st.lists(st.integers(0, 4), max_size=3)), max_size=5
    )
)
@settings(max_examples=60, deadline=None)
def test_every_dtype_and_shape(tmp_path_factory, kinds):
    state = {f"é.{i}": made(dtype, shape, i) for i, (dtype, shape) in enumerate(kinds)}
    checkpoint = opened(tmp_path_factory.mktemp("pt"), state)
    assert checkpoint.format == "torch"
    assert checkpoint.check_files() == []
    assert set(checkpoint.keys()) == set(state)
    for fqn, value in state.items():
        stored = checkpoint[fqn]
        assert (stored.dtype, stored.shape) == (str(value.dtype).removeprefix("torch."), tuple(value.shape))
        if stored.dtype != "complex32":  # which numpy has not
            assert stored.numpy().tobytes() == as_bytes(value)


def test_nested_state(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    state = {
        "model": module.state_dict(), "optim": optimizer.state_dict(), "step": 7, "extra": [1, {"a": 2}],
        "pair": (torch.zeros(1), "x"), "plain": [1, (2, 3)], "none": None,
    }  # fmt: skip
    checkpoint = opened(tmp_path, state)
    weight = checkpoint["model.0.weight"]
    assert weight.numpy().tobytes() == as_bytes(module[0].weight)
    assert checkpoint.metadata.paths["model.0.weight"] == ("model", "0.weight")
    assert checkpoint.metadata.paths["optim.state.0.exp_avg"] == ("optim", "state", "0", "exp_avg")
    assert checkpoint.metadata.paths["optim.param_groups.0.lr"] == ("optim", "param_groups", 0, "lr")
    assert checkpoint["optim.param_groups.0.lr"] == 1e-3
    assert (checkpoint["step"], checkpoint["extra.1.a"], checkpoint["extra.0"]) == (7, 2, 1)
    assert checkpoint["pair.0"].shape == (1,)
    assert checkpoint["plain"] == [1, (2, 3)]
    assert checkpoint["none"] is None


def test_only_the_pickle_is_read(tmp_path, monkeypatch):
    asked = []
    real = LocalFiles.read
    monkeypatch.setattr(LocalFiles, "read", lambda self, *a: asked.append(a[2]) or real(self, *a))
    checkpoint = opened(tmp_path, {"w": torch.zeros(1000, 1000), "b": torch.zeros(1000)})
    repr(checkpoint)
    assert sum(asked) < 20_000
    assert repr(checkpoint).splitlines() == [
        f"Checkpoint {tmp_path}/m.pt (torch)",
        "  2 tensors, 1,001,000 elements, 3.82 MiB",
        "  2 chunks in 1 file",
        "  keys w, b",
    ]


def test_far_away_headers_are_fetched_at_once(tmp_path):
    at_once, most, lock = [0], [0], threading.Lock()

    class Slow(LocalFiles):
        def read(self, name, start, length):
            with lock:
                at_once[0] += 1
                most[0] = max(most[0], at_once[0])
            time.sleep(0.02)
            with lock:
                at_once[0] -= 1
            return super().read(name, start, length)

    torch.save({f"w{i}": torch.full((2,), i) for i in range(30)}, tmp_path / "m.pt")
    files = Slow(tmp_path)
    files.root = "far://away"
    files._path = lambda name: tmp_path / name
    assert len(open_torch_file("x", files, "m.pt")) == 30
    assert most[0] > 4


BASE = torch.arange(210).reshape(5, 6, 7)


def test_views_and_shared_storages(tmp_path):
    state = {
        "whole": BASE, "transposed": BASE.transpose(0, 2), "part": BASE[1:3, ::2],
        "expanded": BASE[0, 0].expand(4, 7), "scalar": BASE[2, 2, 2], "empty": BASE[:0],
        "parameter": torch.nn.Parameter(BASE.float()), "buffer": torch.nn.Buffer(BASE.float()),
        "grad": BASE.float().requires_grad_(),
    }  # fmt: skip
    state["attributed"] = BASE.clone()
    state["attributed"].tag = "x"
    state["with state"] = torch.nn.Parameter(BASE.double())
    state["with state"].tag = "y"
    checkpoint = opened(tmp_path, state)
    for fqn, value in state.items():
        assert checkpoint[fqn].shape == tuple(value.shape)
        assert checkpoint[fqn].numpy().tobytes() == as_bytes(value), fqn
    chunks, rows = checkpoint.metadata.chunks, checkpoint.metadata.rows
    assert chunks.start[rows["whole"]] == chunks.start[rows["part"]]
    assert chunks.length[rows["part"]] == BASE.numel() * 8


def test_plain_values_keep_what_they_are(tmp_path):
    state = {
        "dtype": torch.bfloat16, "size": torch.Size([2, 3]), "device": torch.device("cuda", 1),
        "bytes": b"\x00\xff", "set": {1, 2}, "complex": 1 + 2j, "counter": Counter("aab"), "float": 0.1,
        "big": -(2**70), "text": "é",
    }  # fmt: skip
    checkpoint = opened(tmp_path, state)
    assert checkpoint["dtype"] == "bfloat16"
    assert isinstance(checkpoint["dtype"], Dtype)
    assert repr(checkpoint["dtype"]) == "torch.bfloat16"
    assert checkpoint["size"] == (2, 3)
    assert isinstance(checkpoint["size"], Size)
    assert isinstance(checkpoint["device"], Device)
    assert repr(checkpoint["device"]) == "torch.device('cuda', 1)"
    # A Counter is a dict, and so it is entered.
    assert checkpoint["counter.a"] == 2
    for key in ("bytes", "set", "complex", "float", "big", "text"):
        assert checkpoint[key] == state[key]


@pytest.mark.parametrize(
    ("state", "keys"),
    [
        (torch.zeros(3), ("tensor",)),
        ([torch.zeros(1), {"a": torch.zeros(2)}], ("0", "1.a")),
        (({"w": torch.zeros(1)}, {"lr": 3}), ("0.w", "1.lr")),
        (7, ("value",)),
        ({}, ()),
        (OrderedDict(w=torch.zeros(1)), ("w",)),
    ],
)
def test_what_may_be_at_the_top(tmp_path, state, keys):
    assert opened(tmp_path, state).keys() == keys


def test_two_values_of_one_name(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"two values are both called 'a\.b': \('a\.b',\) and \('a', 'b'\)"
    ):
        opened(tmp_path, {"a.b": 1, "a": {"b": 2}})


# ---------------------------------------------------------------- what cannot be read in place


def test_other_layouts_name_what_they_ask_for(tmp_path):
    with pytest.raises(UnsafeError, match=r"asks for torch\._utils\._rebuild_sparse_tensor"):
        opened(tmp_path, {"w": torch.eye(2).to_sparse()})
    with pytest.raises(CheckpointError, match=r"'w' cannot be read in place: .*; torch\.load the file"):
        opened(tmp_path, {"w": torch.zeros(2, dtype=torch.complex64).conj()})
    with pytest.raises(UnsafeError, match=r"asks for fractions\.Fraction, which is not on the list"):
        opened(tmp_path, {"args": Fraction(1, 2)})


def test_objects_of_harmless_classes_do_not_get_in_the_way(tmp_path):
    state = {
        "w": torch.arange(3.0),
        "args": argparse.Namespace(lr=0.1),
        "best": np.float64(2),
        "dir": Path("x"),
    }
    checkpoint = opened(tmp_path, state)
    assert checkpoint["w"].numpy().tolist() == [0, 1, 2]
    assert repr(checkpoint["args"]) == "argparse.Namespace({'lr': 0.1})"


def test_big_endian(tmp_path):
    torch.save({"w": torch.zeros(2)}, tmp_path / "a.pt")
    rewritten(tmp_path / "a.pt", tmp_path / "b.pt", byteorder=b"big")
    with pytest.raises(
        CheckpointError, match=r"big-endian, which cannot be read in place; torch\.load it and"
    ):
        open_checkpoint(tmp_path / "b.pt")


def rewritten(source, target, compress=zipfile.ZIP_STORED, **records):
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compress) as new:
        for name in old.namelist():
            new.writestr(name, records.get(name.split("/", 1)[1].replace(".pkl", ""), old.read(name)))


def test_torchscript_and_compressed_and_other_zips(tmp_path):
    torch.save({"w": torch.zeros(2)}, tmp_path / "a.pt")
    rewritten(tmp_path / "a.pt", tmp_path / "b.pt", zipfile.ZIP_DEFLATED)
    with pytest.raises(CorruptError, match="is compressed"):
        open_checkpoint(tmp_path / "b.pt")
    with zipfile.ZipFile(tmp_path / "c.pt", "w") as out:
        out.writestr("x", b"y")
    with pytest.raises(CorruptError, match=r"no torch\.save archive"):
        open_checkpoint(tmp_path / "c.pt")
    with zipfile.ZipFile(tmp_path / "a.pt", "a") as out:
        out.writestr("a/constants.pkl", b"")
    with pytest.raises(CheckpointError, match="TorchScript"):
        open_checkpoint(tmp_path / "a.pt")


# ---------------------------------------------------------------- hostile files


def archive(pickled, *storages):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        made.writestr("x/data.pkl", pickled)
        made.writestr("x/byteorder", b"little")
        for i, data in enumerate(storages):
            made.writestr(f"x/data/{i}", data)
    return out.getvalue()


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_nothing_is_run(tmp_path, attempt):
    canary = str(tmp_path / "canary")
    (tmp_path / "m.pt").write_bytes(archive(ATTEMPTS[attempt](canary)))
    with pytest.raises(CheckpointError):
        open_checkpoint(tmp_path / "m.pt")
    assert not os.path.exists(canary)


def test_the_attempts_are_real(tmp_path):
    assert proven("global", str(tmp_path / "canary"))


def tensor_pickle(key=b"0", numel=4, offset=0, shape=(4,), stride=(1,), storage=b"ctorch\nFloatStorage\n"):
    def number(n):
        return (
            b"J" + struct.pack("<i", n)
            if abs(n) < 2**31
            else b"\x8a\x09" + n.to_bytes(9, "little", signed=True)
        )

    def numbers(ns):
        return b"(" + b"".join(map(number, ns)) + b"t"

    def text(value):
        return b"X" + struct.pack("<I", len(value)) + value

    pid = b"(" + text(b"storage") + storage + text(key) + text(b"cpu") + number(numel) + b"tQ"
    hooks = b"ccollections\nOrderedDict\n)R"
    made = b"ctorch._utils\n_rebuild_tensor_v2\n(" + pid + number(offset) + numbers(shape) + numbers(stride)
    return b"\x80\x02}" + text(b"w") + made + b"\x89" + hooks + b"tRs."


def test_the_hand_made_tensor_is_one(tmp_path):
    (tmp_path / "m.pt").write_bytes(archive(tensor_pickle(), struct.pack("<4f", 1, 2, 3, 4)))
    assert open_checkpoint(tmp_path / "m.pt")["w"].numpy().tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "claims",
    [
        {"shape": (5,)}, {"shape": (2, 3), "stride": (2, 1)}, {"offset": 1}, {"stride": (2,)},
        {"shape": (-4,)}, {"offset": -1}, {"stride": (-1,)}, {"shape": (4,), "stride": ()},
        {"shape": (2**62,)}, {"shape": (2**62,), "stride": (0,)}, {"shape": (2**63,), "stride": (0,)},
        {"key": b"1"}, {"key": b"../data.pkl"}, {"storage": b"ctorch\nSize\n"},
        {"storage": b"X\x01\x00\x00\x00w"},
    ],
    ids=repr,
)  # fmt: skip
def test_claims_about_tensors_are_checked(tmp_path, claims):
    (tmp_path / "m.pt").write_bytes(archive(tensor_pickle(**claims), b"\0" * 16))
    with pytest.raises(CheckpointError):
        open_checkpoint(tmp_path / "m.pt")


def test_values_that_contain_themselves_or_each_other_without_end(tmp_path):
    itself = {"a": []}
    itself["a"].append(itself)
    many = ["x"]
    for _ in range(60):
        many = [many] * 10
    deep = []
    for _ in range(100_000):
        deep = [deep]
    for value in (itself, {"a": many}, {"a": {"b": many}}):
        (tmp_path / "m.pt").write_bytes(archive(pickle.dumps(value, 2)))
        with pytest.raises(CorruptError, match="without end"):
            open_checkpoint(tmp_path / "m.pt")
    (tmp_path / "m.pt").write_bytes(archive(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."))
    with pytest.raises(CorruptError, match="too deep"):
        open_checkpoint(tmp_path / "m.pt")


def test_a_damaged_pickle_is_not_believed(tmp_path):
    torch.save({"lr": 0.1}, tmp_path / "m.pt")
    data = (tmp_path / "m.pt").read_bytes()
    number = struct.pack(">d", 0.1)
    assert data.count(number) == 1
    (tmp_path / "m.pt").write_bytes(data.replace(number, struct.pack(">d", 0.2)))
    with pytest.raises(CorruptError, match="its pickle has not the crc that was stored with it"):
        open_checkpoint(tmp_path / "m.pt")


def test_shared_values_are_no_attack(tmp_path):
    shared = {"betas": (0.9, 0.999), "w": torch.zeros(2)}
    assert len(opened(tmp_path, {f"k{i}": shared for i in range(100)})) == 200


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_damage_is_an_error_of_ours_or_does_not_matter(tmp_path_factory, data):
    out = io.BytesIO()
    torch.save({"w": torch.arange(6.0).reshape(2, 3), "step": 7, "l": [torch.zeros(2), {"a": b"x"}]}, out)
    whole = bytearray(out.getvalue())
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("pt") / "m.pt"
    path.write_bytes(whole[: data.draw(st.integers(4, len(whole)))])
    try:
        checkpoint = open_checkpoint(path)
    except CheckpointError:
        return
    for tensor in checkpoint.metadata.tensors:
        assert checkpoint[tensor.fqn].numpy().nbytes == tensor.nbytes


def test_a_writer_that_computes_no_crc(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        checkpoint = opened(tmp_path, {"w": torch.arange(4.0), "lr": 0.1})
    finally:
        torch.serialization.set_crc32_options(True)
    assert checkpoint["w"].numpy().tolist() == [0, 1, 2, 3]
    assert checkpoint.crcs == (0,)
    assert b"".join(blocks(checkpoint, "w")) == checkpoint["w"].numpy().tobytes()


def test_parts_with_an_index(tmp_path):
    state = {f"w{i}": torch.full((3, 2), float(i)) for i in range(4)} | {"step": 7}
    names = [f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)]
    torch.save({k: state[k] for k in ("w0", "w2", "step")}, tmp_path / names[0])
    torch.save({k: state[k] for k in ("w1", "w3")}, tmp_path / names[1])
    listed = {"w0": names[0], "w2": names[0], "w1": names[1], "w3": names[1]}
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": listed}))
    for path in (tmp_path, index):
        checkpoint = open_checkpoint(path)
        assert checkpoint.keys() == ("w0", "w2", "w1", "w3", "step")
        assert [float(checkpoint[f"w{i}"][2, 1]) for i in range(4)] == [0, 1, 2, 3]
        assert checkpoint["step"] == 7
        assert checkpoint.metadata.files == tuple(names)
        assert checkpoint.check_files() == []
        assert [len(b"".join(blocks(checkpoint, f"w{i}"))) for i in range(4)] == [24] * 4
    torch.save({"w0": torch.zeros(1)}, tmp_path / names[1])
    with pytest.raises(
        CorruptError, match=r"'w0' is in pytorch_model-00001-of-00002\.bin and pytorch_model-00002"
    ):
        open_checkpoint(tmp_path)
    (tmp_path / names[1]).unlink()
    with pytest.raises(CorruptError, match="is missing; 2 tensors are in it"):
        open_checkpoint(tmp_path)
