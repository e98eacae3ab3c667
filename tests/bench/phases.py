"""Where a rank's processor time goes in a save or a load, beside the limit's.

    python tests/bench/phases.py load fsdp4          as it was saved
    python tests/bench/phases.py load fsdp4 tp4      resharded
    python tests/bench/phases.py save hsdp2x2 --small 5000

Milliseconds of processor time of the median rank (medians of 9): each phase, within it the calls that move
bytes and take crcs, what is left (the collectives and their threads, for the most part), and all of it.
"""

import argparse
import contextlib
import gc
import os
import statistics
import sys
import tempfile
import time
import types
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bench
import engines
import ops
import states
import torch.distributed as dist

from ckptlab import engine
from ckptlab.engine import ferry, writing
from ckptlab.events import Trace
from ckptlab.live import LocalRanks
from ckptlab.storage import local

REPS = 9


def load(context, tensors, layout, path):
    """Milliseconds by name, of this rank."""
    state = engines.state_on(tensors, engines.layout_of(layout), fill=False)
    limit = engines.load_limit(state, path)
    return _measured(lambda: engine.load(state, path), lambda: limit(state), ops.size(state))


def save(context, tensors, layout, path):
    """Milliseconds by name, of this rank."""
    state = engines.state_on(tensors, engines.layout_of(layout), fill=True)
    ours, other = f"{path}/ckptlab", f"{path}/limit"
    engines.emptied(other)
    engines.emptied(ours)
    engine.save(state, ours, sync=False)
    limit = engines.save_limit(state, ours, other, False)

    def run():
        engine.save(state, ours, sync=False)

    def fresh():
        engines.emptied(ours)

    return _measured(run, lambda: limit(state), ops.size(state), fresh)


def _measured(run, limit, nbytes, fresh=lambda: None):
    spent = {}
    found = []
    with _watched(spent):
        for rep in range(REPS + 2):
            fresh()
            ops.ballast(nbytes * 13 // 10)
            gc.collect()
            dist.barrier()
            spent.clear()
            before = time.process_time()
            run()
            spent["all"] = time.process_time() - before
            dist.barrier()
            kept = dict(spent)
            ops.ballast(nbytes * 13 // 10)
            dist.barrier()
            before = time.process_time()
            limit()
            kept["limit"] = time.process_time() - before
            dist.barrier()
            if rep > 1:
                found.append(kept)
    return {name: 1000 * statistics.median(one.get(name, 0) for one in found) for name in found[-1]}


@contextlib.contextmanager
def _watched(spent):
    """Add up this thread's time in each phase, in `preadv` and `pwritev`, and in crcs."""

    def timed(name, call):
        def wrapped(*args):
            before = time.thread_time()
            try:
                return call(*args)
            finally:
                spent[name] = spent.get(name, 0) + time.thread_time() - before

        return wrapped

    real, crc = Trace.phase, local.crc32

    @contextlib.contextmanager
    def phase(self, name, total=0):
        before = time.thread_time()
        with real(self, name, total):
            yield
        spent[name] = spent.get(name, 0) + time.thread_time() - before

    calls = types.SimpleNamespace(**{name: getattr(os, name) for name in dir(os) if name[0] != "_"})
    calls.preadv = timed("- bytes", os.preadv)
    calls.pwritev = timed("- bytes", os.pwritev)
    Trace.phase, local.os = phase, calls
    local.crc32 = writing.crc32 = ferry.crc32 = timed("- crcs", crc)
    try:
        yield
    finally:
        Trace.phase, local.os = real, os
        local.crc32 = writing.crc32 = ferry.crc32 = crc


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["save", "load"])
    parser.add_argument("layout", choices=bench.LAYOUTS)
    parser.add_argument("target", nargs="?", choices=bench.LAYOUTS)
    parser.add_argument("--layers", type=int, default=32, help="layers of the transformer (32 are 1 GB)")
    parser.add_argument("--small", type=int, default=0, help="so many tensors of 4 KB a rank instead")
    given = parser.parse_args()
    tensors = states.small(given.small) if given.small else states.transformer(given.layers)
    (world, words), (others, target) = (
        bench.LAYOUTS[given.layout],
        bench.LAYOUTS[given.target or given.layout],
    )
    own = sys.modules["phases"]
    with tempfile.TemporaryDirectory(prefix="ckptlab-bench-") as folder:
        with LocalRanks(world) as ranks:
            if given.what == "save":
                told = ranks.run(own.save, tensors, words, folder, deadline=None)
            else:
                ranks.run(ops.prepare, tensors, words, folder, deadline=None)
        if given.what == "load":
            with LocalRanks(others) as ranks:
                told = ranks.run(own.load, tensors, target, folder, deadline=None)
    spent = {name: statistics.median(one.get(name, 0) for one in told) for name in told[-1]}
    phases = ("metadata", "plan", "read", "write", "commit")
    spent["left"] = spent["all"] - sum(spent.get(name, 0) for name in phases)
    shown = [*phases, "- bytes", "- crcs", "left", "all", "limit"]
    print("  ".join(f"{name} {spent[name]:.1f}" for name in shown if name in spent), "ms")


if __name__ == "__main__":
    import phases

    phases.main()
