"""Ops that the tests of live ranks run; importable by the ranks, torch only inside."""

from __future__ import annotations

import os
import signal
import time

from ckptlab.errors import MismatchError


def whoami(context, word="hi"):
    return context.rank, context.world, context.device, context.backend, word


def total(context):
    import torch
    import torch.distributed as dist

    value = torch.full((3,), float(context.rank + 1), device=context.device)
    dist.all_reduce(value)
    return value.tolist()


def redistribute(context):
    """A DTensor from rows to columns, which on gloo falls back from alltoall with a note."""
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh(context.device.partition(":")[0], (context.world,))
    whole = torch.arange(64.0).reshape(8, 8)
    columns = distribute_tensor(whole, mesh, [Shard(0)]).redistribute(mesh, [Shard(1)])
    return columns.to_local().sum().item()


def memory_of_gpus(context):
    """Where a new tensor of this rank lies, and what is in its part of one that rank 0 scattered."""
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cuda", (context.world,))
    whole = torch.arange(float(context.world), device="cuda") - 100 * context.rank
    mine = distribute_tensor(whole, mesh, [Shard(0)]).to_local()
    return str(mine.device), mine.item()


def count_up(context, n):
    for i in range(n):
        context.tell((context.rank, i))
    return n


def raises_on(context, rank):
    import torch.distributed as dist

    if context.rank == rank:
        raise ZeroDivisionError("the cause")
    dist.barrier()


def leaves_neighbours(context, rank, folder):
    """The rank leaves the group and fails only when all its neighbours have complained of that."""
    import torch.distributed as dist

    if context.rank == rank:
        dist.destroy_process_group()
        until = time.monotonic() + 30
        while len(list(folder.iterdir())) < context.world - 1 and time.monotonic() < until:
            time.sleep(0.01)
        raise ZeroDivisionError("the cause")
    try:
        dist.barrier()
    except RuntimeError:
        (folder / f"complained-{context.rank}").touch()
        raise


def mismatch(context):
    raise MismatchError("they do not fit", ["a", "b"])


def stuck(context, rank):
    """All ranks but one wait in a collective for the one that sleeps."""
    import torch.distributed as dist

    if context.rank == rank:
        context.tell("stuck")
        oversleep()
    dist.barrier()


def oversleep():
    time.sleep(300)  # here it hangs


def dies(context, rank, number=signal.SIGKILL):
    import torch.distributed as dist

    if context.rank == rank:
        time.sleep(0.1)
        os.kill(os.getpid(), number)
    dist.barrier()


def leaves(context, rank):
    import torch.distributed as dist

    if context.rank == rank:
        os._exit(3)
    dist.barrier()


def unsendable(context):
    return lambda: None


def slow_tell(context, seconds):
    context.tell("begun")
    time.sleep(seconds)
    return context.rank


def warm_modules(context):
    import sys

    return "torch._dynamo" in sys.modules, os.getcwd(), sys.path


def environment(context, *names):
    return [os.environ.get(name) for name in names]


def stuck_reading(context, rank):
    from ckptlab.events import Event

    context.tell(Event(context.rank, "read", 0, 10, 0.0))
    stuck(context, rank)
