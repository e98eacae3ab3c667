"""What ranks do in the tests of slices and audits: save tensors of every layout and dtype, no more."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch.distributed.checkpoint as stock
from crosswise_ops import DCP, DTYPES, cut, full, grid
from seed_ops import kind_of, mesh_of, quiet
from torch.distributed.tensor import Shard, distribute_tensor


def save_grid(ctx, path, saver, layouts):
    """A tensor of every shape for each layout."""
    with quiet():
        DCP[saver].save(grid(ctx, layouts), checkpoint_id=path)


def save_dtypes(ctx, path, saver):
    """A tensor of every dtype, in tiles."""
    with quiet():
        DCP[saver].save({d: cut(ctx, full(d, (6, 5), d), "tiles") for d in DTYPES}, checkpoint_id=path)


def rows(ctx, height):
    """A few tensors in rows over all ranks, and objects."""
    mesh = mesh_of(kind_of(ctx), (ctx.world,))
    model = {
        name: distribute_tensor(full(name, shape), mesh, [Shard(0)], src_data_rank=None)
        for name, shape in (("a", (height, 16)), ("b", (height, 3, 5)), ("c", (7,)))
    }
    return {"model": model, "step": height, "plain": full("p", (4, 4))}


def save_rows(ctx, path, saver, height):
    """Those, saved."""
    with quiet():
        DCP[saver].save(rows(ctx, height), checkpoint_id=path)


class _Waits(stock.DefaultSavePlanner):
    """The marked ranks die by their own SIGKILL at their second item, once the others have written theirs."""

    def __init__(self, ctx, path, marked):
        super().__init__()
        self.ctx, self.path, self.marked, self.seen = ctx, Path(path), marked, 0

    def resolve_data(self, item):
        if self.ctx.rank in self.marked and self.seen:
            others = [r for r in range(self.ctx.world) if r not in self.marked]
            while not all((self.path / f"written{r}").exists() for r in others):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        self.seen += 1
        return super().resolve_data(item)


class _Tells(stock.FileSystemWriter):
    """Says, beside the checkpoint, that a rank's file is whole."""

    told = None

    def write_data(self, plan, planner):
        written = super().write_data(plan, planner)
        written.wait()
        self.told.touch()
        return written


def die_saving_rows(ctx, path, height, marked):
    """Stock saves over what is there; the marked ranks die when the others have written their files."""
    beside = Path(f"{path}-told")
    beside.mkdir(exist_ok=True)
    writer = _Tells(path)
    writer.told = beside / f"written{ctx.rank}"
    with quiet():
        stock.save(rows(ctx, height), storage_writer=writer, planner=_Waits(ctx, beside, marked))
