"""A save that is ended anywhere, by whatever, leaves the old checkpoint or the new one, whole."""

import os
import subprocess
import threading
from contextlib import contextmanager
from itertools import groupby
from unittest import mock

import fault_ops as ops
import pytest
import torch
from faults import agreed, seed_there
from ranks_fixture import pool

import ckptlab
from ckptlab import open_checkpoint
from ckptlab.errors import PathError, RankError
from ckptlab.storage.local import LocalFiles
from ckptlab.storage.sidecar import sidecar_file


@pytest.fixture
def ranks2():
    return pool(2)


def clean(path):
    """Nothing lies there but what the checkpoint refers to."""
    metadata = open_checkpoint(path).metadata
    used = {metadata.files[i] for i in metadata.chunks.file.tolist()}
    used |= {metadata.files[extent.file] for extent in metadata.objects.values()}
    return set(os.listdir(path)) == {*used, ".metadata", sidecar_file(metadata.save_id)}


@pytest.mark.parametrize("how", ["save", "async"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_killed_at_a_file_operation_leaves_one_whole_checkpoint(ranks2, tmp_path, rank, how):
    path = str(tmp_path)
    ranks2.run(ops.save_small, path, 1)
    operations = ranks2.run(ops.count_operations, path, how)[rank]
    assert {"pwritev", "fsync", "open"} <= {name.split()[0] for name in operations}
    there = []
    # The same files are written either way, so of an async save every other operation will do.
    for at in range(0, len(operations), 2 if how == "async" else 1):
        # The save that follows a kill works, and clears what was left.
        ranks2.run(ops.save_small, path, 1)
        assert seed_there(path) == 1
        assert clean(path), operations[at]
        with pytest.raises(RankError, match=f"rank {rank} .*SIGKILL"):
            ranks2.run(ops.killed_at_operation, path, rank, at, how)
        there.append(seed_there(path))
    # The new one comes at one of the first rank's operations, and stays.
    assert [seed for seed, _ in groupby(there)] == ([1, 2] if rank == 0 else [1])


def test_a_first_save_that_is_killed_leaves_nothing_that_looks_like_a_checkpoint(ranks2, tmp_path):
    path = str(tmp_path / "first")
    with pytest.raises(RankError, match=r"rank 0 .*SIGKILL"):
        ranks2.run(ops.killed_at_name, path, 0, "replace", ".metadata")
    assert any(name.endswith(".distcp") for name in os.listdir(path))
    with pytest.raises(PathError, match="the save did not finish"):
        open_checkpoint(path)
    ranks2.run(ops.save_small, path, 2)
    assert seed_there(path) == 2
    assert clean(path)


# ---------------------------------------------------------------- full disks


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"needs the right to mount a small disk: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("how", ["save", "async"])
def test_a_broken_is_said_on_all_ranks_and_the_old_checkpoint_stays(ranks2, small_disk, how):
    path = str(small_disk / "checkpoint")
    ranks2.run(ops.save_small, path, 1)
    out = ranks2.run(ops.save_too_large, path, 200 << 10, how)
    failure = agreed([failed for failed, _ in out])
    assert failure.kind == "RankError"
    assert failure.phase == "write"
    assert "No space left on device" in failure.message
    assert [there for _, there in out] == [1, 1]
    assert seed_there(path) == 1
    # What was written in vain is gone: there is room for a save that fits.
    assert clean(path)
    ranks2.run(ops.save_small, path, 2)
    assert seed_there(path) == 2
    assert clean(path)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_file_that_grows_too_large_is_said_on_all_ranks(ranks2, tmp_path, rank):
    path = str(tmp_path)
    ranks2.run(ops.save_small, path, 1)
    out = ranks2.run(ops.save_too_large_a_file, path, rank, 100 << 10)
    failure = agreed([failed for failed, _ in out])
    assert (failure.kind, failure.rank, failure.phase) == ("RankError", rank, "write")
    assert "File too large" in failure.message
    assert seed_there(path) == 1
    assert clean(path)


# ---------------------------------------------------------------- a thread that fails


def test_a_writer_thread_that_fails_fails_the_save(tmp_path):
    state = {f"t{i}": torch.full((50_000,), 1.0) for i in range(6)}
    ckptlab.save(state, tmp_path, threads=3)
    create, threads = LocalFiles.create, []

    def broken(*_):
        threads.append(threading.current_thread())
        raise OSError(5, "Input/output error")

    @contextmanager
    def one_fails(self, name, *rest):
        with create(self, name, *rest) as writer:
            if name.startswith("__0_1"):
                writer.write_at = broken
            yield writer

    with (
        mock.patch.object(LocalFiles, "create", one_fails),
        pytest.raises(OSError, match="Input/output error"),
    ):
        ckptlab.save({fqn: tensor * 2 for fqn, tensor in state.items()}, tmp_path, threads=3)
    assert threads
    assert threads[0] is not threading.main_thread()
    assert clean(tmp_path)
    ckptlab.load(state, tmp_path)
    assert all(tensor.eq(1.0).all() for tensor in state.values())
