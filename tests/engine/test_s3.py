"""Saves and loads on a server that speaks S3: alone, by real ranks, and when it goes wrong."""

import os
import random
import signal
import threading

import pytest
import s3_ops as ops
import torch
from s3server import far, gate, server

import ckptlab
from ckptlab.errors import CorruptError, PathError, RankError
from ckptlab.storage.where import files_at

__all__ = ["far", "gate", "server"]

MIB = 1 << 20


def data(gate):
    """Bytes of data files that the server has sent."""
    return sum(r.sent for r in gate.asked(".distcp"))


# ---------------------------------------------------------------- alone


@pytest.mark.parametrize("kind", ["apart", "float64"])
def test_a_large_chunk_is_fetched_once_wherever_it_goes(far, gate, kind):
    """Its elements go apart in memory, or into another dtype; the crc is of what was fetched."""
    whole = torch.randn(600, 600)
    ckptlab.save({"w": whole}, far)

    def loaded():
        target = torch.zeros(600, 600).t() if kind == "apart" else torch.zeros(600, 600, dtype=torch.float64)
        gate.clear()
        return target, ckptlab.load({"w": target}, far, dtype="widen")

    target, report = loaded()
    assert torch.equal(target, whole.to(target.dtype))
    assert len(gate.asked(".distcp")) == 1
    assert data(gate) == report.nbytes + report.header_bytes < 600 * 600 * 4 + 2000

    files = files_at(far)
    [name] = ckptlab.open_checkpoint(far).metadata.files
    held = bytearray(files.read(name, 0, files.size(name)))
    held[700_000] ^= 1
    files.publish(name, bytes(held), sync=False)
    with pytest.raises(CorruptError, match="is damaged"):
        loaded()


def test_one_process_saves_loads_opens_and_slices(far, gate):
    state = {"w": torch.randn(300, 40), "n": {"b": torch.arange(7)}, "empty": torch.zeros(0, 3), "step": 4}
    saved = ckptlab.save(state, far)
    assert saved.path == far
    target = {
        "w": torch.zeros(300, 40),
        "n": {"b": torch.zeros(7, dtype=torch.int64)},
        "empty": torch.zeros(0, 3),
        "step": 0,
    }
    gate.clear()
    report = ckptlab.load(target, far)
    assert torch.equal(target["w"], state["w"])
    assert torch.equal(target["n"]["b"], state["n"]["b"])
    assert target["step"] == 4
    assert report.nbytes == 300 * 40 * 4 + 7 * 8
    opened = ckptlab.open_checkpoint(far)
    assert far in repr(opened)
    gate.clear()
    assert (opened["w"][10:12, 3] == state["w"][10:12, 3].numpy()).all()
    assert data(gate) < 2000
    assert opened["step"] == 4
    assert opened.check_files() == []


def test_many_small_tensors_come_in_few_requests(far, gate):
    tensors = {f"w{i}": torch.randn(3 + i % 5, 4) for i in range(200)} | {"large": torch.randn(1 << 19)}
    objects = {f"o{i}": i for i in range(20)}
    ckptlab.save({**tensors, **objects}, far)
    target = {key: torch.zeros_like(tensor) for key, tensor in tensors.items()} | dict.fromkeys(objects)
    gate.clear()
    ckptlab.load(target, far)
    assert all(torch.equal(tensor, target[key]) for key, tensor in tensors.items())
    assert {key: target[key] for key in objects} == objects
    assert len(gate.asked(".distcp")) <= 6
    # What lies between them is fetched, too, and nothing twice.
    assert data(gate) <= sum(n for name, n in files_at(far).sizes().items() if name.endswith(".distcp"))


def test_a_column_of_a_far_tensor_is_cut_out_of_one_read(far):
    state = {"w": torch.randn(64, 64)}
    ckptlab.save(state, far)
    assert (ckptlab.open_checkpoint(far)["w"][:, 5:9] == state["w"][:, 5:9].numpy()).all()


def test_much_is_sent_as_several_files_at_once(far, gate):
    state = {f"w{i}": torch.full((2 << 20,), float(i)) for i in range(10)}
    waiting = threading.Barrier(4)

    def meet(method, path, query):
        if "partNumber=1&" in query and path.endswith(".distcp"):
            waiting.wait(60)

    gate.fault = meet
    report = ckptlab.save(state, far)
    assert report.chunks == 10
    sizes = [n for name, n in files_at(far).sizes().items() if name.endswith(".distcp")]
    assert len(sizes) == 4
    assert max(sizes) <= 3 * (9 << 20)
    target = {key: torch.zeros_like(tensor) for key, tensor in state.items()}
    ckptlab.load(target, far)
    assert all(torch.equal(tensor, target[key]) for key, tensor in state.items())


def test_async_save(far):
    state = {"w": torch.randn(300, 40)}
    wanted = state["w"].clone()
    future = ckptlab.async_save(state, far)
    state["w"].zero_()
    future.result(60)
    target = {"w": torch.zeros(300, 40)}
    ckptlab.load(target, far)
    assert torch.equal(target["w"], wanted)


def test_what_is_not_there_is_told(gate):
    with pytest.raises(PathError, match="s3://bucket/none"):
        ckptlab.open_checkpoint("s3://bucket/none")
    with pytest.raises(PathError, match="there is no bucket 'nobucket'"):
        ckptlab.save({"w": torch.ones(2)}, "s3://nobucket/x")


def test_a_far_file_that_is_missing_or_short_is_named_before_anything_is_loaded(far):
    ckptlab.save({"w": torch.ones(100)}, far)
    files = files_at(far)
    size = files.size("__0_0.distcp")
    files.publish("__0_0.distcp", files.read("__0_0.distcp", 0, size - 1), sync=True)
    target = {"w": torch.zeros(100)}
    for words in (rf"__0_0\.distcp ends at byte {size - 1}", r"__0_0\.distcp is missing"):
        with pytest.raises(CorruptError, match=words):
            ckptlab.load(target, far)
        files.remove("__0_0.distcp")
    assert not target["w"].any()


def test_a_checkpoint_is_not_written_over_unless_it_may_be(far):
    ckptlab.save({"w": torch.ones(2)}, far)
    with pytest.raises(PathError, match="holds a checkpoint already"):
        ckptlab.save({"w": torch.zeros(2)}, far, overwrite=False)


# ---------------------------------------------------------------- ranks


def test_ranks_save_and_load_under_other_layouts(ranks4, far):
    ranks4.run(ops.save, far)
    for layout in (None, "rows", "columns", "tiles_turned", "copies", "fsdp_tp"):
        assert [seed for seed, _ in ranks4.run(ops.load, far, layout)] == [1] * 4


def test_stock_reads_ours_and_we_read_stocks(ranks4, far):
    ranks4.run(ops.save, far)
    assert ranks4.run(ops.stock_load, far) == [1] * 4
    ranks4.run(ops.stock_save, f"{far}-stock", 2)
    assert [seed for seed, _ in ranks4.run(ops.load, f"{far}-stock", "columns")] == [2] * 4


def test_a_save_over_another_clears_what_the_old_one_left(ranks4, far):
    for seed in (1, 2):
        ranks4.run(ops.save, far, seed)
    assert [seed for seed, _ in ranks4.run(ops.load, far)] == [2] * 4
    names = files_at(far).names()
    used = ckptlab.open_checkpoint(far).metadata.files
    assert {name for name in names if name.endswith(".distcp")} <= set(used)


def test_bytes_sent_are_bytes_reported(ranks4, far, gate):
    """In rows as saved, no byte too many: elements once, and the wrapping that is looked at."""
    ranks4.run(ops.save_large, far, 1)
    for layout in ("rows", "copies"):
        gate.clear()
        loaded = ranks4.run(ops.load_large, far, layout)
        assert [value for value, _ in loaded] == [1.0] * 4
        reports = [report for _, report in loaded]
        assert sum(r.nbytes for r in reports) == 24 * MIB * (4 if layout == "copies" else 1)
        assert data(gate) == sum(r.nbytes + r.header_bytes for r in reports)
        assert sum(r.header_bytes for r in reports) < 100_000
        # Whether all files are there takes no request for each.
        assert not [r for r in gate.requests if r.method == "HEAD" and r.path.endswith(".distcp")]


# ---------------------------------------------------------------- when it goes wrong


def test_a_server_that_fails_now_and_then_is_not_noticed(ranks4, far, gate):
    chance = random.Random(5)
    faults = []

    def sometimes(method, path, query):
        if method in ("GET", "HEAD") and chance.random() < 0.15:
            faults.append(chance.choice(["500", "503", "reset", *["cut"] * (method == "GET")]))
            return faults[-1]
        return None

    ranks4.run(ops.save, far)
    gate.fault = sometimes
    assert [seed for seed, _ in ranks4.run(ops.load, far, "columns")] == [1] * 4
    assert len(faults) > 5


def test_what_is_forbidden_is_one_error_on_every_rank(ranks4, far, gate):
    ranks4.run(ops.save, far)
    gate.fail("403", 1000, "GET", ".metadata")
    failures = ranks4.run(ops.load_fails, far)
    assert {f.kind for f in failures} == {"PathError"}
    assert {f.message for f in failures} == {failures[0].message}
    assert failures[0].message.startswith(f"{far}/.metadata: cannot read")
    assert all(f.untouched for f in failures)


def test_a_rank_that_may_not_write_fails_the_save_and_the_old_one_is_there(ranks4, far, gate):
    ranks4.run(ops.save, far)
    before = files_at(far).sizes()
    gate.fail("403", 1000, "", "__2_0")
    failures = ranks4.run(ops.save_fails, far, 2)
    assert {(f.kind, f.rank, f.phase) for f in failures} == {("RankError", 2, "write")}
    assert "__2_0" in failures[0].message
    gate.clear()
    assert [seed for seed, _ in ranks4.run(ops.load, far)] == [1] * 4
    after = files_at(far).sizes()
    assert {name: after[name] for name in before} == before
    assert not [name for name in after if name.startswith("__2_0") and name not in before]
    ranks4.run(ops.save, far, 3)
    assert [seed for seed, _ in ranks4.run(ops.load, far)] == [3] * 4
    assert ranks4.run(ops.stock_load, far) == [3] * 4


@pytest.mark.parametrize("first", [True, False], ids=["new", "over another"])
def test_a_rank_that_is_killed_in_the_middle_of_its_upload(ranks4, far, gate, first):
    if not first:
        ranks4.run(ops.save_large, far, 1)
    before = files_at(far).sizes()
    pid = ranks4.run(ops.pid)[1]
    caught = threading.Event()

    def stall(method, path, query):
        if method == "PUT" and "__1_0" in path and "partNumber=2" in query:
            caught.set()
            return "stall"
        return None

    gate.fault = stall

    def kill():
        assert caught.wait(60)
        os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(RankError, match=r"rank 1 .*SIGKILL"):
        ranks4.run(ops.save_large, far, 2, 5 * MIB)
    killer.join()
    gate.clear()
    after = files_at(far).sizes()
    assert not [name for name in after if name.startswith("__1_0") and name not in before]
    if first:
        with pytest.raises(PathError, match=r"save did not finish|does not exist"):
            ckptlab.open_checkpoint(far)
    else:
        assert {name: after[name] for name in before} == before
        assert [value for value, _ in ranks4.run(ops.load_large, far)] == [1.0] * 4
    ranks4.run(ops.save_large, far, 3)
    assert [value for value, _ in ranks4.run(ops.load_large, far)] == [3.0] * 4
    used = ckptlab.open_checkpoint(far).metadata.files
    assert {name for name in files_at(far).names() if name.endswith(".distcp")} <= set(used)
