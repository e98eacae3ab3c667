"""Two checkpoints compared: keys, shapes, dtypes, values, objects, boxes, files; any formats, any cuts."""

import json
import re
import subprocess
import sys

import pytest
import stored_ops
import torch
import torch.distributed.checkpoint as stock
from crosswise_ops import LAYOUTS
from ranks_fixture import pool

import ckptlab
from ckptlab import CheckpointError, compare, open_checkpoint, save
from ckptlab.errors import CancelledError, PathError
from ckptlab.storage.convert import convert

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


def state():
    generator = torch.Generator().manual_seed(0)
    model = {
        f"layers.{i}.{part}": torch.rand(30, 8, generator=generator)
        for i in range(3)
        for part in ("wq", "norm")
    }
    return {"model": model, "step": 3, "note": {"lr": 0.1}}


@pytest.fixture
def a(tmp_path):
    save(state(), tmp_path / "a", no_dist=True)
    return tmp_path / "a"


def other(tmp_path, change, name="b"):
    """A checkpoint of the same state, changed."""
    changed = state()
    change(changed)
    save(changed, tmp_path / name, no_dist=True)
    return tmp_path / name


def test_every_format_and_every_cut_is_equal_to_itself(a, tmp_path):
    stock.save(state(), checkpoint_id=tmp_path / "stock", no_dist=True)
    torch.save(state(), tmp_path / "file.pt")
    convert(a, tmp_path / "file.safetensors", objects="drop")
    for path in (a, tmp_path / "stock", tmp_path / "file.pt"):
        found = compare(a, path)
        assert found.equal, found
        assert bool(found)
        assert found.states == {"equal": 8}
        assert "equal, bit for bit" in repr(found)
    found = compare(a, tmp_path / "file.safetensors")
    assert not found
    assert found.states == {"equal": 6, "only a": 2}
    assert compare(a, tmp_path / "file.safetensors", keys="model.*")


def test_a_saved_on_one_mesh_and_by_another_engine(tmp_path):
    """Every layout against the next one, ours against stock's, key by key through `rename`."""
    layouts = [name for name in LAYOUTS if name != "stripes"]
    for saver in ("ours", "stock"):
        pool(4).run(stored_ops.save_grid, str(tmp_path / saver), saver, layouts)
    found = compare(tmp_path / "ours", tmp_path / "stock", threads=3)
    assert found.equal
    assert found.read == 2 * open_checkpoint(tmp_path / "ours").metadata.nbytes
    assert [(c.key, c.a, c.b, c.kept) for c in found.changes if c.moved] == []


def test_boxes_that_moved_are_told_and_do_not_count(tmp_path):
    pool(4).run(stored_ops.save_rows, str(tmp_path / "four"), "ours", 30)
    convert(tmp_path / "four", tmp_path / "one", format="dcp")
    found = compare(tmp_path / "four", tmp_path / "one")
    assert found.equal
    moved = {
        change.key: (change.a.chunks, change.b.chunks, change.kept)
        for change in found.changes
        if change.moved
    }
    assert moved["model.a"] == (4, 1, 0)
    assert "plain" not in moved
    assert re.search(
        r"a has 13 chunks in 4 files, b has 4 chunks in 1 file; of 3 tensors the boxes moved", repr(found)
    )


def test_everything_that_can_differ_is_told_once(a, tmp_path):
    def change(it):
        model = it["model"]
        model["layers.0.wq"][3, 4] += 1
        model["layers.1.wq"] = model["layers.1.wq"].t().contiguous()
        model["layers.2.wq"] = model["layers.2.wq"].double()
        del model["layers.0.norm"]
        model["layers.1.norm"] = [1, 2]
        it["new"] = torch.ones(3)
        it["step"] = 4

    found = compare(a, other(tmp_path, change))
    assert not found.equal
    states = {change.key: change.state for change in found.changes if not change.well}
    lists = [key for key in states if key.startswith("model.layers.1.norm")]
    assert {key: state for key, state in states.items() if key not in lists} == {
        "model.layers.0.wq": "values",
        "model.layers.1.wq": "shape",
        "model.layers.2.wq": "dtype",
        "model.layers.0.norm": "only a",
        "new": "only b",
        "step": "values",
    }
    by_key = {change.key: change for change in found.changes}
    assert by_key["model.layers.0.wq"].measured.worst == (3, 4)
    assert "1 of 240 elements differ; largest 1; norm" in str(by_key["model.layers.0.wq"])
    assert "one may be the transpose" in by_key["model.layers.1.wq"].words
    assert by_key["model.layers.2.wq"].words == "float32 -> float64; equal as float64"
    assert by_key["step"].why == "3 -> 4"
    assert len(found.differing) == len(states)


def test_a_tolerance_forgives_values_and_dtypes_but_no_shape(a, tmp_path):
    def change(it):
        it["model"] = {key: value.bfloat16() for key, value in it["model"].items()}
        it["model"]["layers.0.wq"] = state()["model"]["layers.0.wq"] + 1e-4

    b = other(tmp_path, change)
    assert not compare(a, b, rtol=0, atol=0).equal
    found = compare(a, b, rtol=1e-2, atol=1e-3)
    assert found.equal
    assert found.states == {"close": 6, "equal": 2}
    assert "close (rtol 0.01, atol 0.001)" in repr(found)
    assert compare(a, b, rtol=1e-6).states["dtype"] == 5


def test_metadata_alone(a, tmp_path):
    def change(it):
        it["model"]["layers.0.wq"] += 1
        it["step"] = 9

    found = compare(a, other(tmp_path, change), values=False)
    assert found.equal
    assert found.states == {"unread": 8}
    assert found.read == 0
    assert "values were not compared" in repr(found)


def test_keys_and_names(a, tmp_path):
    def change(it):
        it["model"] = {f"_orig_mod.{key}": value for key, value in it["model"].items()}

    b = other(tmp_path, change)
    assert compare(a, b).states == {"only a": 6, "only b": 6, "equal": 2}
    assert compare(a, b, rename=lambda key: key.replace("model.", "model._orig_mod.")).equal
    names = {"model.layers.0.wq": "model._orig_mod.layers.0.wq"}
    found = compare(a, b, rename=names, keys=["model.layers.0.wq", "step"])
    assert [(c.a.key, c.b.key, c.state) for c in found.changes] == [
        ("model.layers.0.wq", names["model.layers.0.wq"], "equal"),
        ("step", "step", "equal"),
    ]
    assert "_orig_mod.layers.0.wq in b" in found.changes[0].words
    with pytest.raises(CheckpointError, match=r"neither .* has 'model.layers.0.wk'; did you mean"):
        compare(a, b, keys=["model.layers.0.wk"])
    with pytest.raises(CheckpointError, match=r"both .* are renamed to 'x'"):
        compare(a, b, rename=lambda key: "x")
    with pytest.raises(PathError):
        compare(a, tmp_path / "nothing")


def test_rows_for_programs(a, tmp_path):
    def change(it):
        it["model"]["layers.0.wq"][2:4, 1] = float("inf")

    found = compare(a, other(tmp_path, change))
    row = next(row for row in found.rows if row["key"] == "model.layers.0.wq")
    told = (row["state"], row["odd"], row["worst"], row["worst_b"], row["box"], row["shape_a"])
    assert told == ("values", 2, [2, 1], "inf", [[2, 1], [2, 1]], [30, 8])
    assert json.loads(json.dumps(found.record(), allow_nan=False))["equal"] is False
    found.to_csv(tmp_path / "rows.csv")
    lines = (tmp_path / "rows.csv").read_text().splitlines()
    assert len(lines) == 9
    assert lines[0].startswith("key,key_b,state,")


def test_progress_and_cancel(a, tmp_path):
    told = []
    found = compare(a, a, progress=told.append)
    assert told[-1].done == told[-1].total == found.read > 0

    def stop(event):
        if event.done:
            raise CancelledError("enough")

    with pytest.raises(CancelledError, match="enough"):
        compare(a, a, progress=stop)


def test_what_is_damaged_is_told_and_the_rest_is_compared(a, tmp_path):
    b = other(tmp_path, lambda it: None)
    opened = open_checkpoint(b)
    file, chunk = b / opened.metadata.files[0], opened.metadata.rows["model.layers.1.wq"]
    data = bytearray(file.read_bytes())
    start = int(opened.metadata.chunks.start[opened.metadata.chunks.first[chunk]])
    data[start + 900] ^= 1
    file.write_bytes(data)
    found = compare(a, b)
    assert found.states == {"equal": 7, "unknown": 1}
    (change,) = found.differing
    assert change.key == "model.layers.1.wq"
    assert "its bytes have crc" in change.why
    assert not found.equal


def test_it_needs_no_torch(a):
    code = "import sys, ckptlab; assert ckptlab.compare(*sys.argv[1:]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, a, a], check=True)


def test_far_files(a):
    fsspec = pytest.importorskip("fsspec")
    fsspec.filesystem("memory").put(str(a), "/compare/a", recursive=True)
    assert compare(a, "memory://compare/a", threads=4)


def test_an_opened_checkpoint_will_do_and_the_front_door_has_it(a):
    assert ckptlab.compare is compare
    assert compare(open_checkpoint(a), a)
