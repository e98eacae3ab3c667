"""Slices of stored tensors: numpy's own indexing says what must come, a counting storage what it may cost."""

import dataclasses
import subprocess
import sys
from contextlib import contextmanager
from fractions import Fraction

import numpy as np
import pytest
import stored_ops as ops
import torch
import torch.distributed.checkpoint as stock
from crosswise_ops import DTYPES, LAYOUTS, SHAPES, full
from hypothesis import given, settings
from hypothesis import strategies as st
from ranks_fixture import pool

from ckptlab import save
from ckptlab.errors import CheckpointError, CorruptError, SliceError, UnsafeError
from ckptlab.metadata import Chunks, Tensor, Tensors
from ckptlab.storage import open_checkpoint
from ckptlab.storage.stored import numpy_dtype
from ckptlab.storage.template import template

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled", "ignore:ComplexHalf")

SAVERS = ["ours", "stock"]
IN_ONE_PIECE = [name for name in LAYOUTS if name != "stripes"]


def of(saver):
    return list(LAYOUTS) if saver == "ours" else IN_ONE_PIECE


@pytest.fixture(scope="module")
def grids(tmp_path_factory):
    """Checkpoints of four ranks, with a tensor of every shape for each layout; by saver."""
    opened = {}
    for saver in SAVERS:
        path = tmp_path_factory.mktemp("grids") / saver
        pool(4).run(ops.save_grid, str(path), saver, of(saver))
        opened[saver] = open_checkpoint(path)
    return opened


class Counted:
    """Files that tell what is asked of them: bytes read, and ranges mapped."""

    def __init__(self, files):
        self.files, self.root, self.read_bytes, self.views = files, files.root, 0, []

    def read(self, name, start, length):
        self.read_bytes += length
        return self.files.read(name, start, length)

    def read_into(self, name, start, *into):
        self.read_bytes += sum(one.nbytes for one in into)
        self.files.read_into(name, start, *into)

    @contextmanager
    def view(self, name, start=0, length=None):
        self.views.append(length)
        with self.files.view(name, start, length) as view:
            yield view


def counted(path):
    checkpoint = open_checkpoint(path)
    files = Counted(checkpoint.files)
    return dataclasses.replace(checkpoint, files=files), files


def same(array, wanted):
    """The same shape and, bit for bit, the same elements."""
    assert np.shape(array) == np.shape(wanted)
    return np.asarray(array).tobytes() == np.asarray(wanted).tobytes()


def ints(n):
    return st.integers(-n, n - 1) if n else st.nothing()


def slices(n):
    ends = st.none() | st.integers(-n - 2, n + 2)
    steps = st.none() | st.integers(1, n + 2) | st.integers(-n - 2, -1) | st.sampled_from([2**62, -(2**62)])
    return st.builds(slice, ends, ends, steps)


@st.composite
def indexes(draw, shape):
    """An index as numpy takes it: fewer parts than dims, `...` anywhere, steps both ways."""
    parts = [draw(slices(n) | ints(n)) for n in shape[: draw(st.integers(0, len(shape)))]]
    if draw(st.booleans()):
        at = draw(st.integers(0, len(parts)))
        tail = [draw(slices(n) | ints(n)) for n in shape[len(shape) - (len(parts) - at) :]]
        parts = [*parts[:at], ..., *tail]
    return parts[0] if len(parts) == 1 and draw(st.booleans()) else tuple(parts)


@pytest.mark.parametrize("saver", SAVERS)
@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_any_index_gives_what_numpy_gives(grids, saver, data):
    layout, shape = data.draw(st.sampled_from(of(saver))), data.draw(st.sampled_from(SHAPES))
    index = data.draw(indexes(shape))
    whole = full(f"{layout}{shape}", shape).numpy()
    read = grids[saver][f"{layout}.{shape}"][index]
    assert type(read) is type(whole[index])
    assert read.dtype == whole.dtype
    assert same(read, whole[index])


@pytest.mark.parametrize("saver", SAVERS)
def test_every_dtype(tmp_path, saver):
    pool(4).run(ops.save_dtypes, str(tmp_path), saver)
    checkpoint = open_checkpoint(tmp_path)
    for dtype in DTYPES:
        tensor = checkpoint[dtype]
        wanted = full(dtype, (6, 5), dtype).view(torch.uint8).numpy().view(numpy_dtype(dtype))
        assert (tensor.dtype, tensor.numpy().dtype) == (dtype, numpy_dtype(dtype))
        assert same(tensor.numpy(), wanted)
        assert same(tensor[1:, ::-2], wanted[1:, ::-2])
    assert float(checkpoint["bfloat16"][2, 3]) == full("bfloat16", (6, 5), "bfloat16")[2, 3].item()


def test_rows_cost_their_own_bytes_and_the_head_of_their_chunk(tmp_path):
    save({"w": torch.arange(6400.0).reshape(100, 64)}, tmp_path, no_dist=True)
    checkpoint, files = counted(tmp_path)
    head = len(template("float32", (100, 64)).before)
    tensor = checkpoint["w"]
    assert files.read_bytes == 0
    assert same(tensor[10:20], np.arange(640.0, 1280.0, dtype="f4").reshape(10, 64))
    assert (files.read_bytes, files.views) == (head + 10 * 64 * 4, [])
    tensor[3, 5:9]
    tensor[7:7], tensor[200:]
    assert (files.read_bytes, files.views) == (head + 10 * 64 * 4 + 4 * 4, [])


def test_a_slice_touches_only_chunks_that_it_meets(grids):
    checkpoint = grids["ours"]
    files = Counted(checkpoint.files)
    tensor = dataclasses.replace(checkpoint, files=files)["rows.(8, 8)"]
    tensor[2:4]
    assert files.read_bytes < 2 * len(template("float32", (2, 8)).before)
    assert len(tensor._found) == 1


def test_columns_are_copied_out_of_the_mapped_file(tmp_path):
    """Every byte of the payload but those asked for is spoilt, and the crc with them: nobody looks."""
    save({"w": torch.arange(6400.0).reshape(100, 64)}, tmp_path, no_dist=True)
    [data] = tmp_path.glob("*.distcp")
    frame, spoilt = template("float32", (100, 64)), bytearray(data.read_bytes())
    payload = np.frombuffer(spoilt, "f4", 6400, len(frame.before)).reshape(100, 64)
    kept = payload[::3, 5:60:7].copy()
    payload[...] = np.nan
    payload[::3, 5:60:7] = kept
    data.write_bytes(spoilt)
    checkpoint, files = counted(tmp_path)
    assert same(checkpoint["w"][::3, 5:60:7], np.arange(6400.0, dtype="f4").reshape(100, 64)[::3, 5:60:7])
    assert (files.read_bytes, files.views) == (len(frame.before), [(99 * 64 + 49 + 1) * 4])


def test_what_lies_far_apart_is_not_read_with_what_lies_between(tmp_path):
    whole = np.arange(12 << 18, dtype="f4").reshape(6, 2, 1 << 18)
    save({"w": torch.from_numpy(whole), "t": torch.from_numpy(whole[0]).t().contiguous()}, tmp_path)
    checkpoint, files = counted(tmp_path)
    assert same(checkpoint["w"][::2, 0, 5:9:2], whole[::2, 0, 5:9:2])
    assert files.views == [12] * 3
    assert same(checkpoint["w"][1, :, 5:9], whole[1, :, 5:9])
    assert files.views[3:] == [((1 << 18) + 4) * 4]
    assert same(checkpoint["t"][:: 1 << 17, 1], whole[0].T[:: 1 << 17, 1])
    assert files.views[4:] == [(1 << 20) + 4]
    assert same(checkpoint["w"][4:, 1, 7], whole[4:, 1, 7])
    assert files.views[5:] == [4, 4]
    assert same(checkpoint["w"][:, ::-1, 9], whole[:, ::-1, 9])


def test_far_files_give_their_rows_alone():
    whole = np.arange(1 << 20, dtype="f4").reshape(1024, 1024)
    save({"w": torch.from_numpy(whole)}, "memory://stored/step", no_dist=True)
    checkpoint = open_checkpoint("memory://stored/step")
    before, tensor = checkpoint.files.fetched, checkpoint["w"]
    assert same(tensor[10:12, ::-3], whole[10:12, ::-3])
    assert checkpoint.files.fetched - before < 3 * 1024 * 4
    assert same(tensor[:], whole)
    assert same(tensor[1000, 5], whole[1000, 5])


def test_strides_of_the_stored_chunk(tmp_path):
    """Stock keeps a transposed tensor's strides, and a view's place in its storage."""
    base = torch.arange(24.0).reshape(4, 6)
    state = {"t": base.t(), "v": torch.arange(10)[3:9:2], "e": torch.ones(1).expand(5)}
    stock.save(state, checkpoint_id=tmp_path, no_dist=True)
    checkpoint = open_checkpoint(tmp_path)
    assert same(checkpoint["t"].numpy(), base.t().numpy())
    assert same(checkpoint["t"][4:1:-1, 2], base.t().numpy()[4:1:-1, 2])
    assert same(checkpoint["v"][1:], np.array([5, 7]))
    assert same(checkpoint["e"][::2], np.ones(3, "f4"))


def test_a_whole_chunk_is_checked_against_its_crc(tmp_path):
    save({"w": torch.arange(640.0).reshape(10, 64)}, tmp_path, no_dist=True)
    [data] = tmp_path.glob("*.distcp")
    damaged = bytearray(data.read_bytes())
    damaged[len(template("float32", (10, 64)).before) + 2000] ^= 4
    data.write_bytes(damaged)
    tensor = open_checkpoint(tmp_path)["w"]
    assert same(tensor[:3], np.arange(192.0, dtype="f4").reshape(3, 64))
    with pytest.raises(CorruptError, match=r"Box\[0:10, 0:64\] of tensor 'w', at byte 0 of .* have crc"):
        tensor.numpy()


def test_a_crc_that_its_writer_did_not_compute_is_no_damage(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        stock.save({"w": torch.arange(4.0)}, checkpoint_id=tmp_path, no_dist=True)
    finally:
        torch.serialization.set_crc32_options(True)
    assert same(open_checkpoint(tmp_path)["w"].numpy(), np.arange(4.0, dtype="f4"))


def test_a_torch_save_file_and_its_crcs(tmp_path):
    file, whole = tmp_path / "state.pt", torch.arange(600.0).reshape(20, 30)
    torch.save({"w": whole, "part": whole[3:5], "half": whole.bfloat16().t()}, file)
    checkpoint = open_checkpoint(file)
    assert same(checkpoint["w"][::-4, 2:], whole.numpy()[::-4, 2:])
    assert same(checkpoint["part"].numpy(), whole[3:5].numpy())
    assert same(checkpoint["half"][7, 1:3], whole.bfloat16()[1:3, 7].float().numpy().astype("bfloat16"))
    damaged = bytearray(file.read_bytes())
    damaged[damaged.index(whole.numpy().tobytes()) + 9] ^= 1
    file.write_bytes(damaged)
    assert same(open_checkpoint(file)["w"][4:], whole.numpy()[4:])
    with pytest.raises(CorruptError, match=r"of tensor 'w', at byte .* have crc"):
        open_checkpoint(file)["w"].numpy()


def test_safetensors_files(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    whole = torch.arange(600.0).reshape(20, 30).bfloat16()
    safetensors.save_file({"w": whole, "s": torch.tensor(3)}, tmp_path / "model.safetensors")
    checkpoint, files = counted(tmp_path / "model.safetensors")
    assert same(checkpoint["w"][3:5], whole[3:5].view(torch.uint16).numpy().view(numpy_dtype("bfloat16")))
    assert files.read_bytes == 2 * 30 * 2
    assert checkpoint["s"][()] == 3


def test_files_that_are_not_whole(tmp_path):
    save({"w": torch.arange(640.0).reshape(10, 64)}, tmp_path, no_dist=True)
    [data] = tmp_path.glob("*.distcp")
    data.write_bytes(data.read_bytes()[:2000])
    tensor = open_checkpoint(tmp_path)["w"]
    for index in (slice(5, 9), (slice(None), 3)):
        with pytest.raises(CorruptError, match="has only 2000"):
            tensor[index]
    data.unlink()
    with pytest.raises(CorruptError, match="No such file"):
        open_checkpoint(tmp_path)["w"][0]


def test_elements_that_are_stored_nowhere(tmp_path):
    save({"w": torch.ones(2, 3)}, tmp_path, no_dist=True)
    checkpoint = open_checkpoint(tmp_path)
    larger = dataclasses.replace(checkpoint.metadata, tensors=Tensors.of([Tensor("w", "float32", (4, 3))]))
    tensor = dataclasses.replace(checkpoint, metadata=larger)["w"]
    assert same(tensor[1], np.ones(3, "f4"))
    with pytest.raises(CorruptError, match="hold 3 of the 6 elements"):
        tensor[1:3]


def test_a_chunk_that_old_torch_lists_once_a_replica(tmp_path):
    save({"w": torch.arange(6.0)}, tmp_path, no_dist=True)
    checkpoint = open_checkpoint(tmp_path)
    once = checkpoint.metadata.chunks
    twice = {f.name: np.tile(getattr(once, f.name), 2) for f in dataclasses.fields(once)}
    chunks = Chunks(**(twice | {"first": np.array([0, 2]), "corner": np.array([0, 2])}))
    tensor = dataclasses.replace(checkpoint, metadata=dataclasses.replace(checkpoint.metadata, chunks=chunks))
    assert same(tensor["w"][2:], np.arange(2.0, 6, dtype="f4"))


@pytest.mark.parametrize(
    ("index", "words"),
    [
        (3, "has 3 elements in dim 0, and none at 3"),
        ((0, -3), "has 2 elements in dim 1, and none at -3"),
        (None, "None adds a dim"),
        (True, "a mask"),
        (np.array([True]), "ndarray is neither"),
        ([0, 1], "list is neither"),
        ("w", "str is neither"),
        (1.0, "float is neither"),
        ((0, 0, 0), "has 2 dims, and the index has 3 parts"),
        ((..., ...), "more than one"),
        (slice(None, None, 0), "cannot be zero"),
        (slice("a", None), "slice indices must be integers"),
    ],
)
def test_an_index_that_makes_no_sense(tmp_path, index, words):
    save({"w": torch.ones(3, 2)}, tmp_path, no_dist=True)
    with pytest.raises(SliceError, match=f"'w'.*{words}") as caught:
        open_checkpoint(tmp_path)["w"][index]
    assert isinstance(caught.value, CheckpointError | IndexError)


def test_it_is_an_array_to_numpy(tmp_path):
    whole = torch.arange(6.0).reshape(3, 2)
    save({"w": whole, "s": torch.tensor(2.5)}, tmp_path, no_dist=True)
    checkpoint = open_checkpoint(tmp_path)
    tensor, scalar = checkpoint["w"], checkpoint["s"]
    assert (tensor.fqn, tensor.shape, tensor.ndim, tensor.nbytes) == ("w", (3, 2), 2, 24)
    assert same(np.asarray(tensor), whole.numpy())
    assert np.asarray(tensor, "f8").dtype == np.float64
    assert np.add(tensor, 1)[2, 1] == 6
    assert [row.tolist() for row in tensor] == whole.tolist()
    assert len(tensor) == 3
    assert (scalar[()], scalar[...].shape, float(scalar.numpy())) == (2.5, (), 2.5)
    with pytest.raises(TypeError, match="a scalar"):
        len(scalar)
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(tensor, copy=False)
    assert repr(tensor) == "StoredTensor w: float32, 3 x 2, 24 B, 1 chunk in 1 file"


def test_its_repr_tells_the_layout(grids):
    told = repr(grids["ours"]["tiles.(8, 8)"])
    assert told.startswith("StoredTensor tiles.(8, 8): float32, 8 x 8, 256 B, 4 chunks in 4 files, saved as ")
    assert "[Shard(0), Shard(1)]" in told


def test_keys_of_a_checkpoint(tmp_path):
    save({"model": {"w": torch.ones(3), "b": torch.ones(2)}, "step": 7}, tmp_path, no_dist=True)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.keys() == ("model.w", "model.b", "step")
    assert list(checkpoint) == checkpoint._ipython_key_completions_() == ["model.w", "model.b", "step"]
    assert len(checkpoint) == 3
    assert "step" in checkpoint
    assert "model" not in checkpoint
    with pytest.raises(CheckpointError, match=r"no key 'model.v' in .*; did you mean 'model.w' or"):
        checkpoint["model.v"]
    with pytest.raises(CheckpointError, match=r"no key 'model' in .*; below it are 'model.w', 'model.b'$"):
        checkpoint["model"]


@pytest.mark.parametrize("saver", [save, stock.save], ids=["ours", "stock"])
def test_objects(tmp_path, saver):
    state = {
        "step": 7,
        "groups": [{"lr": 0.5, "betas": (0.9, 0.999)}],
        "shape": torch.Size([2, 3]),
        "odd": Fraction(1, 3),
        "inside": {1: (torch.ones(2),)},
    }
    saver(state, checkpoint_id=tmp_path, no_dist=True) if saver is stock.save else saver(state, tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint["step"] == 7
    assert checkpoint["groups.0.lr"] == 0.5
    assert checkpoint["shape"] == (2, 3)
    with pytest.raises(UnsafeError, match=r"object 'odd' of .* holds fractions.Fraction, so it is no plain"):
        checkpoint["odd"]
    with pytest.raises(UnsafeError, match=r"holds .*_rebuild_tensor_v2"):
        checkpoint["inside.1"]


def test_neither_torch_nor_a_process_group_is_needed(tmp_path):
    save({"w": torch.arange(6.0).to(torch.bfloat16), "step": 7}, tmp_path, no_dist=True)
    code = (
        "import sys, ckptlab\n"
        f"checkpoint = ckptlab.open_checkpoint({str(tmp_path)!r})\n"
        "print(checkpoint['w'][4:].tolist(), checkpoint['step'], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[4.0, 5.0] 7 False\n"
