"""ckptlab: see any sharded PyTorch checkpoint, foretell a load, run it on real ranks.

Shards live on ranks, chunks live in files, and a plan carries boxes from one to the other.

    save, load                 a state_dict on any mesh, from and to DCP files
    async_save                 the same while training goes on
    open_checkpoint            what is in a directory, without torch
    explore                    the same in a notebook, with a live reshard-and-load
    diagnose                   why a checkpoint does not load into a target, and what mends it
    compare                    two checkpoints, key by key, element by element
    Mesh, Layout, Shard, Replicate
                               where every element of every tensor lives
    CheckpointError            what every error of ckptlab is
    dcp                        the names of torch.distributed.checkpoint, on this engine

The rooms, each importing only those before it: `errors`, `events`; `layout` (geometry);
`metadata` (what a checkpoint says of itself); `plan` (who moves which box); `storage` (bytes,
files, formats); `engine` (torch tensors and ranks); `explorer` (scenes, as data); `doctor` (both
sides of a load, compared); `live` (real ranks); `widgets` (how it looks); `dcp`; `lessons` (the
notebooks' puzzles); `cli`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ckptlab.doctor import diagnose
    from ckptlab.engine import async_save, load, save
    from ckptlab.errors import CheckpointError
    from ckptlab.explorer.compare import compare
    from ckptlab.layout import Layout, Mesh, Replicate, Shard
    from ckptlab.storage import open_checkpoint
    from ckptlab.widgets.explore import explore

__all__ = [
    "CheckpointError",
    "Layout",
    "Mesh",
    "Replicate",
    "Shard",
    "async_save",
    "compare",
    "diagnose",
    "explore",
    "load",
    "open_checkpoint",
    "save",
]

_HOMES = {
    "CheckpointError": "ckptlab.errors",
    "async_save": "ckptlab.engine",
    "compare": "ckptlab.explorer.compare",
    "diagnose": "ckptlab.doctor",
    "explore": "ckptlab.widgets.explore",
    "load": "ckptlab.engine",
    "open_checkpoint": "ckptlab.storage",
    "save": "ckptlab.engine",
}


def __getattr__(name: str) -> Any:
    """Load a name when it is first asked for: `import ckptlab` costs nothing, and no torch."""
    if name not in __all__:
        raise AttributeError(f"module 'ckptlab' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOMES.get(name, "ckptlab.layout")), name)


def __dir__() -> list[str]:
    return __all__
