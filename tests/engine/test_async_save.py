"""Saves while training goes on: what was there at the call is saved, and failures are every rank's."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import wait
from importlib import import_module
from pathlib import Path

import async_ops as ops
import pytest
import torch
from faults import agreed
from ranks_fixture import pool

import ckptlab
from ckptlab.engine.staging import Stage

module = import_module("ckptlab.engine.async_save")
TESTS = Path(__file__).parent.parent


@pytest.fixture
def ranks2():
    return pool(2)


@pytest.fixture(autouse=True)
def desk(monkeypatch):
    """No save before, no buffers kept."""
    monkeypatch.setattr(module, "_DESK", module._Desk())


# ---------------------------------------------------------------- what is saved


@pytest.mark.parametrize("loader", ["ours", "stock"])
def test_all_may_be_changed_when_the_call_returns(ranks4, tmp_path, loader):
    for changed, equal, wrote in ranks4.run(ops.changed_at_once, str(tmp_path), loader):
        assert changed
        assert equal
        assert wrote


def test_ranks_use_their_own_group_meanwhile(ranks2, tmp_path):
    assert ranks2.run(ops.beside_training, str(tmp_path)) == [(True, 2)] * 2


def test_a_part_of_the_job_saves_without_the_others(ranks4, tmp_path):
    out = ranks4.run(ops.some_of_the_job, str(tmp_path), (1, 3))
    assert out == [([], 1), ([True, True], 1)] * 2


def test_every_rank_for_itself(ranks2, tmp_path):
    assert ranks2.run(ops.alone, str(tmp_path)) == [[0, 0], [1, 1]]


# ---------------------------------------------------------------- what fails


@pytest.mark.parametrize(
    ("how", "rank", "phase", "words"),
    [
        ("stateful", 1, "copy", "ValueError: no state today"),
        ("tensor", 0, "copy", "sparse"),
        ("memory", 1, "copy", "no data"),
        ("disk", 0, "write", "Input/output error"),
        ("disk", 1, "write", "Input/output error"),
    ],
)
def test_the_future_of_every_rank_carries_the_error_of_one(ranks2, tmp_path, how, rank, phase, words):
    out = ranks2.run(ops.one_rank_fails, str(tmp_path), rank, how)
    failure = agreed([failed for failed, *_ in out])
    assert (failure.kind, failure.rank, failure.phase) == ("RankError", rank, phase)
    assert words in failure.message
    for _, text, kept, then in out:
        assert f"failed, RankError: rank {rank} failed in phase {phase}" in text
        assert (kept, then) == (1, 2)


def test_a_failure_that_nobody_asked_for_is_said_at_the_next_save(tmp_path):
    wait([ckptlab.async_save({"w": torch.eye(2).to_sparse()}, tmp_path / "bad")])
    with pytest.warns(RuntimeWarning, match=r"bad failed, and nobody asked .*sparse"):
        future = ckptlab.async_save({"w": torch.eye(2)}, tmp_path / "good")
    assert future.result(30).chunks == 1
    ckptlab.async_save({"w": torch.eye(2)}, tmp_path / "good").result(30)


def test_a_failure_that_nobody_asked_for_is_said_at_the_end_of_the_program(tmp_path):
    future = ckptlab.async_save({"w": torch.eye(2).to_sparse()}, tmp_path)
    with pytest.warns(RuntimeWarning, match=r"failed, and nobody asked .*sparse"):
        module._finish()
    assert future.done()


# ---------------------------------------------------------------- one at a time


def test_a_second_save_waits(ranks2, tmp_path):
    for refused, waited, first, second in ranks2.run(ops.busy, str(tmp_path), "wait"):
        assert refused is None
        assert waited
        assert (first, second) == (1, 2)


def test_a_second_save_is_refused_when_asked(ranks2, tmp_path):
    out = ranks2.run(ops.busy, str(tmp_path), "refuse")
    failure = agreed([refused for refused, *_ in out])
    assert f"the save to {tmp_path}/1 is still running on ranks 0, 1" in failure.message
    assert [rest for _, *rest in out] == [[True, 1, 2]] * 2


# ---------------------------------------------------------------- the future


def test_a_future_tells_how_far_the_save_is_and_what_came_of_it(tmp_path):
    heard, threads, phases = [], [], []
    with ops.held_back() as go:
        future = ckptlab.async_save({"w": torch.zeros(1000)}, tmp_path, progress=phases.append)
        future.add_done_callback(heard.append)
        future.add_done_callback(lambda _: threads.append(threading.current_thread().name))
        assert not future.done()
        assert future.running()
        assert not future.cancel()
        assert repr(future).startswith(f"SaveFuture('{tmp_path}', rank 0: copy, ")
        with pytest.raises(TimeoutError):
            future.result(0.01)
        assert heard == []
        go.set()
        report = future.result(30)
    assert future.exception() is None
    assert report.nbytes > 4000
    assert {"copy", "plan", "write", "commit"} <= report.seconds.keys()
    assert repr(future).startswith(f"SaveFuture('{tmp_path}', rank 0: saved, {report.nbytes:,} bytes in ")
    assert 0 < future.stalled < 30
    assert {"copy", "write"} <= {event.phase for event in phases}
    until = time.monotonic() + 10
    while not threads and time.monotonic() < until:
        time.sleep(0.01)
    assert heard == [future]
    assert threads == [f"save to {tmp_path}"]


def test_buffers_are_kept_for_the_next_save_or_not(tmp_path):
    ckptlab.async_save({"w": torch.zeros(1024)}, tmp_path, keep_buffers=False).result(30)
    assert module._DESK.stage.nbytes == 0
    ckptlab.async_save({"w": torch.zeros(1024)}, tmp_path).result(30)
    assert module._DESK.stage.nbytes == 4096
    assert isinstance(module._DESK.stage, Stage)


def test_an_older_checkpoint_is_left_alone_when_asked(tmp_path):
    ckptlab.async_save({"w": torch.zeros(2)}, tmp_path).result(30)
    error = ckptlab.async_save({"w": torch.zeros(2)}, tmp_path, overwrite=False).exception(30)
    assert "holds a checkpoint already" in str(error)


# ---------------------------------------------------------------- the end of the program


@pytest.mark.parametrize(("world", "how", "status"), [(1, "raise", 3), (2, "destroy", 0)])
def test_a_program_that_ends_finishes_its_save_first(tmp_path, world, how, status):
    path = tmp_path / "saved"
    code = "import leaving; leaving.leave_early()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(rank), str(world), str(tmp_path / "store"), str(path), how],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    for rank, program in enumerate(programs):
        out, errors = program.communicate(timeout=120)
        assert program.returncode == status, errors
        assert "Traceback" not in errors
        assert f"rank {rank}: " in out
        assert out.index("leaving") < out.index("finished: None"), "it was over before the program ended"
    target = {"w": torch.zeros(10), "own": {str(r): torch.zeros(3) for r in range(world)}, "step": 0}
    ckptlab.load(target, path)
    assert target["w"].tolist() == list(range(10))
    assert [target["own"][str(r)].tolist() for r in range(world)] == [[float(r)] * 3 for r in range(world)]
    assert target["step"] == 4
