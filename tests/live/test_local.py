"""Real ranks on this machine: what they answer, and how every kind of end is told."""

import os
import signal
import threading
import time
from pathlib import Path

import live_ops as ops
import pytest

from ckptlab.errors import CancelledError, CheckpointError, LayoutError, MismatchError, RankError
from ckptlab.live import LocalRanks, attached_gpus, gpus


@pytest.fixture(scope="module")
def four():
    with LocalRanks(4, device="cpu") as ranks:
        yield ranks


def seconds(work):
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def alive(pids):
    """The processes that still run; a zombie does not."""
    return [pid for pid in pids if Path(f"/proc/{pid}").exists() and state(pid) != "Z"]


def gone(pids, seconds=20.0):
    """Whether all these processes end, which takes a busy machine a while."""
    until = time.monotonic() + seconds
    while alive(pids) and time.monotonic() < until:
        time.sleep(0.02)
    return not alive(pids)


def state(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def test_one_result_a_rank_in_order(four):
    assert four.run(ops.whoami, "ho") == [(rank, 4, "cpu", "gloo", "ho") for rank in range(4)]


def test_ranks_are_one_process_group(four):
    assert four.run(ops.total) == [[10.0, 10.0, 10.0]] * 4


def test_ranks_are_warm_and_stand_where_the_driver_stands(four, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    dynamo, folder, path = four.run(ops.warm_modules)[0]
    assert dynamo
    assert folder == str(tmp_path)
    assert path[0] == str(tmp_path / "lib")


def test_dtensor_runs_without_a_note_on_alltoall(four, capfd):
    assert four.run(ops.redistribute) == [456.0, 488.0, 520.0, 552.0]
    assert "alltoall" not in capfd.readouterr().err


def test_progress_arrives_in_order_and_in_full(four):
    told = []
    four.run(ops.count_up, 200, progress=lambda rank, what: told.append((rank, what)))
    for rank in range(4):
        assert [what for who, what in told if who == rank] == [(rank, i) for i in range(200)]


def test_a_warm_run_is_quick(four):
    four.run(ops.total)
    assert min(seconds(lambda: four.run(ops.total)) for _ in range(5)) < 0.1


def test_a_rank_that_raises_is_named_with_its_traceback(four):
    four.run(ops.total)
    began = time.perf_counter()
    with pytest.raises(RankError, match="rank 2 failed: ZeroDivisionError: the cause") as caught:
        four.run(ops.raises_on, 2)
    assert time.perf_counter() - began < 2.0
    assert caught.value.rank == 2
    assert "in raises_on" in caught.value.problems[0]
    assert four.run(ops.total) == [[10.0] * 3] * 4


def test_the_cause_is_blamed_not_the_neighbours_complaint(four, tmp_path):
    with pytest.raises(RankError, match="rank 1 failed: ZeroDivisionError") as caught:
        four.run(ops.leaves_neighbours, 1, tmp_path)
    assert "losed by peer" in "".join(caught.value.problems[1:])


def test_an_error_of_ckptlab_comes_as_it_was_and_once_and_the_ranks_stay(four):
    before = (four.run(ops.whoami), four.pids)[1]
    with pytest.raises(MismatchError, match=r"^they do not fit$") as caught:
        four.run(ops.mismatch)
    assert caught.value.problems == ("a", "b")
    assert four.run(ops.total) == [[10.0] * 3] * 4
    assert four.pids == before


def test_a_result_that_cannot_be_sent_is_said(four):
    with pytest.raises(RankError, match="every rank failed: its result, a function, cannot be sent"):
        four.run(ops.unsendable)


def test_a_killed_rank_is_named_at_once_though_the_others_wait_in_a_collective(four):
    four.run(ops.total)
    died = []

    def kill():
        died.append(time.perf_counter())
        four.kill(2)

    threading.Timer(0.3, kill).start()
    with pytest.raises(RankError, match="rank 2 died in phase 'read': killed by SIGKILL") as caught:
        four.run(ops.stuck_reading, 2)
    assert time.perf_counter() - died[0] < 2.0
    assert (caught.value.rank, caught.value.phase) == (2, "read")


def test_fresh_ranks_come_quickly_after_a_death(four):
    four.run(ops.total)
    before = four.pids
    with pytest.raises(RankError, match="rank 3 died: ended with exit status 3"):
        four.run(ops.leaves, 3)
    assert gone(before)
    assert seconds(lambda: four.run(ops.total)) < 3.0
    assert not set(four.pids) & set(before)


def test_a_rank_that_died_between_runs_is_replaced(four):
    four.run(ops.total)
    gang = four._started()
    four.kill(0)
    # The server that forked the rank hears of its death first, and on a busy machine not at once.
    until = time.monotonic() + 20
    while gang.whole and time.monotonic() < until:
        time.sleep(0.01)
    assert four.run(ops.total) == [[10.0] * 3] * 4


def test_a_hung_rank_shows_its_line_at_the_deadline(four):
    with pytest.raises(RankError, match=r"no rank answered within 0\.5 s; rank 1 is the one") as caught:
        four.run(ops.stuck, 1, deadline=0.5)
    line = next(
        i for i, text in enumerate(Path(ops.__file__).read_text().splitlines(), 1) if "here it hangs" in text
    )
    message = str(caught.value)
    assert f'live_ops.py", line {line} in oversleep' in message
    assert "ranks 0, 2, 3 at:" in message
    assert "in barrier" in message
    assert "ckptlab/live" not in message
    assert caught.value.rank == 1
    assert four.run(ops.total) == [[10.0] * 3] * 4


def test_cancel_from_another_thread_ends_the_run(four):
    four.run(ops.total)
    before = four.pids

    def on_told(rank, what):
        threading.Timer(0.1, four.cancel).start()

    began = time.perf_counter()
    with pytest.raises(CancelledError):
        four.run(ops.slow_tell, 100, progress=on_told)
    assert time.perf_counter() - began < 3.0
    assert gone(before)
    assert four.run(ops.total) == [[10.0] * 3] * 4


def test_cancel_without_a_run_does_nothing(four):
    four.run(ops.total)
    four.cancel()
    assert four.run(ops.total) == [[10.0] * 3] * 4


def test_a_second_run_meanwhile_is_refused(four):
    refused = []

    def again(rank, what):
        try:
            four.run(ops.whoami)
        except CheckpointError as error:
            refused.append(str(error))

    assert four.run(ops.slow_tell, 0.1, progress=again) == [0, 1, 2, 3]
    assert len(refused) == 4
    assert "at work" in refused[0]


def test_what_ends_a_run_in_the_driver_ends_its_ranks(four):
    def stop(rank, what):
        raise KeyboardInterrupt

    four.run(ops.total)
    before = four.pids
    with pytest.raises(KeyboardInterrupt):
        four.run(ops.slow_tell, 100, progress=stop)
    assert gone(before)


def test_an_interrupt_of_the_process_group_leaves_idle_ranks_alone(four):
    four.run(ops.total)
    for pid in four.pids:
        os.kill(pid, signal.SIGINT)
    time.sleep(0.1)
    before = four.pids
    assert four.run(ops.total) == [[10.0] * 3] * 4
    assert four.pids == before


def test_ranks_know_what_the_environment_says_by_now(four, monkeypatch):
    """Such as credentials that were set after the ranks were started."""
    for value in ("one", "other"):
        monkeypatch.setenv("CKPTLAB_TEST", value)
        assert four.run(ops.environment, "CKPTLAB_TEST", "RANK") == [[value, str(r)] for r in range(4)]
    monkeypatch.delenv("CKPTLAB_TEST")
    assert four.run(ops.environment, "CKPTLAB_TEST", "RANK") == [[None, str(r)] for r in range(4)]


def test_close_leaves_no_process_and_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with LocalRanks(2, device="cpu") as ranks:
        ranks.run(ops.total)
        pids = ranks.pids
        assert len(alive(pids)) == 2
        assert len(list(tmp_path.glob("ckptlab-ranks-*"))) == 1
    assert gone(pids)
    assert not list(tmp_path.glob("ckptlab-ranks-*"))
    assert ranks.pids == ()
    with pytest.raises(CheckpointError, match="no rank 0 to kill"):
        ranks.kill(0)


def test_start_returns_at_once_and_close_reaches_ranks_that_are_starting():
    ranks = LocalRanks(2, device="cpu")
    assert seconds(ranks.start) < 0.1
    future = ranks._gang
    ranks.close()
    pids = future.result(timeout=30).pids
    assert gone(pids)


def test_worlds_and_devices_that_cannot_be_are_refused_with_the_reason(monkeypatch):
    monkeypatch.setattr(gpus, "attached_gpus", lambda: 2)
    monkeypatch.setattr(gpus, "torch_has_cuda", lambda: True)
    with pytest.raises(LayoutError, match="4 GPUs for nccl, which takes one rank on each, and this "):
        LocalRanks(4, device="cuda", backend="nccl")
    with pytest.raises(LayoutError, match="4 GPUs for nccl"):
        LocalRanks(4, backend="cpu:gloo,cuda:nccl")
    with pytest.raises(LayoutError, match="nccl moves memory of GPUs only"):
        LocalRanks(2, device="cpu", backend="nccl")
    monkeypatch.setattr(gpus, "torch_has_cuda", lambda: False)
    with pytest.raises(LayoutError, match="torch was built without CUDA"):
        LocalRanks(2, device="cuda")
    monkeypatch.setattr(gpus, "attached_gpus", lambda: 0)
    with pytest.raises(LayoutError, match="4 ranks on CUDA need 4 GPUs, or at least one that they "):
        LocalRanks(4, device="cuda")
    with pytest.raises(LayoutError, match="at least one rank, not 0"):
        LocalRanks(0)
    with pytest.raises(LayoutError, match="not on 'tpu'"):
        LocalRanks(1, device="tpu")


def test_ranks_without_a_word_on_devices_take_a_gpu_each_or_none(monkeypatch):
    monkeypatch.setattr(gpus, "attached_gpus", lambda: 3)
    monkeypatch.setattr(gpus, "torch_has_cuda", lambda: True)
    chosen = {world: (LocalRanks(world).device, LocalRanks(world).backend) for world in (1, 3, 4)}
    assert chosen == {1: ("cuda", "nccl"), 3: ("cuda", "nccl"), 4: ("cpu", "gloo")}


def test_more_ranks_than_gpus_share_them_in_turn_by_gloo(monkeypatch):
    monkeypatch.setattr(gpus, "attached_gpus", lambda: 3)
    monkeypatch.setattr(gpus, "torch_has_cuda", lambda: True)
    ranks = LocalRanks(7, device="cuda")
    assert ranks.backend == "gloo"
    assert [seat.own_device for seat in ranks._seats()] == [f"cuda:{r}" for r in (0, 1, 2, 0, 1, 2, 0)]
    assert repr(ranks) == "LocalRanks(7 on 3 GPUs (shared, gloo), not started)"


@pytest.mark.gpu
@pytest.mark.skipif(attached_gpus() == 0, reason="needs an NVIDIA GPU, which this machine has not")
def test_nccl_on_one_gpu_a_rank():
    world = min(4, attached_gpus())
    with LocalRanks(world) as ranks:
        total = world * (world + 1) / 2
        assert ranks.run(ops.total) == [[total] * 3] * world
        assert ranks.run(ops.whoami)[0] == (0, world, "cuda:0", "nccl", "hi")


@pytest.mark.gpu
@pytest.mark.skipif(attached_gpus() == 0, reason="needs an NVIDIA GPU, which this machine has not")
def test_ranks_that_share_gpus_are_one_group_that_moves_memory_of_gpus():
    shared = attached_gpus()
    world = shared + 3
    with LocalRanks(world, device="cuda") as ranks:
        assert ranks.run(ops.total) == [[world * (world + 1) / 2] * 3] * world
        devices = [f"cuda:{rank % shared}" for rank in range(world)]
        assert ranks.run(ops.whoami) == [(r, world, devices[r], "gloo", "hi") for r in range(world)]
        assert ranks.run(ops.memory_of_gpus) == [(devices[r], float(r)) for r in range(world)]
        with pytest.raises(RankError, match="rank 2 failed: ZeroDivisionError: the cause"):
            ranks.run(ops.raises_on, 2)
