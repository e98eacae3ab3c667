"""What the ranks of a benchmark do: time every engine in turn, several times, on the same state."""

import gc
import mmap
import os
import time

import engines
import torch.distributed as dist


def save_case(context, tensors, layout, folder, sync, replicas, reps):
    """Seconds of each rank for each save, `{engine: [seconds, cpu seconds]}`, in the order of the runs."""
    layout = engines.layout_of(layout)
    state = engines.state_on(tensors, layout, fill=True)
    paths = {name: f"{folder}/{name}" for name in ("stock", "ckptlab", "floor", "limit")}
    for path in paths.values():
        engines.emptied(path)
    engines.our_save(paths["ckptlab"], False)(state)
    runs = {
        "stock": engines.stock_save(paths["stock"], sync),
        "ckptlab": engines.our_save(paths["ckptlab"], sync, replicas),
        "floor": engines.save_floor(state, paths["ckptlab"], paths["floor"], sync, replicas),
        "limit": engines.save_limit(state, paths["ckptlab"], paths["limit"], sync),
    }

    def fresh(name):
        engines.emptied(paths[name])

    return _interleaved(runs, state, reps, fresh, size(state))


def prepare(context, tensors, layout, path):
    """A checkpoint to load."""
    engines.emptied(path)
    engines.our_save(path, True)(engines.state_on(tensors, engines.layout_of(layout), fill=True))


def load_case(context, tensors, layout, path, cold, reps):
    """As `save_case`, for loads of one checkpoint into zeros."""
    state = engines.state_on(tensors, engines.layout_of(layout), fill=False)
    runs = {
        "stock": engines.stock_load(path),
        "ckptlab": engines.our_load(path),
        "floor": engines.load_floor(state, path),
        "limit": engines.load_limit(state, path),
    }

    def fresh(_):
        if cold and context.rank == 0:
            _forget(path)

    return _interleaved(runs, state, reps, fresh, size(state))


def _interleaved(runs, state, reps, fresh, nbytes):
    taken = {name: [] for name in runs}
    names = list(runs)
    for rep in range(reps + 1):
        for name in names[rep % len(names) :] + names[: rep % len(names)]:
            fresh(name)
            ballast(nbytes * 13 // 10)
            gc.collect()
            dist.barrier()
            cpu, began = time.process_time(), time.perf_counter()
            runs[name](state)
            dist.barrier()
            if rep:  # the first round warms up
                taken[name].append((time.perf_counter() - began, time.process_time() - cpu))
    return taken


def ballast(nbytes):
    """Touch and free memory, so that no engine pays for pages that the host took back meanwhile."""
    if nbytes:
        block = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        block.madvise(mmap.MADV_HUGEPAGE)
        for at in range(0, nbytes, 4096):
            block[at] = 1
        block.close()


def _forget(path):
    for entry in os.scandir(path):
        file = os.open(entry.path, os.O_RDONLY)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def size(state):
    return sum((v.to_local() if hasattr(v, "to_local") else v).nbytes for v in state.values())
