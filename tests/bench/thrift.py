"""Bytes read for each byte wanted, and memory above the target's own: stock DCP beside ckptlab.

    python tests/bench/thrift.py             every load, about 3 minutes
    python tests/bench/thrift.py --layers 8  smaller and quicker

Bytes are what all ranks asked of storage: of stock as the kernel counts them (`rchar`), of ckptlab as
its report says, since a mapped file is not counted. Memory is the most that a rank's private pages
grew by while it loaded, looked at a thousand times a second.
"""

import argparse
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bench
import engines
import ops
import states
import torch.distributed as dist

from ckptlab import engine
from ckptlab.live import LocalRanks


def measure(context, tensors, layout, path):
    """Of this rank: bytes wanted, and for each engine bytes read and bytes of memory more at the peak."""
    state = engines.state_on(tensors, engines.layout_of(layout), fill=False)
    wanted = sum((v.to_local() if hasattr(v, "to_local") else v).nbytes for v in state.values())
    told = {}
    runs = {"stock": engines.stock_load(path), "ckptlab": lambda s: told.update(r=engine.load(s, path))}
    found = {}
    for name, run in runs.items():
        run(state)  # what is imported and kept for ever is not the load's
        dist.barrier()
        before = _read()
        found[name] = [_grown(lambda run=run: run(state)), _read() - before]
        dist.barrier()
    found["ckptlab"][1] = told["r"].nbytes + told["r"].header_bytes
    return wanted, found


def _grown(run):
    over, began, seen = threading.Event(), _private(), [0]

    def watch():
        while not over.is_set():
            seen.append(_private() - began)
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    run()
    over.set()
    watcher.join()
    return max(seen)


def _private():
    return next(
        int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("RssAnon")
    )


def _read():
    return next(int(line.split()[1]) for line in open("/proc/self/io") if line.startswith("rchar"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--layers", type=int, default=32, help="layers of the transformer (32 are 1 GB)")
    given = parser.parse_args()
    tensors = states.transformer(given.layers)
    print("| load | read / wanted: stock | ckptlab | memory, MB: stock | ckptlab |\n|---|---|---|---|---|")
    for saved, wanted in bench.LOADS:
        with tempfile.TemporaryDirectory(prefix="ckptlab-bench-") as folder:
            (world, words), (others, target) = bench.LAYOUTS[saved], bench.LAYOUTS[wanted]
            with LocalRanks(world) as ranks:
                ranks.run(ops.prepare, tensors, words, folder, deadline=None)
            with LocalRanks(others) as ranks:
                out = ranks.run(sys.modules["thrift"].measure, tensors, target, folder, deadline=None)
        total = sum(n for n, _ in out)
        read = [sum(found[name][1] for _, found in out) / total for name in ("stock", "ckptlab")]
        grown = [max(found[name][0] for _, found in out) / 1e6 for name in ("stock", "ckptlab")]
        print(
            f"| {saved} to {wanted} | {read[0]:.2f} | {read[1]:.3f} | {grown[0]:.0f} | {grown[1]:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    import thrift

    thrift.main()
