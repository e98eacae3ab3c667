"""Whole checkpoints, of which nothing must be said, and what cannot be opened."""

import json
import shutil

import pytest
import stored_ops as ops
import torch
import torch.distributed.checkpoint as stock
from crosswise_ops import LAYOUTS
from damage import IN_ONE_PIECE, SAVERS, STATE, alone, flip, place, put, whats
from hostile import ATTEMPTS
from ranks_fixture import pool

from ckptlab.errors import PathError
from ckptlab.storage import open_checkpoint
from ckptlab.storage.verify import verify

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled", "ignore:Detected an existing")


@pytest.fixture(params=SAVERS)
def path(tmp_path, request):
    alone(request.param, STATE, tmp_path / "step")
    return tmp_path / "step"


@pytest.mark.parametrize("saver", SAVERS)
def test_every_layout_and_shape_is_whole(tmp_path, saver):
    layouts = list(LAYOUTS) if saver == "ours" else IN_ONE_PIECE
    pool(4).run(ops.save_grid, str(tmp_path), saver, layouts)
    found = verify(tmp_path)
    assert found.findings == ()
    assert found.whole
    assert found.chunks >= 4 * len(layouts)
    assert found.unchecked == 0


@pytest.mark.parametrize("saver", SAVERS)
def test_every_dtype_is_whole(tmp_path, saver):
    pool(4).run(ops.save_dtypes, str(tmp_path), saver)
    assert verify(tmp_path).findings == ()


@pytest.mark.parametrize("saver", SAVERS)
def test_many_small_and_some_odd_tensors_are_whole(tmp_path, saver):
    state = {f"layer{i}": torch.full((i % 7, 3), float(i)) for i in range(1000)}
    state |= {
        "scalar": torch.tensor(3),
        "none": torch.zeros(0, 4),
        "turned": torch.arange(6).reshape(2, 3).t(),
    }
    state |= {"view": torch.arange(100)[10:40:3], "object": {"x": [1, None]}, "text": "t" * 5000}
    alone(saver, state, tmp_path)
    told = []
    found = verify(tmp_path, progress=told.append)
    assert found.findings == ()
    assert told[-1].done == told[-1].total == found.nbytes > 0
    assert repr(found).startswith(f"{tmp_path} (dcp) is whole\n  read ")


def test_several_threads_and_large_chunks(tmp_path):
    stock.save({"w": torch.rand(3 << 20), "v": torch.rand(5)}, checkpoint_id=tmp_path, no_dist=True)
    for threads in (1, 4):
        assert verify(tmp_path, threads=threads).findings == ()
    flip(place(tmp_path, "w")[0], place(tmp_path, "w")[1] + 10_000_000)
    assert whats(verify(tmp_path, threads=3)) == [("damage", "crc")]


def test_crcs_that_its_writer_did_not_compute_are_no_damage(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        alone("stock", STATE, tmp_path)
    finally:
        torch.serialization.set_crc32_options(True)
    found = verify(tmp_path)
    assert found.findings == ()
    assert found.unchecked == 4
    assert "no crc is stored for 4 of them" in repr(found)


def test_a_users_own_files_and_a_copy_are_nothing(path, tmp_path):
    (path / "config.json").write_text("{}")
    shutil.copytree(path, tmp_path / "copy")
    assert verify(tmp_path / "copy").findings == ()


def test_an_opened_checkpoint_will_do(path):
    assert verify(open_checkpoint(path)).whole


# ---------------------------------------------------------------- opening


def test_metadata_that_is_damaged_or_gone(path):
    whole = (path / ".metadata").read_bytes()
    (path / ".metadata").write_bytes(whole[:-20])
    assert whats(verify(path)) == [("damage", "metadata")]
    (path / ".metadata").unlink()
    found = verify(path)
    assert whats(found) == [("damage", "unfinished")]
    assert "Load an older checkpoint" in found.findings[0].remedy
    (path / ".metadata.tmp").write_bytes(whole[:-20])
    assert ".metadata.tmp is damaged" in verify(path).findings[0].remedy
    (path / ".metadata.tmp").write_bytes(whole)
    assert "rename it to .metadata" in verify(path).findings[0].remedy
    (path / ".metadata.tmp").rename(path / ".metadata")
    assert verify(path).findings == ()


def test_metadata_that_asks_to_run_something(path, tmp_path):
    canary = tmp_path / "canary"
    (path / ".metadata").write_bytes(ATTEMPTS["reduce"](str(canary)))
    assert whats(verify(path)) == [("damage", "metadata")]
    assert not canary.exists()


def test_where_no_checkpoint_is(tmp_path):
    with pytest.raises(PathError, match="is empty"):
        verify(tmp_path)


# ---------------------------------------------------------------- other formats


def test_a_torch_save_file(tmp_path):
    file = tmp_path / "state.pt"
    torch.save({"w": torch.ones(5000), "tied": (shared := torch.zeros(30)), "to": shared[3:], "n": 3}, file)
    assert verify(file).findings == ()
    flip(file, file.read_bytes().index(b"\0\0\x80?" * 1000) + 2000)
    found = verify(file)
    assert whats(found) == [("damage", "crc")]
    assert "record data/0, 20000 bytes" in found.findings[0].detail
    assert "then bit 2 of byte" in found.findings[0].remedy


def test_a_safetensors_file(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    file = tmp_path / "model.safetensors"
    safetensors.save_file({"w": torch.ones(5000), "b": torch.ones(3)}, file)
    found = verify(file)
    assert found.findings == ()
    assert "no crc is stored for 2 of them" in repr(found)
    put(file, file.read_bytes()[:-1])
    assert whats(verify(file)) == [("damage", "metadata")]


def test_parts_of_safetensors_and_one_too_many(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    for i in (1, 2, 3):
        safetensors.save_file({f"w{i}": torch.ones(3)}, tmp_path / f"model-0000{i}-of-00003.safetensors")
    index = {f"w{i}": f"model-0000{i}-of-00003.safetensors" for i in (1, 2)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    found = verify(tmp_path)
    assert whats(found) == [("note", "stale")]
    assert "model-00003-of-00003.safetensors" in found.findings[0].detail
    assert verify(tmp_path / "model-00001-of-00003.safetensors").findings == ()
