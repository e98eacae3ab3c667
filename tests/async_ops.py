"""What ranks do in the tests of async saves: save while the state is changed and other work is done."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from importlib import import_module
from unittest import mock

import torch
import torch.distributed as dist
from crosswise_ops import DCP, LAYOUTS, Counter, full, grid, plain, state_of_all_kinds
from engine_ops import failure, some_ranks
from leaving import slow_files
from seed_ops import kind_of, local, quiet
from torch.distributed._shard.sharded_tensor import Shard, ShardedTensor, init_from_local_shards
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.tensor import Shard as Rows

import ckptlab
from ckptlab.storage.local import LocalFiles

module = import_module("ckptlab.engine.async_save")


@contextmanager
def held_back():
    """Async saves wait, with their copy made, until the event is set."""
    go, save = threading.Event(), module.save_offer

    def late(*arguments, **options):
        assert go.wait(30)
        return save(*arguments, **options)

    with mock.patch.object(module, "save_offer", late):
        yield go
        go.set()


def _sharded(ctx, seed):
    """Rows of a ShardedTensor."""
    part = full(f"sharded {seed}", (4, 3))[ctx.rank : ctx.rank + 1].clone()
    with quiet():
        return init_from_local_shards([Shard.from_tensor_and_offsets(part, [ctx.rank, 0], ctx.rank)], 4, 3)


def _everything(ctx, seed):
    """A state of every kind of value and every layout that stock DCP can load."""
    tensors = grid(ctx, [name for name in LAYOUTS if name != "stripes"]) if seed == 1 else {}
    return {**state_of_all_kinds(ctx, seed), **tensors, "sharded": _sharded(ctx, seed)}


def _values(state):
    """The state in values that compare; plain() knows no ShardedTensor."""
    return plain({k: local(v) if isinstance(v, ShardedTensor) else v for k, v in state.items()})


def _wreck(value):
    """Change everything in a state that can be changed."""
    if isinstance(value, ShardedTensor):
        for shard in value.local_shards():
            shard.tensor.fill_(-7)
    elif isinstance(value, torch.Tensor):
        whole = value.to_local() if isinstance(value, DTensor) else value
        whole.fill_(3)
    elif isinstance(value, Counter):
        value.count, value.where = -1, "nowhere"
    elif isinstance(value, dict):
        for inner in list(value.values()):
            _wreck(inner)
        value["late"] = "added"
    elif isinstance(value, list):
        for inner in value:
            _wreck(inner)
        value.append("late")


def changed_at_once(ctx, path, loader):
    """What was there at the call, and what is loaded from a save during which all of it was changed."""
    state = _everything(ctx, 1)
    wanted = _values(_everything(ctx, 1))
    with held_back() as go, quiet():
        future = ckptlab.async_save(state, path)
        assert not future.done()
        _wreck(state)
        go.set()
        report = future.result(30)
    target = _everything(ctx, 1)
    for value in target.values():
        if not isinstance(value, Counter):
            _wreck(value)
            _forget_late(value)
    with quiet():
        DCP[loader].load(target, checkpoint_id=path)
    return _values(state) != wanted, _values(target) == wanted, report.nbytes > 0


def _forget_late(value):
    """Take back what `_wreck` added, which no checkpoint has."""
    if isinstance(value, dict):
        value.pop("late")
        for inner in value.values():
            _forget_late(inner)
    elif isinstance(value, list):
        value.pop()
        for inner in value:
            _forget_late(inner)


def small(ctx, seed):
    """A sharded, a replicated and a plain tensor, and an object, on any number of ranks."""
    mesh = _row(kind_of(ctx), ctx.world)
    rows = distribute_tensor(full(f"rows {seed}", (4, 3)), mesh, [Rows(0)], src_data_rank=None)
    copies = DTensor.from_local(full(f"copies {seed}", (5,)), mesh, run_check=False)
    return {"rows": rows, "copies": copies, "plain": full(f"plain {seed}", (2, 2)), "step": seed}


def _row(kind, world):
    key = (kind, world)
    if key not in _ROWS:
        _ROWS[key] = DeviceMesh(kind, list(range(world)))
    return _ROWS[key]


_ROWS = {}


def there(ctx, path, loader="ours"):
    """The seed of the small state that a path holds whole; 0 if it is neither 1 nor 2."""
    target = small(ctx, 3)
    _wreck(target)
    del target["late"]
    with quiet():
        DCP[loader].load(target, checkpoint_id=path)
    return next((seed for seed in (1, 2) if plain(target) == plain(small(ctx, seed))), 0)


class _Broken:
    """A `Stateful` that cannot say its state."""

    def state_dict(self):
        raise ValueError("no state today")

    def load_state_dict(self, state):
        raise AssertionError("it is never loaded")


def one_rank_fails(ctx, path, rank, how):
    """An async save that fails on one rank, after another one; then one that goes well."""
    ckptlab.async_save(small(ctx, 1), path).result(30)
    state = small(ctx, 2)
    mine = ctx.rank == rank
    if how == "stateful":
        state["bad"] = _Broken() if mine else Counter(1, "")
    elif how == "tensor":
        state["bad"] = torch.eye(2).to_sparse() if mine else torch.eye(2)
    elif how == "memory":
        state["bad"] = torch.eye(2, device="meta" if mine else "cpu")

    def broken(*_):
        raise OSError(5, "Input/output error")

    with mock.patch.object(LocalFiles, "create", broken if mine and how == "disk" else LocalFiles.create):
        future = ckptlab.async_save(state, path)
        failed = failure(lambda: future.result(30))
    kept = there(ctx, path)
    ckptlab.async_save(small(ctx, 2), path).result(30)
    return failed, repr(future), kept, there(ctx, path)


def busy(ctx, path, while_busy):
    """A save while another is under way: how it was refused, if so; whether the first was done before it."""
    with held_back() as go:
        first = ckptlab.async_save(small(ctx, 1), f"{path}/1")
        refused = None
        if while_busy == "refuse":
            refused = failure(lambda: ckptlab.async_save(small(ctx, 2), f"{path}/2", while_busy="refuse"))
            assert not first.done()
            go.set()
            first.result(30)
            dist.barrier()
        else:
            threading.Timer(0.3, go.set).start()
        second = ckptlab.async_save(small(ctx, 2), f"{path}/2", while_busy=while_busy)
        waited = first.done()
        second.result(30)
    return refused, waited, there(ctx, f"{path}/1"), there(ctx, f"{path}/2")


def beside_training(ctx, path):
    """Sums over ranks on the default group, right or wrong, while saves are under way; what was saved."""
    sums = []
    with slow_files(0.02):
        for seed in (1, 2):
            future = ckptlab.async_save(small(ctx, seed), path)
            for i in range(100):
                value = torch.tensor([float(i + ctx.rank)])
                dist.all_reduce(value)
                sums.append(value.item() == sum(i + rank for rank in range(ctx.world)))
            future.result(30)
    return all(sums), there(ctx, path)


def some_of_the_job(ctx, path, ranks):
    """Ranks of a group save twice, then all save; the others know nothing of the first."""
    group, mesh = some_ranks(*ranks), DeviceMesh(kind_of(ctx), list(ranks))
    out = []
    if ctx.rank in ranks:
        for seed in (1, 2):
            rows = distribute_tensor(full(f"r{seed}", (5, 3)), mesh, [Rows(0)], src_data_rank=None)
            with held_back() as go:
                future = ckptlab.async_save({"rows": rows, "step": seed}, path, process_group=group)
                target = {"rows": torch.zeros_like(rows), "step": 0}
                wanted = plain({"rows": rows, "step": seed})
                rows.to_local().zero_()
                go.set()
            future.result(30)
            ckptlab.load(target, path, process_group=group)
            out.append(plain(target) == wanted)
    dist.barrier()
    ckptlab.async_save(small(ctx, 1), f"{path}/all").result(30)
    return out, there(ctx, f"{path}/all")


def alone(ctx, path):
    """Every rank for itself."""
    future = ckptlab.async_save({"rank": torch.full((2,), ctx.rank)}, f"{path}/{ctx.rank}", no_dist=True)
    future.result(30)
    target = {"rank": torch.full((2,), -1)}
    ckptlab.load(target, f"{path}/{ctx.rank}", no_dist=True)
    return target["rank"].tolist()
