"""What ranks do in the tests of the run panel, in place of a load that is over too soon to look at."""

import time

from ckptlab.events import Event


def read_some_and_hang(context, path, layout):
    """Tell that 1,000 bytes have been read, and never end."""
    context.tell(Event(context.rank, "read", 1000, 2000, 0.1))
    time.sleep(300)
