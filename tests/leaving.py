"""A program that ends while its save is under way. It imports little, as it is started anew each time."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from unittest import mock

import torch
import torch.distributed as dist

import ckptlab
from ckptlab.storage.local import LocalFiles

_FOR_EVER = ExitStack()


@contextmanager
def slow_files(seconds):
    """Every file takes so long to create."""
    create = LocalFiles.create

    def slow(self, name, *rest):
        time.sleep(seconds)
        return create(self, name, *rest)

    with mock.patch.object(LocalFiles, "create", slow):
        yield


def leave_early():
    """The program, as its arguments say: rank world store path how."""
    rank, world, store, path, how = sys.argv[1:]
    if int(world) > 1:
        dist.init_process_group(
            "gloo",
            store=dist.FileStore(store, int(world)),
            rank=int(rank),
            world_size=int(world),
            timeout=timedelta(seconds=60),
        )
    _FOR_EVER.enter_context(slow_files(0.3 if rank == "1" else 1.5))
    state = {"w": torch.arange(10.0), "own": {rank: torch.full((3,), float(rank))}, "step": 4}
    future = ckptlab.async_save(state, path)
    print(future)
    future.add_done_callback(lambda done: print(f"finished: {done.exception()!r}"))
    if how == "destroy":
        dist.destroy_process_group()
    print("leaving")
    if how == "raise":
        raise SystemExit(3)
