"""What ranks do in the tests of the run panel, in place of a load that is over too soon to look at."""

import time

from ckptlab.events import Event


def read_some_and_hang(context, path, layout, verify):
    """Tell that 1,000 bytes have been read, and never end."""
    context.tell(Event(context.rank, "read", 1000, 2000, 0.1))
    time.sleep(300)


def one_hangs(context, path, layout, verify):
    """Rank 2 sleeps where the others wait for it."""
    import torch.distributed as dist

    context.tell(Event(context.rank, "read", 1000, 2000, 0.1))
    if context.rank == 2:
        oversleep()
    dist.barrier()


def oversleep():
    time.sleep(300)  # here it hangs
