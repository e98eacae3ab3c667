"""ckptlab beside stock DCP for a state on GPUs: `python tests/bench/gpu.py [--gigabytes N] [--folder F]`.

One rank, and four that take the GPUs in turn. Nobody waits for the disk. The limit moves the same bytes by
as many threads, each through 8 MiB of pinned memory, without crc or wrapping. `rows to columns` loads on
another layout than was saved; its limit is that of as many bytes in one run. `stalled` is how long an
`async_save` keeps training waiting; "kept" is stock's with `cache_staged_state_dict`.
Medians of interleaved runs, of the slowest rank; the ratio is the median of the runs' own ratios.
"""

import argparse
import gc
import os
import shutil
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import engines
import states
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as stock_dcp

from ckptlab import engine
from ckptlab.engine.made import blank, device_mesh
from ckptlab.layout import Layout
from ckptlab.live import LocalRanks
from ckptlab.plan.holding import fitted

_PART = 8 << 20


def state_of(context, tensors, fill, dim=0):
    """The tensors on this rank's GPU, cut along a dim if there are several ranks, random if asked for."""
    layout = Layout.parse(f"shard={context.world}", f"Shard({dim})")
    mesh = device_mesh(layout.mesh, "cuda") if context.world > 1 else None
    torch.manual_seed(context.rank)
    state = {}
    for tensor in tensors:
        if mesh is None:
            made = torch.zeros(tensor.shape, dtype=getattr(torch, tensor.dtype), device=context.device)
        else:
            made = blank(tensor, fitted(layout, tensor.shape), mesh, context.device)
        if fill:
            bits(made).random_(0, 255)
        state[tensor.fqn] = made
    return state


def bits(tensor):
    return (tensor.to_local() if hasattr(tensor, "to_local") else tensor).view(torch.uint8)


def timed(step):
    """Seconds that a step took on this rank, and what it gave; all ranks begin together."""
    gc.collect()
    torch.cuda.synchronize()
    dist.barrier()
    began = time.perf_counter()
    gave = step()
    torch.cuda.synchronize()
    return time.perf_counter() - began, gave


def saves(context, tensors, folder, reps):
    """`{engine: [seconds]}`."""
    state = state_of(context, tensors, fill=True)
    runs = {
        "stock": engines.stock_save(f"{folder}/stock", False),
        "ckptlab": engines.our_save(f"{folder}/ckptlab", False),
        "limit": lambda state: limit(state, f"{folder}/limit", _down),
    }
    taken = {name: [] for name in runs}
    for name in _in_turn(runs, reps):
        engines.emptied(f"{folder}/{name}")
        taken[name].append(timed(lambda name=name: runs[name](state))[0])
    return {name: some[1:] for name, some in taken.items()}


def loads(context, tensors, folder, reps, dim):
    """As `saves`, of one checkpoint of rows into zeros cut along `dim`, compared with what must be there."""
    state = state_of(context, tensors, fill=True)
    engines.emptied(f"{folder}/saved")
    engine.save(state, f"{folder}/saved", sync=False)
    if dim:
        state = state_of(context, tensors, fill=False, dim=dim)
        engines.stock_load(f"{folder}/saved")(state)
    target = state_of(context, tensors, fill=False, dim=dim)
    engines.emptied(f"{folder}/limit")
    limit(state, f"{folder}/limit", _down)
    runs = {
        "stock": engines.stock_load(f"{folder}/saved"),
        "ckptlab": engines.our_load(f"{folder}/saved"),
        "limit": lambda target: limit(target, f"{folder}/limit", _up),
    }
    taken = {name: [] for name in runs}
    for name in _in_turn(runs, reps):
        for value in target.values():
            bits(value).zero_()
        taken[name].append(timed(lambda name=name: runs[name](target))[0])
        assert all(torch.equal(bits(state[fqn]), bits(target[fqn])) for fqn in state), name
    return {name: some[1:] for name, some in taken.items()}


def limit(state, folder, way):
    """Move this rank's own bytes, in one or, if it is alone, two files and threads."""
    rank, many = dist.get_rank(), 2 if dist.get_world_size() == 1 else 1
    shares = [list(state.values())[i::many] for i in range(many)]

    def run(i):
        file = os.open(f"{folder}/{rank}-{i}", os.O_RDWR | os.O_CREAT)
        at, pinned = 0, torch.empty(_PART, dtype=torch.uint8, pin_memory=True)
        if way is _down:
            os.posix_fallocate(file, 0, sum(bits(value).nbytes for value in shares[i]))
        for value in shares[i]:
            for part in torch.split(bits(value).reshape(-1), _PART):
                way(file, at, part, pinned[: len(part)])
                at += len(part)
        os.close(file)

    with ThreadPoolExecutor(many) as threads:
        list(threads.map(run, range(many)))


def _down(file, at, part, pinned):
    pinned.copy_(part)
    assert os.pwrite(file, pinned.numpy().data, at) == len(part)


def _up(file, at, part, pinned):
    assert os.preadv(file, [pinned.numpy().data], at) == len(part)
    part.copy_(pinned)


def async_saves(context, tensors, folder, reps):
    """`{engine: [seconds until the call returned]}`, and until all was saved, under `... in all`."""
    state = state_of(context, tensors, fill=True)
    paths = {name: f"{folder}/{name}" for name in ("stock", "kept", "ckptlab")}
    kept = stock_dcp.FileSystemWriter(paths["kept"], sync_files=False, cache_staged_state_dict=True)
    runs = {
        "stock": lambda: stock_dcp.async_save(
            state, storage_writer=stock_dcp.FileSystemWriter(paths["stock"], sync_files=False)
        ),
        "kept": lambda: stock_dcp.async_save(state, storage_writer=kept),
        "ckptlab": lambda: engine.async_save(state, paths["ckptlab"], sync=False),
    }
    taken = {f"{name}{end}": [] for name in runs for end in ("", " in all")}
    for name in _in_turn(runs, reps):
        engines.emptied(paths[name])
        began = time.perf_counter()
        stalled, future = timed(runs[name])
        future.result()
        taken[name].append(stalled)
        taken[f"{name} in all"].append(time.perf_counter() - began)
    firsts = {f"{name} first": taken[name][:1] * reps for name in runs}
    return {name: some[1:] for name, some in taken.items()} | firsts


def _in_turn(runs, reps):
    """The names of the runs, one round to warm up and `reps` that count, each beginning with another."""
    names = list(runs)
    return [name for rep in range(reps + 1) for name in names[rep % len(names) :] + names[: rep % len(names)]]


def line(case, by_rank, stock="stock", ours="ckptlab", limit="limit"):
    """One row of the table: of the slowest rank."""
    taken = {
        name: [max(one) for one in zip(*(rank[name] for rank in by_rank), strict=True)]
        for name in (stock, ours, limit)
        if name in by_rank[0]
    }
    cells = [f"{statistics.median(some):.3f}" for some in taken.values()]
    cells += [""] * (3 - len(cells))
    for a, b in ((stock, ours), (ours, limit)):
        both = zip(taken.get(a, ()), taken.get(b, ()), strict=False)
        ratios = [x / y for x, y in both]
        cells.append(f"{statistics.median(ratios):.1f}" if ratios else "")
    return f"| {case} | {' | '.join(cells)} |"


def main():
    import gpu  # what ranks are to run must have another name than __main__

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gigabytes", type=int, default=4)
    parser.add_argument("--reps", type=int, default=5, help="runs of each engine, after one that warms up")
    parser.add_argument("--folder", help="where the checkpoints are written; a temporary one without")
    given = parser.parse_args()
    tensors = states.transformer(32 * given.gigabytes)
    print("| case | stock s | ckptlab s | limit s | stock / ckptlab | ckptlab / limit |")
    print("|---|---|---|---|---|---|", flush=True)
    for world, backend in ((1, "cpu:gloo,cuda:nccl"), (4, "gloo")):
        folder = tempfile.mkdtemp(prefix="ckptlab-bench-", dir=given.folder)
        try:
            with LocalRanks(world, "cuda", backend) as ranks:
                cases = [("save", gpu.saves, ()), ("load as saved", gpu.loads, (0,))]
                if world > 1:
                    cases.append(("load, rows to columns", gpu.loads, (1,)))
                for case, op, how in cases:
                    taken = ranks.run(op, tensors, folder, given.reps, *how, deadline=None)
                    print(line(f"{case}, ranks: {world}", taken), flush=True)
                taken = ranks.run(gpu.async_saves, tensors, folder, given.reps, deadline=None)
                for stock, ours, words in (
                    ("stock", "ckptlab", "stalled"),
                    ("kept", "ckptlab", "stalled, kept"),
                    ("stock first", "ckptlab first", "stalled, first"),
                    ("kept first", "ckptlab first", "stalled, first, kept"),
                    ("stock in all", "ckptlab in all", "async in all"),
                ):
                    print(line(f"{words}, ranks: {world}", taken, stock, ours), flush=True)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
