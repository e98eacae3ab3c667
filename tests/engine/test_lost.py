"""A rank that dies in a job without a driver: the others learn of it soon, and which one it was."""

import multiprocessing
import os
import socket
import subprocess
import sys

import fault_ops as ops
import pytest
import torch.distributed as dist
from faults import agreed, seed_there
from ranks_fixture import pool

from ckptlab.engine.lost import GRACE, Missing, Roll

WORLD = 4


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def job():
    """Starts the ranks of a job, and ends them after the test."""
    # The server that forks ranks, with torch imported, is the pools'.
    pool(2).start()
    context, started = multiprocessing.get_context("forkserver"), []

    def start(meeting, path, dead, verb):
        answers = context.Queue()
        for rank in range(WORLD):
            arguments = (rank, WORLD, meeting, path, dead, verb, answers)
            started.append(context.Process(target=ops.lose_a_rank, args=arguments, daemon=True))
            started[-1].start()
        return dict(answers.get(timeout=60) for _ in range(WORLD - 1))

    yield start
    for process in started:
        process.kill()
        process.join()


@pytest.mark.parametrize(
    ("verb", "dead", "phase", "meeting"),
    [
        ("save", 1, "write", "file"),
        ("async", 2, "write", "file"),
        ("load", 0, "plan", "tcp"),
    ],
)
def test_the_others_name_the_rank_that_died(job, tmp_path, verb, dead, phase, meeting):
    where = f"file://{tmp_path}/store" if meeting == "file" else f"tcp://127.0.0.1:{free_port()}"
    found = job(where, str(tmp_path / "saved"), dead, verb)
    assert sorted(found) == [rank for rank in range(WORLD) if rank != dead]
    failure = agreed(list(found.values()))
    assert (failure.kind, failure.rank, failure.phase) == ("LostError", dead, phase)
    # Where the store went with rank 0, nobody can look which process that was.
    words = "died" if meeting == "file" else "does not answer"
    assert failure.message == f"rank {dead} {words} while the others were in phase {phase}"
    assert seed_there(str(tmp_path / "saved")) == 1


@pytest.fixture
def store():
    return dist.HashStore()


def test_a_rank_whose_process_ended_is_dead(store):
    for rank in (0, 1):
        Roll(store, rank, (0, 1)).enlist()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    machine = store.get("ckptlab/rank 1").decode().rpartition(" ")[0]
    store.set("ckptlab/rank 1", f"{machine} {gone.pid}")
    roll = Roll(store, 0, (0, 1))
    assert not roll.called
    # Ended, but not yet collected by its parent: it will not answer either.
    os.waitid(os.P_PID, gone.pid, os.WEXITED | os.WNOWAIT)
    assert roll.call() == Missing((1,), dead=True)
    assert gone.wait() == 0
    assert roll.call() == Missing((1,), dead=True)
    assert roll.called


def test_a_rank_elsewhere_that_does_not_answer_is_named(store, monkeypatch):
    monkeypatch.setattr("ckptlab.engine.lost.GRACE", GRACE / 20)
    for rank in (0, 1, 2):
        Roll(store, rank, (0, 1, 2)).enlist()
    store.set("ckptlab/rank 2", "another machine 1")
    store.set(Roll(store, 1, (0, 1, 2))._key("there 1"), "")
    missing = Roll(store, 0, (0, 1, 2)).call()
    assert missing == Missing((2,), dead=False)
    assert str(missing) == "rank 2 does not answer"


def test_ranks_that_are_all_there_say_so(store):
    for rank in (0, 1):
        Roll(store, rank, (0, 1)).enlist()
    store.set(Roll(store, 1, (0, 1))._key("there 1"), "")
    assert "each is still there" in str(Roll(store, 0, (0, 1)).call())


def test_a_store_that_is_gone_went_with_the_rank_that_serves_it():
    class Gone:
        def __getattr__(self, name):
            raise RuntimeError("connection closed")

    assert Roll(Gone(), 2, (0, 1, 2)).called
    assert Roll(Gone(), 2, (0, 1, 2)).call() == Missing((0,), dead=False)
