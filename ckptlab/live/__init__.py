"""Real ranks, started from a notebook and driven from it.

`ranks` is the interface, `local` and `cluster` are the two engines behind it. `rank` is the program
of one rank, the same on both, and `group` its process group, the only module that touches torch.
`gang` holds the processes, `node` does so on a cluster's engine, `wire` is what crosses between driver
and rank, `roll` and `stacks` say how a run ended and who is to blame.

The notebook's own process never joins a process group. No pictures in here.
"""

from ckptlab.live.cluster import ClusterRanks
from ckptlab.live.gpus import Place, attached_gpus, places
from ckptlab.live.local import LocalRanks
from ckptlab.live.ranks import Context, Ranks

__all__ = ["ClusterRanks", "Context", "LocalRanks", "Place", "Ranks", "attached_gpus", "places"]
