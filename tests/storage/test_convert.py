import json
import os
import re
import subprocess
import sys
import uuid
from fractions import Fraction
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as stock
from numpy._core.multiarray import _reconstruct as reconstruct
from s3server import far, gate, server
from safetensors.torch import load_file, save_file
from tensors import same_bits
from torch.distributed.checkpoint import HuggingFaceStorageReader

from ckptlab.errors import CheckpointError, CorruptError, PathError
from ckptlab.layout import Box, Boxes
from ckptlab.metadata import ChunkColumns, Metadata, Tensor, Tensors
from ckptlab.storage import open_checkpoint
from ckptlab.storage.convert import Converted, convert
from ckptlab.storage.crc import crc32
from ckptlab.storage.dcp_write import write_metadata
from ckptlab.storage.template import template
from ckptlab.storage.where import files_at

__all__ = ["far", "gate", "server"]

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")

TENSORS = {
    "model": {"w": torch.randn(64, 32), "b": torch.randn(32).bfloat16(), "scalar": torch.tensor(3)},
    "optim": {"state": [torch.randn(5, 3).to(torch.float8_e4m3fn), torch.zeros(0, 4), torch.ones(3).bool()]},
}
VALUES = {"step": 7, "groups": [{"lr": 0.1, "betas": (0.9, 0.99)}], "dtype": torch.float16, "none": None}
STATE = TENSORS | VALUES


def zeros(state):
    if isinstance(state, dict):
        return {key: zeros(value) for key, value in state.items()}
    if isinstance(state, list):
        return [zeros(value) for value in state]
    return torch.zeros_like(state) if isinstance(state, torch.Tensor) else None


def flat(state, prefix=""):
    items = state.items() if isinstance(state, dict) else enumerate(state)
    for key, value in items:
        yield from (
            [(f"{prefix}{key}", value)] if isinstance(value, torch.Tensor) else flat(value, f"{prefix}{key}.")
        )


FLAT = dict(flat(TENSORS))


@pytest.fixture
def sources(tmp_path):
    """The same state in each format; safetensors have no values."""
    stock.save(STATE, checkpoint_id=tmp_path / "source", no_dist=True)
    torch.save(STATE, tmp_path / "source.pt")
    save_file(FLAT, tmp_path / "source.safetensors", {"by": "us"})
    return {
        "dcp": tmp_path / "source",
        "torch": tmp_path / "source.pt",
        "safetensors": tmp_path / "source.safetensors",
    }


def loaded(path, format, like):
    """What the library of each format makes of it, in a state that was zeroed."""
    if format == "torch":
        return torch.load(path, weights_only=True, mmap=True)
    if format == "safetensors":
        state = zeros(like)
        stock.load(state, storage_reader=HuggingFaceStorageReader(str(path.parent)), no_dist=True)
        assert same_bits(load_file(path), state)
        return state
    state = zeros(like)
    stock.load(state, checkpoint_id=path, no_dist=True)
    return state


@pytest.mark.parametrize("format", ["dcp", "torch", "safetensors"])
@pytest.mark.parametrize("kind", ["dcp", "torch", "safetensors"])
def test_between_any_two(sources, tmp_path, kind, format):
    (tmp_path / "to").mkdir()
    target = tmp_path / "to" / {"dcp": "x", "torch": "x.pt", "safetensors": "x.safetensors"}[format]
    has_values = "safetensors" not in (kind, format)
    done = convert(sources[kind], target, format=format, objects="drop")
    expected = FLAT if "safetensors" in (kind, format) else STATE
    assert same_bits(loaded(target, format, expected), expected)
    assert (done.path, done.format, done.tensors) == (str(target), format, 6)
    assert done.objects == (5 if has_values else 0)
    dropped = {"step", "groups.0.lr", "groups.0.betas", "dtype", "none"}
    assert set(done.dropped) == (dropped if format == "safetensors" and kind != "safetensors" else set())
    assert done.nbytes == sum(value.nbytes for value in FLAT.values())
    assert set(done.seconds) == {"metadata", "plan", "write", "commit"}
    checkpoint = open_checkpoint(target)
    assert checkpoint.check_files() == []
    assert checkpoint.format == format
    for fqn, value in FLAT.items():
        assert checkpoint[fqn].numpy().tobytes() == open_checkpoint(sources[kind])[fqn].numpy().tobytes(), fqn
        assert checkpoint[fqn].shape == tuple(value.shape)


def test_parts_with_an_index(sources, tmp_path):
    done = convert(sources["safetensors"], tmp_path / "x", format="safetensors", max_shard_size="8KiB")
    names = [f"model-{i:05d}-of-00003.safetensors" for i in (1, 2, 3)]
    assert done.files == (*names, "model.safetensors.index.json")
    assert sorted(os.listdir(tmp_path / "x")) == sorted(done.files)
    index = json.loads((tmp_path / "x" / "model.safetensors.index.json").read_text())
    found = {}
    for name in names:
        part = load_file(tmp_path / "x" / name)
        assert all(index["weight_map"][fqn] == name for fqn in part)
        assert sum(value.nbytes for value in part.values()) <= 8192
        assert part
        found |= part
    assert same_bits(found, FLAT)
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in FLAT.values())
    assert open_checkpoint(tmp_path / "x").notes == {"by": "us", "format": "pt"}
    assert same_bits(loaded_of_hf(tmp_path / "x"), FLAT)


def loaded_of_hf(path):
    state = zeros(FLAT)
    stock.load(state, storage_reader=HuggingFaceStorageReader(str(path)), no_dist=True)
    return state


def test_one_part_needs_no_index(sources, tmp_path):
    assert convert(sources["safetensors"], tmp_path / "x", format="safetensors").files == (
        "model.safetensors",
    )
    assert same_bits(load_file(tmp_path / "x" / "model.safetensors"), FLAT)


def grid(path, shape, chunk, damage=False):
    """A DCP checkpoint of one int32 tensor 0, 1, 2 ... in chunks of a grid, over several files."""
    whole = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    offsets = [tuple(int(i) * c for i, c in zip(index, chunk, strict=True))
               for index in np.ndindex(*(-(-n // c) for n, c in zip(shape, chunk, strict=True)))]  # fmt: skip
    boxes = [Box(o, tuple(min(c, n - a) for a, c, n in zip(o, chunk, shape, strict=True))) for o in offsets]
    path.mkdir()
    places = []
    for i, box in enumerate(boxes):
        frame, data = template("int32", box.shape), whole[box.slices].tobytes()
        with (path / f"__{i % 3}_0.distcp").open("ab") as out:
            places.append((i % 3, out.tell(), frame.length))
            out.write(frame.before + data + frame.after(crc32(data) ^ damage))
    columns = ChunkColumns()
    columns.add(Boxes.of(boxes), *map(list, zip(*places, strict=True)))
    names = tuple(f"__{rank}_0.distcp" for rank in range(3))
    metadata = Metadata(Tensors.of([Tensor("w", "int32", shape)]), columns.build(), names, (0, 1, 2))
    (path / ".metadata").write_bytes(write_metadata(metadata, "x"))
    return whole


@pytest.mark.parametrize("chunk", [(3, 11), (7, 4), (3, 4), (1, 1), (10, 20)])
def test_chunks_become_whole_tensors(tmp_path, chunk):
    whole = grid(tmp_path / "x", (7, 11), chunk)
    convert(tmp_path / "x", tmp_path / "y.safetensors")
    assert load_file(tmp_path / "y.safetensors")["w"].numpy().tolist() == whole.tolist()
    convert(tmp_path / "x", tmp_path / "z", format="dcp")
    assert len(open_checkpoint(tmp_path / "z").metadata.chunks) == 1
    assert open_checkpoint(tmp_path / "z")["w"].numpy().tolist() == whole.tolist()


def test_a_damaged_chunk_stops_it_and_leaves_nothing(tmp_path):
    grid(tmp_path / "x", (7, 11), (3, 4), damage=True)
    for target in ("a.safetensors", "b.pt", "c"):
        with pytest.raises(CorruptError, match="crc"):
            convert(tmp_path / "x", tmp_path / target, format="dcp" if target == "c" else None)
    assert os.listdir(tmp_path) == ["x"]


# ---------------------------------------------------------------- which keys, and objects


@pytest.mark.parametrize(
    ("keys", "chosen"),
    [
        ("model.*", {"model.w", "model.b", "model.scalar"}),
        (re.compile(r"^model\.[wb]$"), {"model.w", "model.b"}),
        (["model.w", "step"], {"model.w", "step"}),
        (lambda key: key.endswith(".b"), {"model.b"}),
    ],
)
def test_some_keys(sources, tmp_path, keys, chosen):
    convert(sources["dcp"], tmp_path / "x.pt", keys=keys)
    assert set(open_checkpoint(tmp_path / "x.pt").keys()) == chosen


def test_keys_that_are_not_there(sources, tmp_path):
    with pytest.raises(CheckpointError, match=r"has no 'model\.ww'; did you mean 'model\.w'"):
        convert(sources["dcp"], tmp_path / "x.pt", keys=["model.ww", "step"])
    with pytest.raises(CheckpointError, match=r"has no keys that are 'x\*': there is nothing to convert"):
        convert(sources["dcp"], tmp_path / "x.pt", keys="x*")
    with pytest.raises(CheckpointError, match=r"list 'optim\.state' would have only the positions"):
        convert(sources["dcp"], tmp_path / "x.pt", keys=["optim.state.1"])


def test_objects_are_refused_or_dropped(sources, tmp_path):
    with pytest.raises(
        CheckpointError, match=r'and these are objects: step, .* leave them out by objects="drop"'
    ) as e:
        convert(sources["dcp"], tmp_path / "x.safetensors")
    assert len(e.value.problems) == 5
    assert not (tmp_path / "x.safetensors").exists()
    assert convert(sources["dcp"], tmp_path / "x.safetensors", objects="drop").objects == 0


def test_objects_that_are_not_plain(tmp_path):
    odd = {"w": torch.zeros(2), "odd": Fraction(1, 2), "t": (torch.zeros(1),), "rng": np.arange(3), "step": 7}
    stock.save(odd, checkpoint_id=tmp_path / "a", no_dist=True)
    with pytest.raises(CheckpointError, match=r"odd: .*fractions\.Fraction.*; leave them out") as caught:
        convert(tmp_path / "a", tmp_path / "x.pt")
    assert set(caught.value.problems) == {"odd", "t"}
    done = convert(tmp_path / "a", tmp_path / "x.pt", objects="drop")
    assert (done.dropped, done.objects) == (("odd", "t"), 2)
    assert np.array_equal(torch.load(tmp_path / "x.pt", weights_only=False)["rng"], np.arange(3))
    # DCP to DCP copies them as they are.
    assert convert(tmp_path / "a", tmp_path / "b", format="dcp").objects == 4
    state = {"w": torch.ones(2), "odd": None, "t": None, "rng": None, "step": None}
    with torch.serialization.safe_globals(
        [Fraction, np.ndarray, np.dtype, type(np.dtype("i8")), reconstruct]
    ):
        stock.load(state, checkpoint_id=tmp_path / "b", no_dist=True)
    assert state["odd"] == Fraction(1, 2)
    assert torch.equal(state["t"][0], torch.zeros(1))


def test_dtypes_that_safetensors_has_not(tmp_path):
    torch.save({"a": torch.zeros(2, dtype=torch.complex128), "b": torch.zeros(2)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"safetensors has no such dtype: a \(complex128\)"):
        convert(tmp_path / "a.pt", tmp_path / "x.safetensors")
    convert(tmp_path / "a.pt", tmp_path / "x", format="dcp")


def test_a_format_that_nothing_tells(sources, tmp_path):
    with pytest.raises(PathError, match='its name tells no format; give format="dcp"'):
        convert(sources["dcp"], tmp_path / "x")
    for size in ("5 parsecs", 0):
        with pytest.raises(CheckpointError, match="is no size"):
            convert(sources["dcp"], tmp_path / "x", format="safetensors", objects="drop", max_shard_size=size)
    assert not (tmp_path / "x").exists()


# ---------------------------------------------------------------- memory, progress, far away


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc tells the peak of this process alone")
@pytest.mark.parametrize("format", ["safetensors", "torch", "dcp"])
def test_memory_does_not_grow_with_the_checkpoint(tmp_path, format):
    grid(tmp_path / "x", (8192, 8192), (2048, 4096))
    code = (
        "import pathlib, re, sys\n"
        "from ckptlab.storage.convert import convert\n"
        "def peak():\n"
        "    said = pathlib.Path('/proc/self/status').read_text()\n"
        "    return int(re.search(r'VmHWM:\\s+(\\d+)', said)[1]) << 10\n"
        "before = peak()\n"
        f"convert({str(tmp_path / 'x')!r}, {str(tmp_path / 'y')!r}, format={format!r}, sync=False)\n"
        "print(peak() - before, 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    grown, torch_there = done.stdout.split()
    # 256 MiB were converted: in blocks of 8, of which two or three are held.
    assert 8 << 20 <= int(grown) < 40 << 20
    assert torch_there == "False"


def test_progress(sources, tmp_path):
    events = []
    convert(sources["dcp"], tmp_path / "x.pt", progress=events.append)
    phases = list(dict.fromkeys(event.phase for event in events))
    assert phases == ["metadata", "plan", "write", "commit"]
    total = sum(value.nbytes for value in FLAT.values())
    assert [(e.done, e.total) for e in events if e.phase == "write"][-1] == (total, total)


def test_urls(sources, tmp_path):
    memory = fsspec.filesystem("memory")
    top = f"memory://ckptlab-{uuid.uuid4().hex}"
    try:
        convert(sources["torch"], f"{top}/dcp", format="dcp")
        convert(f"{top}/dcp", f"{top}/st", format="safetensors", objects="drop", max_shard_size=4096)
        convert(f"{top}/st", f"{top}/x.pt")
        convert(f"{top}/x.pt", f"{top}.safetensors")
        convert(f"{top}.safetensors", tmp_path / "back.safetensors")
        assert same_bits(load_file(tmp_path / "back.safetensors"), FLAT)
        with pytest.raises(PathError, match="is the source itself"):
            convert(f"{top}/x.pt", f"{top}/x.pt", overwrite=True)
        assert [name for name in memory.find(top) if name.endswith(".tmp")] == []
    finally:
        memory.rm(top, recursive=True)
        memory.rm_file(f"{top}.safetensors")


def test_a_server_that_speaks_s3(sources, tmp_path, far):
    """A tensor larger than one part of an upload goes there and back, through every format."""
    state = {"big": torch.arange(9 << 18, dtype=torch.int32), **FLAT}
    save_file(state, tmp_path / "big.safetensors")
    convert(tmp_path / "big.safetensors", f"{far}/x.pt")
    convert(f"{far}/x.pt", f"{far}/dcp", format="dcp")
    convert(f"{far}/dcp", f"{far}/st", format="safetensors", max_shard_size="9MB")
    with pytest.raises(PathError, match="is there already"):
        convert(f"{far}/x.pt", f"{far}/st", format="safetensors")
    convert(f"{far}/x.pt", f"{far}/st", format="safetensors", max_shard_size="9MB", overwrite=True)
    convert(f"{far}/st", tmp_path / "back.safetensors")
    assert same_bits(load_file(tmp_path / "back.safetensors"), state)
    assert files_at(far).names() == ("x.pt",)
    assert files_at(f"{far}/st").names() == (
        *open_checkpoint(f"{far}/st").metadata.files,
        "model.safetensors.index.json",
    )
    assert repr(open_checkpoint(f"{far}/x.pt")).splitlines()[0] == f"Checkpoint {far}/x.pt (torch)"


def test_an_opened_checkpoint_will_do(sources, tmp_path):
    done = convert(open_checkpoint(sources["safetensors"]), tmp_path / "x.pt")
    assert isinstance(done, Converted)
    assert same_bits(torch.load(tmp_path / "x.pt"), FLAT)


# ---------------------------------------------------------------- never torn


DIRECTORIES = ("dcp", "safetensors", "safetensors parts")


@pytest.mark.parametrize(
    ("format", "old"),
    [
        *((format, old) for format in ("dcp", "safetensors") for old in (None, *DIRECTORIES)),
        ("torch", None),
        ("torch", "torch"),
    ],
)
def test_killed_at_every_file_operation(tmp_path, format, old):
    save_file(
        {"w": torch.arange(90.0), "b": torch.arange(5), "c": torch.ones(70)}, tmp_path / "new.safetensors"
    )
    arguments = [tmp_path / "new.safetensors", tmp_path / "target", format]
    if old is not None:
        save_file({"w": torch.zeros(90), "old": torch.zeros(80)}, tmp_path / "old.safetensors")
        size = 340 if old == "safetensors parts" else "1MB"
        convert(tmp_path / "old.safetensors", tmp_path / "old", format=old.split()[0], max_shard_size=size)
        arguments.append(tmp_path / "old")
    script = Path(__file__).parent.parent / "convert_ops.py"
    done = subprocess.run(
        [sys.executable, script, *arguments], check=False, capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    before = "old" if old else "nothing"
    turn = found["seen"].index("new")
    assert turn >= 6
    assert found["seen"] == [before] * turn + ["new"] * (len(found["seen"]) - turn)
    new = {"dcp": 2, "safetensors": 4, "torch": 0}[format]
    assert len(found["left"]) == new, found["left"]
