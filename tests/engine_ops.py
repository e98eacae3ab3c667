"""What ranks do in the engine's tests: saves and loads whose reads are counted, or that fail on purpose."""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as stock_dcp
from crosswise_ops import DCP, cut, full, plain, poisoned
from seed_ops import kind_of, local, mesh_of, quiet, same
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Shard, distribute_tensor

import ckptlab
from ckptlab.engine.held import hold
from ckptlab.engine.load import LoadReport
from ckptlab.engine.ranks import Team
from ckptlab.errors import CheckpointError, MismatchError, PathError
from ckptlab.storage.local import LocalFiles


def stock_save(state, path):
    """As stock DCP saves in one process."""
    with quiet():
        stock_dcp.save(state, checkpoint_id=path, no_dist=True)


def stock_load(state, path):
    """As stock DCP loads in one process."""
    with quiet():
        stock_dcp.load(state, checkpoint_id=path, no_dist=True)


@dataclass(frozen=True)
class Counted:
    """A load: what it reported, the bytes that its files were really asked for, whether all is equal."""

    report: LoadReport
    asked: int
    mapped: tuple[str, ...]
    equal: bool


@contextmanager
def counted_files():
    """Bytes of data files asked for by read or read_into, and the names of those that were mapped."""
    read, read_into, view = LocalFiles.read, LocalFiles.read_into, LocalFiles.view
    read_checked = LocalFiles.read_checked
    asked, mapped = [], []

    def counting_read(self, name, start, length):
        asked.append(length if name.endswith(".distcp") else 0)
        with mock.patch.object(LocalFiles, "read_into", read_into):
            return read(self, name, start, length)

    def counting_read_into(self, name, start, *into):
        asked.append(sum(one.nbytes for one in into) if name.endswith(".distcp") else 0)
        return read_into(self, name, start, *into)

    def counting_read_checked(self, name, start, *into):
        asked.append(sum(one.nbytes for one in into) if name.endswith(".distcp") else 0)
        with mock.patch.object(LocalFiles, "read_into", read_into):
            return read_checked(self, name, start, *into)

    def counting_view(self, name, *where):
        if name.endswith(".distcp"):
            mapped.append(name)
        return view(self, name, *where)

    with (
        mock.patch.object(LocalFiles, "read", counting_read),
        mock.patch.object(LocalFiles, "read_into", counting_read_into),
        mock.patch.object(LocalFiles, "read_checked", counting_read_checked),
        mock.patch.object(LocalFiles, "view", counting_view),
    ):
        yield asked, mapped


def save_one(ctx, path, shape, layout):
    """A float32 tensor `w`."""
    with quiet():
        return ckptlab.save({"w": cut(ctx, full("w", shape), layout)}, path)


def load_counted(ctx, path, shape, layout, verify=False):
    wanted = cut(ctx, full("w", shape), layout)
    target = poisoned(cut(ctx, full("w", shape), layout))
    with counted_files() as (asked, mapped):
        report = ckptlab.load({"w": target}, path, verify=verify)
    return Counted(report, sum(asked), tuple(mapped), same(wanted.to_local(), target.to_local()))


class _CountingStream:
    """A file that counts what is read of it."""

    def __init__(self, stream, counts):
        self._stream, self._counts = stream, counts

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def read(self, size=-1):
        data = self._stream.read(size)
        self._counts.append(len(data))
        return data

    def readinto(self, into):
        got = self._stream.readinto(into)
        self._counts.append(got)
        return got


class _CountingReader(stock_dcp.FileSystemReader):
    def __init__(self, path):
        super().__init__(path)
        self.counts = []

    def _slice_file(self, file, sinfo):
        return super()._slice_file(_CountingStream(file, self.counts), sinfo)


def load_counted_by_stock(ctx, path, shape, layout):
    """Bytes that stock DCP reads of the data files, and whether it loads the right elements."""
    target = poisoned(cut(ctx, full("w", shape), layout))
    reader = _CountingReader(path)
    with quiet():
        stock_dcp.load({"w": target}, storage_reader=reader)
    return sum(reader.counts), same(cut(ctx, full("w", shape), layout).to_local(), target.to_local())


@dataclass(frozen=True)
class Failed:
    """How a rank failed: the error's type and words, the rank it names, whether the target is untouched."""

    kind: str
    message: str
    rank: int
    phase: str
    problems: tuple[str, ...]
    untouched: bool
    seconds: float


def failure(step, targets=()):
    """What a step that must fail raises; `targets` were poisoned before."""
    poison = [t.to_local() if isinstance(t, DTensor) else t for t in targets]
    before = [t.clone() for t in poison]
    began = time.perf_counter()
    try:
        step()
    except CheckpointError as error:
        return Failed(
            type(error).__name__,
            str(error),
            getattr(error, "rank", -1),
            getattr(error, "phase", ""),
            tuple(str(problem) for problem in error.problems),
            all(same(a, b) for a, b in zip(before, poison, strict=True)),
            time.perf_counter() - began,
        )
    raise AssertionError("it did not fail")


STATE = {"w": ((9, 4), "hsdp"), "v": ((16, 3), "rows"), "b": ((6,), "tiles")}


def state(ctx, seed=1):
    return {fqn: cut(ctx, full(f"{fqn} {seed}", shape), layout) for fqn, (shape, layout) in STATE.items()}


def save_state(ctx, path, seed=1):
    ckptlab.save(state(ctx, seed), path)


def load_fails(ctx, path, verify=False):
    """A load that must fail, into poison."""
    target = state(ctx)
    for tensor in target.values():
        poisoned(tensor)
    return failure(lambda: ckptlab.load(target, path, verify=verify), target.values())


def load_misfits_fails(ctx, path):
    """Wrong shape, wrong dtype, a key that is missing, an object for a tensor; `b` alone would fit."""
    target = {
        "w": poisoned(cut(ctx, full("w", (9, 5)), "rows")),
        "v": poisoned(cut(ctx, full("v", (16, 3), "bfloat16"), "rows")),
        "u": poisoned(cut(ctx, full("u", (2, 2)), "copies")),
        "b": poisoned(cut(ctx, full("b", (6,)), "rows")),
    }
    tensors = list(target.values())
    return failure(lambda: ckptlab.load({**target, "step": 1}, path), tensors)


def disk_fails_on(ctx, path, rank, verb):
    """A load or a save in which one rank's disk gives an error."""

    method = {"load": "read_checked", "save": "create"}[verb]
    whole = getattr(LocalFiles, method)

    def broken(files, name, *rest):
        if name.endswith(".distcp"):
            raise OSError(5, "Input/output error")
        return whole(files, name, *rest)

    target = state(ctx, 2)
    patch = mock.patch.object(LocalFiles, method, broken) if ctx.rank == rank else nullcontext()
    with patch:
        return failure(lambda: getattr(ckptlab, verb)(target, path))


def bad_tensor_on(ctx, path, rank):
    """One rank brings a tensor that no checkpoint can hold."""
    extra = torch.eye(3).to_sparse() if ctx.rank == rank else torch.eye(3)
    return failure(lambda: ckptlab.save({**state(ctx, 2), "extra": extra}, path))


def differing_on(ctx, path, rank, kind):
    """A plain tensor or an object that is not the same on one rank."""
    value = 8 if ctx.rank == rank else 7
    own = {"object": value, "tensor": torch.full((2, 2), value), "list": [torch.zeros(2), value]}[kind]
    return failure(lambda: ckptlab.save({**state(ctx, 2), "nested": {"own": own}, "same": 1}, path))


def same_but_pickled_apart(ctx, path):
    """Equal values, which every other rank pickles in another order; what is loaded again."""
    words = ({"a": 1, "b": 2} if ctx.rank % 2 else {"b": 2, "a": 1},)
    ckptlab.save({"words": words}, path)
    target = {"words": None}
    ckptlab.load(target, path)
    return list(words[0]), target["words"] == words


def save_again_refused(ctx, path):
    return failure(lambda: ckptlab.save(state(ctx, 2), path, overwrite=False))


def killed_at(ctx, path, rank, operation):
    """A save over an older checkpoint in which one rank dies just before a file operation."""
    name, _, wanted = operation.partition(" ")
    real = {"create": LocalFiles.create, "publish": LocalFiles.publish, "remove": LocalFiles.remove}

    def dying(self, file, *rest):
        if not wanted or wanted in file:
            os.kill(os.getpid(), signal.SIGKILL)
        return real[name](self, file, *rest)

    def dying_replace(self, target):
        if Path(target).name == wanted:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)

    replace = Path.replace
    if ctx.rank == rank and name == "replace":
        Path.replace = dying_replace
    elif ctx.rank == rank:
        setattr(LocalFiles, name, dying)
    ckptlab.save(state(ctx, 2), path)


def which_is_there(ctx, path, loader):
    """The seed of the state that a path holds whole; 0 if it is neither of the two."""
    target = state(ctx)
    for tensor in target.values():
        poisoned(tensor)
    with quiet():
        DCP[loader].load(target, checkpoint_id=path)
    for seed in (1, 2):
        wanted = state(ctx, seed)
        if all(same(wanted[fqn].to_local(), target[fqn].to_local()) for fqn in wanted):
            return seed
    return 0


def together(ctx, kind, rank):
    """A step that goes wrong on one rank, alike on all, or differently on each."""
    team = Team.of()

    def step():
        if kind == "alike":
            raise MismatchError("none fits", ["a", "b"])
        if kind == "apart":
            raise CheckpointError(f"cause {ctx.rank}")
        if ctx.rank == rank and kind == "one":
            raise ValueError("the cause")
        if ctx.rank == rank and kind == "unsendable":
            raise CheckpointError("the cause", [lambda: None])
        return ctx.rank

    return failure(lambda: team.together("read", step))


def first(ctx):
    """What the first rank alone does, and how all fail when it fails; then a step that goes well."""
    team, done = Team.of(), []

    def work():
        done.append(ctx.rank)
        return {"told": ctx.rank}

    def fails():
        raise PathError("there is a file", ["path"])

    told = team.first("plan", work)
    return told, done, failure(lambda: team.first("plan", fails)), team.tell("plan", lambda: ctx.rank * 2)


@cache
def some_ranks(*ranks):
    return dist.new_group(list(ranks))


def part_of_the_job(ctx, path, ranks):
    """Ranks of a group of their own save and load; the others are elsewhere."""
    group, mesh = some_ranks(*ranks), DeviceMesh(kind_of(ctx), list(ranks))
    if ctx.rank not in ranks:
        return None
    team = Team.of(group)
    rows = distribute_tensor(full("r", (5, 3)).to(ctx.device), mesh, [Shard(0)], src_data_rank=None)
    state = {"rows": rows, "plain": torch.ones(3), "step": 4}
    report = ckptlab.save(state, path, process_group=group)
    target = {"rows": torch.zeros_like(rows), "plain": torch.zeros(3), "step": 0}
    ckptlab.load(target, path, process_group=group)
    same_again = same(local(rows), local(target["rows"])) and target["plain"].tolist() == [1, 1, 1]

    def step():
        if ctx.rank == ranks[-1]:
            raise ValueError("the cause")

    failed = failure(lambda: team.together("read", step))
    return team.rank, team.global_rank, team.ranks, report.chunks, same_again, target["step"], failed


def alone(ctx, path):
    """Every rank for itself, in a directory of its own."""
    own = f"{path}/{ctx.rank}"
    ckptlab.save({"w": torch.full((2,), ctx.rank), "rank": ctx.rank}, own, no_dist=True)
    target = {"w": torch.full((2,), -1), "rank": -1}
    ckptlab.load(target, own, no_dist=True)
    return target["w"].tolist(), target["rank"]


def keys_of_their_own(ctx, path):
    """Each rank has a key of its own, pairs share a tensor, and all share one; then every key on rank 0."""
    state = {
        "rng": {str(ctx.rank): torch.full((3,), ctx.rank)},
        "seed": {str(ctx.rank): f"seed {ctx.rank}"},
        "stage": {str(ctx.rank // 2): torch.full((4,), 10 + ctx.rank // 2)},
        "all": cut(ctx, full("all", (6, 2)), "rows"),
    }
    report = ckptlab.save(state, path)
    target = {
        "rng": {str(ctx.rank): torch.full((3,), -1)},
        "seed": {str(ctx.rank): ""},
        "stage": {str(ctx.rank // 2): torch.full((4,), -1)},
        "all": poisoned(cut(ctx, full("all", (6, 2)), "rows")),
    }
    loaded = ckptlab.load(target, path)
    return plain(state) == plain(target), report.chunks, loaded.unexpected


def apart(ctx, path, kind):
    """A key that names tensors of two shapes, or a tensor here and an object there."""
    ways = {"shape": [torch.zeros(1, 2), torch.zeros(2, 1)], "type": [torch.zeros(2), 3]}[kind]
    return failure(lambda: ckptlab.save({"w": ways[ctx.rank % 2]}, path))


def cuts(ctx):
    """Which of some tensors are held as the first is, whether their memory is their own, and who is alike."""
    mesh = mesh_of(kind_of(ctx), (2, 2))
    placed = {
        "alike": ((4, 6), torch.float32, [Shard(0), Shard(1)]),
        "again": ((4, 6), torch.float32, [Shard(0), Shard(1)]),
        "turned": ((4, 6), torch.float32, [Shard(1), Shard(0)]),
        "strided": ((4, 6), torch.float32, [Shard(0), Shard(0)]),
        "wider": ((4, 8), torch.float32, [Shard(0), Shard(1)]),
        "narrow": ((4, 6), torch.bfloat16, [Shard(0), Shard(1)]),
    }
    made = {
        fqn: distribute_tensor(torch.ones(shape, dtype=dtype), mesh, placements)
        for fqn, (shape, dtype, placements) in placed.items()
    }
    # As in a module's state_dict.
    made |= {fqn: made["alike"].detach() for fqn in ("one spec", "the same spec")}
    assert made["one spec"]._spec is made["the same spec"]._spec
    held = hold(made, ctx.rank, range(ctx.world))
    own = all(held[fqn].memory[0].data_ptr() == made[fqn]._local_tensor.data_ptr() for fqn in made)
    alike = [[held.names[row] for row in rows] for rows, _ in held.alike]
    return [fqn for fqn in made if held[fqn].cut is held["alike"].cut], own, alike


def partial(ctx, path):
    """A tensor that is a sum still to be made."""
    mesh = mesh_of(kind_of(ctx), (ctx.world,))
    pending = DTensor.from_local(torch.ones(2), mesh, [Partial()], run_check=False)
    return failure(lambda: ckptlab.save({"w": pending}, path))
