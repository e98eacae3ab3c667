"""ckptlab beside stock DCP, the floor and the limit (see engines.py), one after the other in one run.

    python tests/bench/bench.py                      every case, about 20 minutes
    python tests/bench/bench.py save-fsdp4 small     those whose names begin so
    python tests/bench/bench.py --layers 8 --reps 3  smaller and quicker

Prints a table: medians in seconds, and ratios, each the median over the repetitions of two times in one;
the last is stock's processor time in times of ckptlab's.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import ops
import states

from ckptlab.live import LocalRanks

LAYOUTS = {
    "fsdp4": (4, "4:Shard(0)"),
    "hsdp2x2": (4, "2x2:Replicate, Shard(0)"),
    "tp4": (4, "4:Shard(1)"),
    "2d": (4, "2x2:Shard(0), Shard(1)"),
    "fsdp8": (8, "8:Shard(0)"),
    "one": (1, "1:Replicate"),
}
SAVES = ["fsdp4", "hsdp2x2", "tp4", "2d", "one"]
LOADS = [
    ("fsdp4", "fsdp4"), ("hsdp2x2", "hsdp2x2"), ("tp4", "tp4"), ("2d", "2d"), ("fsdp4", "tp4"),
    ("fsdp4", "2d"), ("hsdp2x2", "fsdp4"), ("fsdp4", "fsdp8"), ("fsdp4", "one"),
]  # fmt: skip


def cases(layers, count):
    """Name and what to run, `(kind, tensors, ...)`."""
    model, small = states.transformer(layers), states.small(count)
    found = {}
    for layout in SAVES:
        found[f"save-{layout}"] = ("save", model, layout, False, "check")
        found[f"save-{layout}-fsync"] = ("save", model, layout, True, "check")
    # As stock does it: replicas are not compared.
    found["save-hsdp2x2-trust"] = ("save", model, "hsdp2x2", False, "trust")
    for saved, wanted in LOADS:
        found[f"load-{saved}-{wanted}"] = ("load", model, saved, wanted, False)
    found["cold-fsdp4-fsdp4"] = ("load", model, "fsdp4", "fsdp4", True)
    found["small-save"] = ("save", small, "fsdp4", False, "check")
    found["small-load"] = ("load", small, "fsdp4", "fsdp4", False)
    return found


def run(case, folder, reps, pools):
    """What each rank took, `{engine: [(seconds, cpu seconds)]}`, one a rank."""
    kind, tensors, layout, *rest = case
    # What the case before left to be written to the disk later is written now.
    os.sync()
    if kind == "save":
        world, words = LAYOUTS[layout]
        return pools(world).run(ops.save_case, tensors, words, folder, *rest, reps, deadline=None)
    wanted, cold = rest
    world, words = LAYOUTS[layout]
    pools(world).run(ops.prepare, tensors, words, f"{folder}/saved")
    world, words = LAYOUTS[wanted]
    return pools(world).run(ops.load_case, tensors, words, f"{folder}/saved", cold, reps, deadline=None)


def summed(by_rank):
    """Of all ranks: `{engine: ([seconds of each run], [cpu seconds of each run])}`."""
    together = {}
    for engine in by_rank[0]:
        runs = list(zip(*(rank[engine] for rank in by_rank), strict=True))
        together[engine] = (
            [max(seconds for seconds, _ in one) for one in runs],
            [sum(cpu for _, cpu in one) for one in runs],
        )
    return together


def ratio(a, b):
    """The median of the ratios, run by run."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


SIDES = ("stock", "ckptlab", "floor", "limit")
RATIOS = [
    ("stock", "ckptlab"),
    ("ckptlab", "floor"),
    ("ckptlab", "limit"),
    ("stock", "floor"),
    ("stock", "limit"),
]


def head():
    """The head of the table."""
    titles = ["case", *(f"{side} s" for side in SIDES), *(f"{a} / {b}" for a, b in RATIOS), "by CPU"]
    return f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}"


def line(name, taken):
    """One row of the table."""
    times = [f"{statistics.median(taken[side][0]):.3f}" for side in SIDES]
    ratios = [f"{ratio(taken[a][0], taken[b][0]):.2f}" for a, b in RATIOS]
    by_cpu = f"{ratio(taken['stock'][1], taken['ckptlab'][1]):.2f}"
    return f"| {' | '.join([name, *times, *ratios, by_cpu])} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("cases", nargs="*", help="names, or how they begin; all without")
    parser.add_argument("--layers", type=int, default=32, help="layers of the transformer (32 are 1 GB)")
    parser.add_argument("--count", type=int, default=5000, help="how many small tensors")
    parser.add_argument("--reps", type=int, default=5, help="runs of each engine, after one that warms up")
    parser.add_argument("--folder", help="where the checkpoints are written; a temporary one without")
    given = parser.parse_args()
    folder = given.folder or tempfile.mkdtemp(prefix="ckptlab-bench-")
    ranks = {}

    def pools(world):
        if world not in ranks:
            ranks[world] = LocalRanks(world)
        return ranks[world]

    # The host of a virtual machine gives memory when it is first touched: not while somebody is measured.
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    ops.ballast(min(free * 3 // 4, 16 << 30))
    print(head())
    try:
        for name, case in cases(given.layers, given.count).items():
            if not given.cases or any(name.startswith(wanted) for wanted in given.cases):
                taken = summed(run(case, folder, given.reps, pools))
                print(line(name, taken), flush=True)
    finally:
        for pool in ranks.values():
            pool.close()
        if not given.folder:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
