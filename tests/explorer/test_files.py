"""Files and their bytes: how each stands, what lies where, and a picture as small as the screen."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import ckptlab
from ckptlab.explorer import filemap
from ckptlab.explorer.extents import ALIEN, BETWEEN, CHUNK, LOST, OBJECT, extents, merged
from ckptlab.explorer.filemap import PAGE, PIXELS, file_scene, files_scene
from ckptlab.explorer.files import Files, Inside
from ckptlab.explorer.scene import FILLED, HATCHED, OUTLINED
from ckptlab.explorer.table import csv_text
from ckptlab.metadata import Chunks, Tensors


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "checkpoint"
    state = {"big": torch.ones(300, 20), "small": torch.ones(3), "step": 3}
    ckptlab.save(state, path, no_dist=True)
    return path


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def files_of(path):
    return Files(ckptlab.open_checkpoint(path))


def stands(files):
    return {name: files.stands[i] for i, name in enumerate(files.names)}


def data_file(path):
    return next(path.glob("*.distcp"))


def test_files_that_are_as_they_should_be(saved):
    files = files_of(saved)
    assert set(stands(files).values()) == {"whole", "index"}
    assert files.notes == ()
    line = files.lines(0, 1)[0]
    size = data_file(saved).stat().st_size
    assert line.cells[0] == "__0_0.distcp"
    assert line.cells[2:] == ("whole", "2", "1", "0 B", "rank 0")
    assert int(files.size[0]) == int(files.stored[0]) == int(files.needed[0]) == size
    assert files.caption.startswith("1 data file, ")


def test_what_is_missing_cut_off_or_left_over_comes_first(copy):
    data = data_file(copy)
    (copy / "__7_0.distcp").write_bytes(bytes(100))
    (copy / ".metadata.tmp").write_bytes(b"x")
    (copy / "notes.txt").write_text("mine")
    data.write_bytes(data.read_bytes()[:-10])
    files = files_of(copy)
    assert stands(files)["__7_0.distcp"] == "stale"
    assert stands(files)[".metadata.tmp"] == "unfinished"
    assert stands(files)["notes.txt"] == "other"
    assert stands(files)[data.name] == "short"
    assert {line.cells[2] for line in files.lines(0, 3)} == {"short", "stale", "unfinished"}
    assert files.lines(len(files) - 1, 1)[0].cells[0] == "notes.txt"
    assert "1 short, 1 unfinished, 1 stale" in files.caption
    assert any("ends at byte" in note for note in files.notes)
    assert any("another save by rank 7" in note for note in files.notes)
    data.unlink()
    files = files_of(copy)
    assert stands(files)[data.name] == "missing"
    assert files.lines(0, 1)[0].cells[1] == ""
    assert "is missing" in files.notes[0]


def test_the_bytes_of_a_file_in_their_order(saved):
    files = files_of(saved)
    found = files.extents(0)
    assert found.start.tolist()[0] == 0
    np.testing.assert_array_equal(found.start[1:], found.stop[:-1])
    assert sorted(found.kind.tolist()) == [CHUNK, CHUNK, OBJECT]
    table = Inside(files, 0, "small")
    holds = [table.said(i) for i in range(len(table))]
    assert sorted(holds) == [("big", "[0:300, 0:20]"), ("object step", ""), ("small", "[0:3]")]
    assert table.lines(0, 9)[table.chosen].chosen
    wrapped = {said[0]: int(n) for said, n in zip(holds, table.wrapped, strict=True)}
    length = {said[0]: int(b - a) for said, a, b in zip(holds, found.start, found.stop, strict=True)}
    assert wrapped["big"] == length["big"] - 300 * 20 * 4 > 0
    assert wrapped["object step"] == 0
    rows = csv_text(table).splitlines()
    assert rows[0] == "file,start,stop,kind,holds,elements,wrapping"
    assert len(rows) == 4


def test_bytes_that_nobody_refers_to_and_bytes_that_are_gone(saved):
    metadata = ckptlab.open_checkpoint(saved).metadata
    size = data_file(saved).stat().st_size
    start = metadata.chunks.start.copy()
    start[:] = [50_000, 200_000]
    moved = replace(metadata, chunks=replace(metadata.chunks, start=start), objects={})
    found = extents(moved, 0, 60_000)
    length = metadata.chunks.length.tolist()
    assert found.start.tolist() == [0, 50_000, 50_000 + length[0], 200_000]
    assert found.kind.tolist() == [BETWEEN, LOST, BETWEEN, LOST]
    assert size > 0
    tail = extents(moved, 0, 300_000)
    assert (tail.kind[-1], tail.stop[-1]) == (BETWEEN, 300_000)
    assert extents(moved, 0, -1).kind.tolist()[-1] == LOST


def test_places_that_lie_over_each_other_are_no_gap(saved):
    metadata = ckptlab.open_checkpoint(saved).metadata
    columns = replace(metadata.chunks, start=np.zeros(2, np.int64), length=np.array([500, 100]))
    found = extents(replace(metadata, chunks=columns, objects={}), 0, 600)
    assert found.kind.tolist() == [CHUNK, CHUNK, BETWEEN]
    assert (found.start[-1], found.stop[-1]) == (500, 600)


def many_chunks(metadata, n):
    """The same metadata, whose first tensor is n chunks of 100 bytes one behind the other."""
    zeros = np.zeros(n + 1, np.int64)
    columns = Chunks(
        np.array([0, n, n + 1]),
        np.array([0, n]),
        np.r_[np.arange(n), 0],
        np.r_[np.ones(n, np.int64), 3],
        zeros.astype(np.int32),
        np.arange(n + 1) * 100,
        np.full(n + 1, 100),
    )
    first = metadata.tensors[0]._replace(shape=(n,))
    return replace(metadata, tensors=Tensors.of((first, *metadata.tensors[1:])), chunks=columns, objects={})


def test_narrow_neighbours_are_drawn_as_one_and_the_chosen_stays_alone(saved):
    n = 50_000
    found = extents(many_chunks(ckptlab.open_checkpoint(saved).metadata, n), 0, 100 * (n + 1))
    assert len(found) == n + 1
    alone = np.zeros(n + 1, bool)
    one = merged(found, 0, 100 * (n + 1), PIXELS, alone)
    assert len(one.first) <= PIXELS + 1
    assert one.number.sum() == n + 1
    assert (one.start[0], one.stop[-1]) == (0, 100 * (n + 1))
    np.testing.assert_array_equal(one.start[1:], one.stop[:-1])
    alone[777] = True
    kept = merged(found, 0, 100 * (n + 1), PIXELS, alone)
    (at,) = np.flatnonzero(kept.first == 777)
    assert kept.number[at] == 1


def test_a_picture_of_a_file_has_its_bytes_in_rows(saved):
    files = files_of(saved)
    drawn = file_scene(files, 0, 0, int(files.size[0]), "big")
    panel = drawn.scene.panels[0]
    assert panel.height == min(PAGE, -(-int(files.size[0]) // 4096))
    assert (drawn.stop - drawn.start).sum() == files.size[0]
    tall = panel.marks.box[:, 3] > 0.8
    row = files.checkpoint.metadata.rows["big"]
    thin = panel.marks.box[:, 3] < 0.3
    np.testing.assert_array_equal(tall, (drawn.tensor == row) & ~thin)
    assert 0 < tall.sum() < len(tall)
    holds = [panel.marks.facts[0].show(i) for i in range(len(tall))]
    assert set(holds) == {
        "big [0:300, 0:20]", "round the elements of big [0:300, 0:20]", "object step",
        "small [0:3]", "round the elements of small [0:3]",
    }  # fmt: skip
    # What is round the elements is thin, and what is thick are the elements, to the byte.
    size = drawn.stop - drawn.start
    assert size[tall].sum() == 300 * 20 * 4
    assert size[[said == "small [0:3]" for said in holds]].sum() == 12
    np.testing.assert_array_equal(thin, ["round" in said for said in holds])


def test_chunks_of_many_are_not_taken_apart(saved, monkeypatch):
    monkeypatch.setattr(filemap, "TAKEN_APART", 1)
    files = files_of(saved)
    marks = file_scene(files, 0, 0, int(files.size[0]), "big").scene.panels[0].marks
    assert (marks.box[:, 3] > 0.3).all()


def test_a_chunk_that_is_damaged_is_not_taken_apart(copy):
    files = files_of(copy)
    data_file(copy).write_bytes(bytes(int(files.size[0])))
    assert files.elements(0) is None
    assert file_scene(files, 0, 0, int(files.size[0]), "big").scene.panels


def test_a_picture_of_files_tells_how_each_stands(copy):
    (copy / "__7_0.distcp").write_bytes(bytes(100))
    data_file(copy).unlink()
    files = files_of(copy)
    drawn = files_scene(files, 0, "big")
    panel = drawn.scene.panels[0]
    styles = {files.names[f]: int(s) for f, s in zip(drawn.file.tolist(), panel.marks.style, strict=True)}
    notes = " ".join(note.text for note in panel.notes)
    assert styles["__0_0.distcp"] == OUTLINED
    assert styles[".metadata"] == HATCHED
    assert "missing" in notes
    assert {key.style for key in drawn.scene.legend} >= {HATCHED, OUTLINED}
    assert "__0_0.distcp: missing" in drawn.scene.text


def test_colours_are_of_ranks_or_of_files(saved):
    files = files_of(saved)
    for colours in ("rank", "file"):
        panel = files_scene(files, 0, "big", colours).scene.panels[0]
        filled = panel.marks.style == FILLED
        assert set(panel.marks.colour[filled].tolist()) == {0, -1}
        assert panel.marks.ranks.tolist().count(0) >= 2


def test_other_formats_have_their_own_words(tmp_path):
    from safetensors.torch import save_file

    save_file({"w": torch.ones(4, 2)}, tmp_path / "model.safetensors")
    torch.save({"w": torch.ones(4, 2)}, tmp_path / "model.pt")
    table = Inside(files_of(tmp_path / "model.safetensors"), 0)
    assert table.said(0)[0].startswith("header")
    table = Inside(files_of(tmp_path / "model.pt"), 0)
    assert any(table.said(i)[0].startswith("of the archive") for i in range(len(table)))
    # Files beside a single one are none of its concern.
    assert len(files_of(tmp_path / "model.pt")) == 1


def test_a_file_of_nobody_is_one_extent(copy):
    (copy / "notes.txt").write_text("mine")
    files = files_of(copy)
    table = Inside(files, files.names.index("notes.txt"))
    assert table.found.kind.tolist() == [ALIEN]
    assert table.said(0)[0] == "none of the checkpoint's"
    assert file_scene(files, table.file, 0, 4, "big").scene.panels
