"""How fast the explorer is at a size that no laptop can save; from metadata alone, without weights.

    python tests/bench/explorer.py [--stock] [--dense] [70b-64 70b-256 405b-1024]

Opening: a stock `.metadata` of FSDP with Adam, read, and the first view of it made, each in a process of
its own; stock's own reader beside it (`--stock` at 1,024 ranks, too: it takes 7 GB); then with our sidecar.
What if: one tensor redrawn, and the whole model's forecast, for one rank and for all. Processor seconds;
memory is what the process holds beyond its imports, once all else is let go. `--dense` adds targets where
each rank reads of all.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from spelled import stock_metadata
from states import llama

MODELS = {
    "70b-64": ((80, 8192, 28672), 64),
    "70b-256": ((80, 8192, 28672), 256),
    "405b-1024": ((126, 16384, 53248), 1024),
}
TARGETS = [
    ("FSDP", "1024", "Shard(0)"),
    ("FSDP + TP", "dp=128, tp=8", "StridedShard(0, split_factor=8), Shard(0)"),
    ("HSDP", "replicate=16, shard=64", "Replicate, Shard(0)"),
    ("FSDP", "16384", "Shard(0)"),
    ("FSDP + TP", "dp=2048, tp=8", "StridedShard(0, split_factor=8), Shard(0)"),
    ("HSDP", "replicate=64, shard=256", "Replicate, Shard(0)"),
]
DENSE = [("TP", "1024", "Shard(1)"), ("TP", "16384", "Shard(1)")]


def memory():
    """MB that this process has now, and has had at most."""
    now = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return now / 2**20, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def child(what, path):
    """One measurement: seconds, MB kept, MB at most."""
    if what == "stock":
        import pickle

        import torch.distributed.checkpoint.filesystem
        import torch.distributed.checkpoint.metadata  # noqa: F401

        before, began = memory()[0], time.process_time()
        with (Path(path) / ".metadata").open("rb") as file:
            kept = pickle.load(file)
    else:
        from ckptlab.explorer.keys import Keys
        from ckptlab.explorer.session import Session
        from ckptlab.storage import open_checkpoint

        before, began = memory()[0], time.process_time()
        kept = open_checkpoint(path).metadata
        if what == "view":
            session = Session(kept)
            kept = (session, Keys(kept).lines(0, 30), session.stored_scene())
    seconds = time.process_time() - began
    now, most = memory()
    del kept
    print(seconds, now - before, most)


def measured(what, path):
    """The quickest of three, as a child process saw it (of one, where it is long)."""
    times = 1 if what == "stock" else 3
    runs = []
    for _ in range(times):
        done = subprocess.run(
            [sys.executable, __file__, "--child", what, path], capture_output=True, text=True, check=True
        )
        runs.append([float(word) for word in done.stdout.split()])
    return min(runs)


def opening(name, with_stock):
    args, ranks = MODELS[name]
    with tempfile.TemporaryDirectory() as folder:
        data = stock_metadata(llama(*args), ranks)
        (Path(folder) / ".metadata").write_bytes(data)
        del data
        stock = measured("stock", folder) if with_stock else None
        bare, view = measured("open", folder), measured("view", folder)
        sidecar_seconds, sidecar_view = beside(folder)
    theirs = f"{stock[0]:.1f} | {stock[1]:,.0f}" if stock else "- | -"
    ratio = f"{stock[0] / view[0]:.1f}" if stock else "-"
    print(
        f"| {name} | {theirs} | {bare[0]:.2f} | {view[0]:.2f} | {ratio} | {view[1]:,.0f} | {view[2]:,.0f} | "
        f"{sidecar_seconds * 1000:.0f} | {sidecar_view * 1000:.0f} |",
        flush=True,
    )


def beside(folder):
    """Seconds to open, and to open and look, with our sidecar beside the same metadata."""
    from dataclasses import replace

    from ckptlab.storage import open_checkpoint
    from ckptlab.storage.dcp_write import write_metadata
    from ckptlab.storage.sidecar import sidecar_file, write_sidecar

    found = replace(open_checkpoint(folder).metadata, save_id="0f" * 16)
    record = write_metadata(found, folder)
    (Path(folder) / ".metadata").write_bytes(record)
    (Path(folder) / sidecar_file(found.save_id)).write_bytes(write_sidecar(found, record))
    del found, record
    return measured("open", folder)[0], measured("view", folder)[0]


def seconds(work, times=3):
    taken = []
    for _ in range(times):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return min(taken)


def what_if(dense):
    from ckptlab.explorer.whatif import tensor_scene
    from ckptlab.layout import Layout
    from ckptlab.layout.layout import _shards
    from ckptlab.plan.forecast import forecast
    from ckptlab.plan.holding import holdings
    from ckptlab.plan.metadata_of import metadata_of

    tensors = llama(*MODELS["405b-1024"][0])
    saved = metadata_of(tensors, Layout.parse("1024", "Shard(0)"))
    for name, mesh, placements in TARGETS + (DENSE if dense else []):
        layout = Layout.parse(mesh, placements)
        world = layout.mesh.size

        def fresh(ranks=None, layout=layout, world=world):
            _shards.cache_clear()
            return forecast(saved, holdings(tensors, layout, ranks), world)

        drawn = seconds(lambda layout=layout: tensor_scene(saved, "model.layers.7.gate", layout))
        one = seconds(lambda world=world: fresh([world // 3]), 5)
        every = seconds(fresh, 1 if dense else 3)
        print(f"| {name} | {world:,} | {drawn * 1000:.0f} | {one * 1000:.0f} | {every:.2f} |", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--stock", action="store_true")
    parser.add_argument("--dense", action="store_true")
    parser.add_argument("--child", nargs=2)
    asked = parser.parse_args()
    if asked.child:
        child(*asked.child)
        return
    print(
        "| saved | stock reads, s | keeps, MB | we open, s | and show, s | stock / ours | kept, MB "
        "| peak, MB | with our sidecar: open, ms | and show, ms |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    print("| goal | | | | <= 15 (405B) | >= 5 | 250 (405B: 300) | 4,000 (405B) | 20 | |")
    for name in asked.models:
        opening(name, asked.stock or name != "405b-1024")
    print("\n| target of 405B | ranks | one tensor redrawn, ms | forecast: one rank, ms | every rank, s |")
    print("|---|---|---|---|---|")
    print("| goal | | 100 | 20 | 1,024: 1; 16,384: 10 |")
    what_if(asked.dense)


if __name__ == "__main__":
    main()
