"""What ranks do in the tests of faults: saves and loads in which the deed is done to one rank."""

from __future__ import annotations

import io
import os
import resource
import signal
import threading
import time
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
import torch.distributed as dist
from async_ops import small, there
from crosswise_ops import cut, full, plain, poisoned
from engine_ops import failure
from seed_ops import quiet, same

import ckptlab
from ckptlab.engine.ranks import Team
from ckptlab.live.ranks import Context

# ---------------------------------------------------------------- replicas that went apart


def _hsdp_state(ctx):
    """A state of which each shard is held by one rank, by two or by all four, and a plain tensor."""
    shapes = {"w": (9, 4), "v": (6,), "c": (3, 2)}
    layouts = {"w": "hsdp", "v": "copies", "c": "tiles"}
    state = {fqn: cut(ctx, full(fqn, shapes[fqn]).nan_to_num(0).clamp(-9, 9), layouts[fqn]) for fqn in shapes}
    return {**state, "plain": torch.ones(3), "step": 5}


def diverged(ctx, path, changes, replicas="check", order=1):
    """A save in which `changes` (rank, key, place in the flat shard, by how much) were made first."""
    state = _hsdp_state(ctx)
    for rank, fqn, place, much in changes:
        if ctx.rank == rank:
            state[fqn].to_local().view(-1)[place] += much
    if ctx.rank % 2:
        state = dict(list(state.items())[::order])
    return failure(lambda: ckptlab.save({"m": state}, path, replicas=replicas))


def diverged_but_trusted(ctx, path, rank):
    """A save that is told to trust replicas; whether each rank's own `w` is what was saved."""
    state = _hsdp_state(ctx)
    if ctx.rank == rank:
        state["w"].to_local()[0, 0] = 77.0
    with quiet():
        ckptlab.save(state, path, replicas="trust")
    target = poisoned(cut(ctx, full("w", (9, 4)), "hsdp"))
    ckptlab.load({"w": target}, path)
    return same(target.to_local(), state["w"].to_local())


def many_diverged(ctx, path, count):
    """A save of `count` replicated tensors, all of which are another on rank 1."""
    state = {f"t{i:02}": cut(ctx, torch.zeros(4, 2), "copies") for i in range(count)}
    for i, tensor in enumerate(state.values()):
        tensor.to_local()[0, 0] += float(i) if ctx.rank == 1 else -1.0
    return failure(lambda: ckptlab.save(state, path))


def one_rank_has_not(ctx, path, rank, missing):
    """A save in which one rank lacks some keys; its outcome, and what a load of everything gives."""
    state = _hsdp_state(ctx)
    mine = {fqn: v for fqn, v in state.items() if ctx.rank != rank or fqn not in missing}
    return failure(lambda: ckptlab.save(mine, path))


# ---------------------------------------------------------------- every file operation

_CALLS = [
    "open", "mkdir", "scandir", "listdir", "posix_fallocate", "ftruncate", "truncate", "write", "pwrite",
    "pwritev", "pread", "preadv", "fsync", "fdatasync", "replace", "rename", "link", "unlink", "remove",
    "rmdir",
]  # fmt: skip
"""Calls of the system by which files are found, made, written, named and removed."""


@contextmanager
def operations(path, at=None, deed=None):
    """The file operations on a checkpoint, as they happen; instead of number `at`, `deed(name, call)`."""
    done, lock, real = [], threading.Lock(), {name: getattr(os, name) for name in _CALLS}
    real["opened"] = io.open

    def watched(name):
        def call(*arguments, **options):
            first = arguments[0] if arguments else ""
            if not isinstance(first, int) and not os.fspath(first).startswith(path):
                return real[name](*arguments, **options)
            with lock:
                number = len(done)
                done.append(f"{name} {'' if isinstance(first, int) else os.path.basename(os.fspath(first))}")
            if number == at:
                return deed(name, lambda: _half(real, name, arguments))
            return real[name](*arguments, **options)

        return call

    with ExitStack() as patches:
        for name in _CALLS:
            patches.enter_context(mock.patch.object(os, name, watched(name)))
        patches.enter_context(mock.patch.object(io, "open", watched("opened")))
        yield done


def _half(real, name, arguments):
    """Half of a write, if that is what it is."""
    if name == "pwritev":
        data = b"".join(bytes(memoryview(b).cast("B")) for b in arguments[1])
        real["pwrite"](arguments[0], data[: len(data) // 2], arguments[2])
    elif name in {"write", "pwrite"}:
        real[name](arguments[0], arguments[1][: len(arguments[1]) // 2], *arguments[2:])


def _die(_, half):
    half()
    os.kill(os.getpid(), signal.SIGKILL)


def save_small(ctx, path, seed, how="save", more=None, **options):
    """Save the small state of this seed, and `more`, at once or asynchronously."""
    state = {**small(ctx, seed), **(more or {})}
    if how == "async":
        ckptlab.async_save(state, path, **options).result(30)
    else:
        ckptlab.save(state, path, **options)


def count_operations(ctx, path, how):
    """The file operations of each rank in a save over an older checkpoint."""
    small(ctx, 2)
    with operations(path) as done:
        save_small(ctx, path, 2, how)
    return done


def killed_at_operation(ctx, path, rank, at, how):
    """A save over an older checkpoint in which one rank dies at a file operation, a write half done."""
    small(ctx, 2)
    with operations(path, at if ctx.rank == rank else None, _die):
        save_small(ctx, path, 2, how)


def killed_at_name(ctx, path, rank, call, name):
    """A save in which one rank dies when it is about to give a file its name."""
    state, real = small(ctx, 2), getattr(os, call)

    def dying(source, target, **options):
        if os.path.basename(target) == name:
            _die(call, lambda: None)
        return real(source, target, **options)

    with mock.patch.object(os, call, dying if ctx.rank == rank else real):
        ckptlab.save(state, path)


# ---------------------------------------------------------------- raise anywhere


def _fail(name, _):
    raise OSError(5, "Input/output error", name)


def _outcome(step):
    """How a step failed; None if it went well."""
    try:
        return failure(step)
    except AssertionError as error:
        if str(error) != "it did not fail":
            raise
        return None


def _verb(ctx, path, verb, **options):
    """Save the second small state, or load the first, which must then be there."""
    if verb != "load":
        return save_small(ctx, path, 2, verb, **options)
    target = small(ctx, 3)
    ckptlab.load(target, path, **options)
    assert plain(target) == plain(small(ctx, 1))
    return None


def fails_at_each_operation(ctx, path, rank, verb):
    """How all ranks fail when one rank's file operation number 0, 1, 2 ... gives an error.

    With each the name of the operation, and the seed of what is there afterwards.
    """
    save_small(ctx, path, 1)
    with operations(path) as done:
        _verb(ctx, path, verb)
    found = []
    for at in range(Team.of().gather(len(done))[rank]):
        save_small(ctx, path, 1)
        with operations(path, at if ctx.rank == rank else None, _fail) as done:
            failed = _outcome(lambda: _verb(ctx, path, verb))
        # Threads do not always take turns in the same order.
        name = Team.of().gather(done[at] if ctx.rank == rank else "")[rank]
        found.append((name.split(" ")[0], failed, there(ctx, path)))
    return found


def fails_in_progress(ctx, path, rank, verb):
    """How all ranks fail when what one rank's user has called with event 0, 1, 2 ... raises."""
    found = []
    while True:
        save_small(ctx, path, 1)
        phases, last = [], len(found) + 1

        def told(event, phases=phases, last=last):
            phases.append(event.phase)
            if len(phases) == last and ctx.rank == rank:
                raise ValueError(f"no more of {event.phase}")

        failed = _outcome(lambda told=told: _verb(ctx, path, verb, progress=told))
        heard = Team.of().gather(phases)[rank]
        if len(heard) <= len(found):
            return found
        found.append((heard[len(found)], failed, there(ctx, path)))


def bad_on_one(ctx, path, rank, how):
    """A save or a load of a state that one rank cannot tell, read or take back; what is there then."""
    save_small(ctx, path, 1)
    state, mine = small(ctx, 2 if how.startswith("save") else 3), ctx.rank == rank
    if how == "save lock":
        state["bad"] = threading.Lock() if mine else 1
    elif how == "save stateful":
        state["bad"] = Stubborn("state_dict" if mine else "")
    elif how == "load stateful":
        state = {"step": 3, "bad": Stubborn("state_dict" if mine else "")}
    elif how == "load into":
        save_small(ctx, path, 1, more={"bad": {"n": 1}})
        state = {"step": 3, "bad": Stubborn("load_state_dict" if mine else "")}
    failed = failure(lambda: (ckptlab.load if how.startswith("load") else ckptlab.save)(state, path))
    return failed, there(ctx, path)


class Stubborn:
    """A `Stateful` of which one method fails."""

    def __init__(self, fails):
        self.fails = fails

    def state_dict(self):
        self._do("state_dict")
        return {"n": 1}

    def load_state_dict(self, state):
        self._do("load_state_dict")

    def _do(self, method):
        if self.fails == method:
            raise ValueError(f"no {method} today")


# ---------------------------------------------------------------- full disks, failing threads


def save_too_large(ctx, path, nbytes, how="save"):
    """A save of `nbytes` a rank more than the small state has; how it failed, and what is there."""
    state = {**small(ctx, 2), "large": {str(ctx.rank): torch.zeros(nbytes, dtype=torch.uint8)}}
    if how == "async":
        failed = failure(lambda: ckptlab.async_save(state, path).result(30))
    else:
        failed = failure(lambda: ckptlab.save(state, path))
    return failed, there(ctx, path)


def save_too_large_a_file(ctx, path, rank, nbytes):
    """The same where the system lets one rank write files of half that size only."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if ctx.rank == rank:
        resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes // 2, before[1]))
    try:
        return save_too_large(ctx, path, nbytes)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# ---------------------------------------------------------------- ranks of a job without a driver


def lose_a_rank(rank, world, meeting, path, dead, verb, answers):
    """The program of one rank of a job in which one dies in the middle; how the others saw that, and when.

    Those stay alive afterwards, so that none learns of it by the end of another.
    """
    torch.set_num_threads(1)
    dist.init_process_group("gloo", meeting, rank=rank, world_size=world)
    ctx = Context(rank, world, "cpu", "gloo", print)
    save_small(ctx, path, 1)
    dist.barrier()
    # Of a load the opening of the checkpoint, well before any rank reads of it.
    last = len(count_operations(ctx, path, "save")) // 2 if verb != "load" else 1
    save_small(ctx, path, 1)
    with operations(path, last if rank == dead else None, _die):
        failed = failure(lambda: _verb(ctx, path, verb))
    answers.put((rank, failed))
    time.sleep(60)


# ---------------------------------------------------------------- keys that only some ranks have


def saved_without(ctx, path, rank, key):
    """A save in which one rank lacks a key: how it failed, if so, and what is there then."""
    save_small(ctx, path, 1)
    state = small(ctx, 2)
    if ctx.rank == rank:
        del state[key]
    failed = _outcome(lambda: ckptlab.save(state, path))
    return failed, there(ctx, path)


def loaded_without(ctx, path, rank, strict):
    """A load in which one rank asks for half of the keys, the other for the rest; what is filled."""
    save_small(ctx, path, 1)
    half = ["rows", "step"] if ctx.rank == rank else ["copies", "plain"]
    target = {key: value for key, value in small(ctx, 3).items() if key in half}
    report = ckptlab.load(target, path, strict=strict)
    wanted = {key: value for key, value in small(ctx, 1).items() if key in half}
    return plain(target) == plain(wanted), sorted(report.loaded), report.unexpected


def loaded_with_more(ctx, path, rank):
    """A load in which one rank asks for a key that the checkpoint has not; whether any target changed."""
    save_small(ctx, path, 1)
    target = {**small(ctx, 3), **({"more": torch.ones(2)} if ctx.rank == rank else {})}
    failed = failure(lambda: ckptlab.load(target, path))
    target.pop("more", None)
    return failed, plain(target) == plain(small(ctx, 3))
