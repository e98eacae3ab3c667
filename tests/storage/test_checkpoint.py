import json
import os
import subprocess
import sys
import uuid

import fsspec
import pytest
import torch
import torch.distributed.checkpoint as stock
from safetensors.torch import save_file

from ckptlab.errors import CheckpointError, CorruptError, PathError, UnsafeError
from ckptlab.layout import Layout
from ckptlab.storage.checkpoint import FileProblem, open_checkpoint
from ckptlab.storage.sidecar import sidecar_file, write_sidecar

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "step_1"
    state = {"model": {"w": torch.randn(64, 32), "b": torch.zeros(32, dtype=torch.bfloat16)}, "step": 7}
    stock.save(state, checkpoint_id=path, no_dist=True)
    return path


def test_what_is_in_it(saved):
    checkpoint = open_checkpoint(saved)
    assert checkpoint.path == str(saved)
    assert checkpoint.format == "dcp"
    assert [t.fqn for t in checkpoint.metadata.tensors] == ["model.w", "model.b"]
    assert checkpoint.check_files() == []
    assert checkpoint.missing_files() == []
    lines = repr(checkpoint).splitlines()
    assert lines[0] == f"Checkpoint {saved} (dcp)"
    assert lines[1] == "  2 tensors, 2,080 elements, 8.06 KiB, 1 object"
    assert lines[2] == "  2 chunks in 1 file, written by rank 0"
    assert lines[3] == "  no layouts recorded"
    assert lines[4] == f"  save_id {checkpoint.metadata.save_id}"
    assert lines[5] == "  keys model.w, model.b, step"
    assert len(lines) == 6


def test_recorded_layouts(saved):
    from dataclasses import replace

    layout = Layout.parse("replicate=2,shard=2", "Replicate, Shard(0)")
    plain = open_checkpoint(saved).metadata
    beside = saved / sidecar_file(plain.save_id)
    record = (saved / ".metadata").read_bytes()
    beside.write_bytes(write_sidecar(replace(plain, layouts={"model.w": layout}), record))
    checkpoint = open_checkpoint(saved)
    assert checkpoint.metadata.layouts == {"model.w": layout}
    assert f"  {layout!r} for 1 tensor\n" in repr(checkpoint)
    beside.write_bytes(b"damaged")
    assert open_checkpoint(saved).metadata.layouts == {}


def test_opening_reads_no_data(saved):
    for name in os.listdir(saved):
        if name.endswith(".distcp"):
            (saved / name).unlink()
    checkpoint = open_checkpoint(saved)
    assert checkpoint.missing_files() == ["__0_0.distcp"]
    (problem,) = checkpoint.check_files()
    assert problem.size is None
    assert str(problem).startswith("__0_0.distcp is missing; it should hold ")
    repr(checkpoint)


def test_a_file_that_was_cut_short(saved):
    file = saved / "__0_0.distcp"
    whole = file.stat().st_size
    os.truncate(file, whole - 1)
    checkpoint = open_checkpoint(saved)
    assert checkpoint.check_files() == [FileProblem("__0_0.distcp", whole, whole - 1)]
    assert str(checkpoint.check_files()[0]) == (
        f"__0_0.distcp ends at byte {whole - 1}; what it should hold ends at byte {whole}"
    )
    assert checkpoint.missing_files() == []


def test_no_such_path(tmp_path):
    with pytest.raises(
        PathError, match=rf"does not exist; the nearest directory that does is {tmp_path}$"
    ) as caught:
        open_checkpoint(tmp_path / "a" / "b")
    assert caught.value.problems == (str(tmp_path / "a" / "b"),)


def test_one_file_of_it(saved):
    for name in (".metadata", "__0_0.distcp"):
        with pytest.raises(PathError, match=f"open its directory, {saved}"):
            open_checkpoint(saved / name)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "is empty"),
        (
            ["__0_0.distcp", "__1_0.distcp"],
            r"holds 2 \.distcp files but no \.metadata: the save did not finish",
        ),
        ([".ckptlab-an-id-of-a-save.index"], r"holds 0 \.distcp files .*: the save did not finish"),
        (["a.safetensors", "b.safetensors"], "no index says that they belong together; open one of a.safe"),
        (["m-00001-of-00002.safetensors"], "holds 1 of 2 parts of a checkpoint, and no index"),
        (["m-1-of-2.safetensors", "n-2-of-2.safetensors"], "no index says that they belong together"),
        (
            [f"{m}.safetensors.index.json" for m in "ab"],
            "more than one checkpoint; open one of a.safetensors.in",
        ),
        (["x.pt", "config.json"], r"is no checkpoint; it holds x\.pt: open that file$"),
        (["x.pt", "y.bin"], r"is no checkpoint; it holds x\.pt, y\.bin: open one$"),
        (["unet/a.safetensors", "vae/.metadata", "logs/x"], "holds some; open one of unet, vae$"),
        (["a.txt"], r"holds no checkpoint; it has a\.txt$"),
        (["a", "b", "c", "d"], r"it has a, b, c, \.\.\.$"),
        (["s1/.metadata"], "holds some; open one of s1$"),
        ([f"s{i}/.metadata" for i in range(5)], "holds some; open one of s0, s1, s2 and 2 more$"),
        (["logs/x"], "it has logs/$"),
    ],
)
def test_what_a_directory_holds_instead(tmp_path, names, message):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(PathError, match=message):
        open_checkpoint(tmp_path)


LEGACY = {"_use_new_zipfile_serialization": False}


def test_a_file_of_another_format(tmp_path):
    torch.save({"w": torch.zeros(2)}, tmp_path / "old.pt", **LEGACY)
    for name, data, error, message in [
        ("m.safetensors", b"x", CorruptError, "no safetensors file: it has 1 bytes"),
        ("x.pt", b"x", CorruptError, "no torch.save file, or a damaged one: it begins with b'x'"),
        (
            "x.txt",
            b"x",
            PathError,
            "that is a directory, a safetensors file, or a file that torch.save wrote",
        ),
        ("empty", b"", PathError, "is no checkpoint"),
        (
            "old.bin",
            (tmp_path / "old.pt").read_bytes(),
            CheckpointError,
            "torch.load it and torch.save it again",
        ),
    ]:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(error, match=message):
            open_checkpoint(tmp_path / name)


def test_content_tells_the_format_of_a_file_whatever_its_name(tmp_path):
    state = {"w": torch.arange(6.0).reshape(2, 3)}
    torch.save(state, tmp_path / "a.whatever")
    save_file(state, tmp_path / "b.whatever")
    for name, format in [("a.whatever", "torch"), ("b.whatever", "safetensors")]:
        checkpoint = open_checkpoint(tmp_path / name)
        assert checkpoint.format == format
        assert checkpoint["w"].numpy().tolist() == state["w"].tolist()


def test_an_index_is_preferred_and_one_by_another_name_will_do(tmp_path):
    save_file({"w": torch.zeros(2)}, tmp_path / "d.safetensors")
    save_file({"v": torch.zeros(2)}, tmp_path / "other.safetensors")
    index = tmp_path / "diffusion.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "d.safetensors"}}))
    assert open_checkpoint(tmp_path).keys() == ("w",)
    assert open_checkpoint(index).keys() == ("w",)
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"v": "other.safetensors"}})
    )
    assert open_checkpoint(tmp_path).keys() == ("v",)


def test_links_are_followed(tmp_path):
    """The cache of HuggingFace's hub holds links to blobs without suffixes."""
    save_file({"w": torch.arange(3)}, tmp_path / "blob1")
    torch.save({"v": torch.arange(3)}, tmp_path / "blob2")
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "model.safetensors").symlink_to(tmp_path / "blob1")
    (tmp_path / "snapshot" / "m.pt").symlink_to("../blob2")
    assert open_checkpoint(tmp_path / "snapshot").keys() == ("w",)
    assert open_checkpoint(tmp_path / "snapshot" / "m.pt")["v"].numpy().tolist() == [0, 1, 2]


def test_urls(tmp_path, saved):
    state = {"w": torch.arange(6.0).reshape(2, 3)}
    save_file(state, tmp_path / "m.safetensors")
    torch.save(state, tmp_path / "m.pt")
    memory = fsspec.filesystem("memory")
    top = f"/ckptlab-test-{uuid.uuid4().hex}"
    try:
        memory.put(str(saved), f"{top}/dcp", recursive=True)
        memory.put(str(tmp_path / "m.safetensors"), f"{top}/st/m.safetensors")
        memory.put(str(tmp_path / "m.pt"), f"{top}/m.pt")
        checkpoint = open_checkpoint(f"memory:/{top}/dcp")
        assert checkpoint.path == f"memory:/{top}/dcp"
        assert checkpoint.keys() == ("model.w", "model.b", "step")
        for path in ("st", "st/m.safetensors", "m.pt"):
            assert open_checkpoint(f"memory:/{top}/{path}")["w"].numpy().tolist() == state["w"].tolist()
        memory.put(str(tmp_path / "m.pt"), f"{top}.pt")
        assert open_checkpoint(f"memory:/{top}.pt").keys() == ("w",)
        memory.rm_file(f"{top}.pt")
        with pytest.raises(PathError, match="open its directory, memory:/"):
            open_checkpoint(f"memory:/{top}/dcp/.metadata")
        memory.rm_file(f"{top}/m.pt")
        with pytest.raises(PathError, match=r"holds some; open one of dcp, st$"):
            open_checkpoint(f"memory:/{top}")
        with pytest.raises(PathError, match="does not exist"):
            open_checkpoint(f"memory:/{top}/nowhere")
    finally:
        memory.rm(top, recursive=True)
    assert open_checkpoint(f"file://{saved}").keys() == ("model.w", "model.b", "step")
    assert open_checkpoint(f"file://{tmp_path}/m.pt").keys() == ("w",)


def test_damaged_and_hostile_metadata_name_the_file(saved):
    (saved / ".metadata").write_bytes(b"\x80\x04\x95")
    with pytest.raises(CorruptError, match=f"{saved}/.metadata: damaged"):
        open_checkpoint(saved)
    (saved / ".metadata").write_bytes(b"cos\nsystem\n.")
    with pytest.raises(UnsafeError, match=rf"{saved}/.metadata: asks for os\.system"):
        open_checkpoint(saved)


def test_without_torch(tmp_path, saved):
    paths = [saved, tmp_path / "m.pt", tmp_path / "m.safetensors"]
    torch.save({"model": {"w": torch.zeros(2, 2)}}, paths[1])
    save_file({"model.w": torch.zeros(2, 2)}, paths[2])
    code = (
        "import sys; from ckptlab.storage.checkpoint import open_checkpoint; "
        f"paths = {[str(path) for path in paths]}; cs = [open_checkpoint(p) for p in paths]; "
        "[(repr(c), c.check_files(), c['model.w'][0]) for c in cs]; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=os.getcwd()).returncode == 0
