import contextlib
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from ckptlab.errors import CheckpointError, PathError
from ckptlab.storage import open_checkpoint
from ckptlab.storage.convert import convert
from ckptlab.storage.local import LocalFiles, _LocalWriter
from ckptlab.storage.target import temporary


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.safetensors"
    save_file({"w": torch.arange(90.0), "b": torch.arange(5), "c": torch.ones(70)}, path)
    return path


def listed(path):
    return sorted(
        os.path.join(top, name)[len(str(path)) + 1 :] for top, _, names in os.walk(path) for name in names
    )


def test_the_source_is_no_target(tmp_path, source, monkeypatch):
    convert(source, tmp_path / "d", format="dcp")
    convert(source, tmp_path / "st", format="safetensors", max_shard_size=400)
    os.symlink(tmp_path / "d", tmp_path / "link")
    monkeypatch.chdir(tmp_path)
    for start, target, format in [
        (source, "source.safetensors", None), (source, "../" + tmp_path.name + "/source.safetensors", None),
        ("d", tmp_path / "d", "dcp"), ("d", "link", "dcp"), ("link", "d", "safetensors"),
        ("st", "st", "safetensors"), ("st/model.safetensors.index.json", "st", "safetensors"),
        ("st", "st/model-00001-of-00002.safetensors", None), ("st", "st", "dcp"), (source, tmp_path, "dcp"),
    ]:  # fmt: skip
        before = listed(tmp_path)
        with pytest.raises(PathError, match="is the source itself; choose another target"):
            convert(start, target, format=format, overwrite=True)
        assert listed(tmp_path) == before


@pytest.mark.parametrize(
    ("target", "format"), [("x.pt", None), ("x.safetensors", None), ("x", "dcp"), ("x", "safetensors")]
)
def test_what_is_there_is_refused_unless_it_may_go(tmp_path, source, target, format):
    small = tmp_path / "small.safetensors"
    save_file({"old": torch.zeros(3)}, small)
    target = tmp_path / "to" / target
    convert(small, target, format=format)
    with pytest.raises(PathError, match=r"is there already; choose another path or overwrite=True"):
        convert(source, target, format=format)
    assert open_checkpoint(target).keys() == ("old",)
    convert(source, target, format=format, overwrite=True, max_shard_size=400)
    assert set(open_checkpoint(target).keys()) == {"w", "b", "c"}
    convert(source, target, format=format, overwrite=True, max_shard_size=400)
    files = open_checkpoint(target).metadata.files
    assert len(listed(tmp_path / "to")) == len(files) + (format is not None)
    assert open_checkpoint(target)["w"].numpy().tolist() == list(range(90))


def test_other_files_stay(tmp_path, source):
    target = tmp_path / "to"
    convert(source, target, format="dcp")
    (target / "config.json").write_text("{}")
    (target / "deep").mkdir()
    (target / "deep" / "x.safetensors").write_text("x")
    convert(source, target, format="safetensors", overwrite=True)
    assert listed(target) == ["config.json", "deep/x.safetensors", "model.safetensors"]
    assert set(load_file(target / "model.safetensors")) == {"w", "b", "c"}


def test_files_that_are_no_whole_checkpoint_are_not_written_over_either(tmp_path, source):
    target = tmp_path / "to"
    target.mkdir()
    for name in ("a.safetensors", "b.safetensors", "__0_0.distcp"):
        (target / name).write_bytes(b"somebody's")
    with pytest.raises(PathError, match="is there already"):
        convert(source, target, format="dcp")
    convert(source, target, format="dcp", overwrite=True)
    assert (target / "__0_0.distcp").read_bytes() == b"somebody's"
    assert len(listed(target)) == 5


def test_what_cannot_be_opened_is_not_written_over(tmp_path, source):
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / ".metadata").write_bytes(b"damaged")
    for overwrite in (False, True):
        with pytest.raises(PathError, match="holds a checkpoint that cannot be opened; remove it or choose"):
            convert(source, tmp_path / "to", format="dcp", overwrite=overwrite)


def test_a_directory_where_a_file_belongs_and_the_reverse(tmp_path, source):
    (tmp_path / "x.pt").mkdir()
    (tmp_path / "to").mkdir()
    for target in ("x.pt", "to"):
        with pytest.raises(PathError, match=rf"is a directory; name a file, such as .*{target}/model\.pt"):
            convert(source, tmp_path / target, format="torch")
    (tmp_path / "file").write_text("x")
    with pytest.raises(PathError, match="is a file; such a checkpoint is a directory"):
        convert(source, tmp_path / "file", format="dcp")


@pytest.mark.parametrize(
    ("target", "format"),
    [("to/x.pt", None), ("to/x.safetensors", None), ("to", "dcp"), ("to", "safetensors")],
)
@pytest.mark.parametrize("old", [False, True])
def test_a_failure_at_any_file_operation_leaves_what_was(tmp_path, source, monkeypatch, target, format, old):
    small, target = tmp_path / "small.safetensors", tmp_path / target
    save_file({"old": torch.zeros(3)}, small)
    if old:
        convert(small, target, format=format)
    before = listed(tmp_path)
    left = [0]

    def counted(real):
        def call(*args, **kwargs):
            left[0] -= 1
            if left[0] == 0:
                raise OSError(28, "No space left on device")
            return real(*args, **kwargs)

        return call

    for owner, name in [
        (LocalFiles, "create"), (LocalFiles, "publish"), (LocalFiles, "rename"), (LocalFiles, "make"),
        (_LocalWriter, "write_at"), (_LocalWriter, "sync"),
    ]:  # fmt: skip
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    for operation in range(1, 100):
        left[0] = operation
        with contextlib.suppress(CheckpointError):
            convert(source, target, format=format, overwrite=old, max_shard_size=400)
        if left[0] > 0:
            break
        assert listed(tmp_path) == before
        assert (tmp_path / "to").exists() == old
    assert operation > 6
    assert set(open_checkpoint(target).keys()) == {"w", "b", "c"}


def test_a_disk_that_is_full_is_said(tmp_path, source, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_LocalWriter, "write_at", full)
    with pytest.raises(
        CheckpointError, match=r"x\.pt cannot be written: \[Errno 28\] No space left on device"
    ):
        convert(source, tmp_path / "x.pt")


def test_what_killed_conversions_left_goes_with_the_next(tmp_path, source):
    (tmp_path / "to").mkdir()
    for name in ("x.pt", "other.pt"):
        (tmp_path / "to" / temporary(name)).write_bytes(b"half")
    convert(source, tmp_path / "to" / "x.pt")
    left = listed(tmp_path / "to")
    assert len(left) == 2
    assert left[0].startswith(".other.pt.")
