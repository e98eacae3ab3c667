"""A save by one process: what it writes, what it keeps, what it refuses."""

import os
import threading
from itertools import pairwise

import pytest
import torch
from engine_ops import stock_load

from ckptlab import open_checkpoint, save
from ckptlab.errors import CheckpointError, PathError
from ckptlab.storage.sidecar import sidecar_file


def saved_files(path):
    return sorted(os.listdir(path))


def test_it_makes_the_directory_and_reports(tmp_path):
    path = tmp_path / "deep" / "step_1"
    report = save({"w": torch.ones(4, 4), "step": 3}, path)
    beside = sidecar_file(open_checkpoint(path).metadata.save_id)
    assert saved_files(path) == sorted([beside, ".metadata", "__0_0.distcp"])
    assert (report.path, report.rank, report.chunks) == (str(path), 0, 1)
    assert report.nbytes == (path / "__0_0.distcp").stat().st_size
    assert {"plan", "write", "commit"} <= report.seconds.keys()
    metadata = open_checkpoint(path).metadata
    assert [t.fqn for t in metadata.tensors] == ["w"]
    assert list(metadata.objects) == ["step"]


def test_a_save_over_an_older_one_writes_new_names_and_clears_the_old(tmp_path):
    save({"w": torch.ones(4)}, tmp_path)
    first = open_checkpoint(tmp_path).metadata
    (tmp_path / "notes.txt").write_text("mine")
    save({"w": torch.zeros(4)}, tmp_path)
    second = open_checkpoint(tmp_path).metadata
    assert first.files != second.files
    assert first.save_id != second.save_id
    assert saved_files(tmp_path) == sorted(
        [sidecar_file(second.save_id), ".metadata", *second.files, "notes.txt"]
    )


def test_overwrite_may_be_refused(tmp_path):
    save({"w": torch.ones(4)}, tmp_path / "new", overwrite=False)
    with pytest.raises(PathError, match="holds a checkpoint already"):
        save({"w": torch.zeros(4)}, tmp_path / "new", overwrite=False)
    target = {"w": torch.zeros(4)}
    stock_load(target, tmp_path / "new")
    assert target["w"].tolist() == [1.0] * 4


def test_a_file_is_no_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PathError, match="is a file; a checkpoint is a directory"):
        save({"w": torch.ones(4)}, tmp_path / "file")


def test_what_cannot_be_pickled_is_named_and_nothing_is_written(tmp_path):
    with pytest.raises(CheckpointError, match=r"'train.lock' is a lock that cannot be pickled") as caught:
        save({"w": torch.ones(4), "train": {"lock": threading.Lock()}}, tmp_path / "never")
    assert caught.value.problems == ("train.lock",)
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize(
    "value",
    [
        torch.arange(12.0).reshape(3, 4).t(),
        torch.arange(12.0).reshape(3, 4)[:, ::2],
        torch.arange(4.0).expand(3, 4),
        torch.tensor([1 + 2j, 3 - 4j]).conj(),
        torch.tensor([1 + 2j, 3 - 4j]).conj().imag,
        torch.nn.Parameter(torch.ones(2, 2)),
        torch.tensor(7),
        torch.zeros(0, 3),
        torch.randn(3, 0, 2, dtype=torch.bfloat16),
    ],
)
def test_tensors_in_any_memory_are_stored_as_they_read(tmp_path, value):
    save({"w": value}, tmp_path)
    target = {"w": torch.full(value.shape, 9, dtype=value.dtype)}
    stock_load(target, tmp_path)
    assert torch.equal(target["w"], value.detach())


def test_a_state_of_nothing_and_one_of_objects_alone(tmp_path):
    save({}, tmp_path / "nothing")
    assert open_checkpoint(tmp_path / "nothing").metadata.tensors == ()
    save({"step": 1, "name": "run"}, tmp_path / "objects")
    target = {"step": 0, "name": ""}
    stock_load(target, tmp_path / "objects")
    assert target == {"step": 1, "name": "run"}


def test_progress_is_told_and_ends_complete(tmp_path):
    events = []
    report = save({"w": torch.ones(64, 64), "step": 1}, tmp_path, progress=events.append)
    written = [e for e in events if e.phase == "write"]
    assert (written[0].done, written[-1].done, written[-1].total) == (0, report.nbytes, report.nbytes)
    assert [e.phase for e in events if e.phase == "commit"]
    assert all(a.seconds <= b.seconds for a, b in pairwise(events))
