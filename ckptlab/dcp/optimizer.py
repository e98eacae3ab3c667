"""`torch.distributed.checkpoint.optimizer`: optimizer state loaded under the model's own sharding.

Stock DCP spreads it over all ranks in rows whatever the model's mesh, and on an HSDP mesh
hands back zeros and misplaced rows (pytorch#145978). Here every state tensor is sharded as
its parameter is. It makes no plan and opens no file itself.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch.distributed.checkpoint import optimizer as torchs
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.planner import LoadPlanner
from torch.distributed.checkpoint.storage import StorageReader

from ckptlab import engine
from ckptlab.dcp.api import told_as_stock
from ckptlab.dcp.default_planner import DefaultLoadPlanner
from ckptlab.dcp.route import engine_loads
from ckptlab.dcp.torchs import rest_of
from ckptlab.engine.made import sharded_like
from ckptlab.engine.state import unflatten
from ckptlab.errors import MismatchError
from ckptlab.metadata import Metadata
from ckptlab.storage import open_checkpoint

__all__ = ["load_sharded_optimizer_state_dict"]

__getattr__ = rest_of(__name__)


def load_sharded_optimizer_state_dict(
    model_state_dict: dict[str, Any],
    optimizer_key: str,
    storage_reader: StorageReader,
    planner: LoadPlanner | None = None,
) -> dict[str, Any]:
    """The optimizer state stored under `optimizer_key`, as a nested dict `{optimizer_key: ...}`.

    State of the parameter `p` (path `optimizer_key, "state", p, ...`) that has the shape of
    `model_state_dict[p]` is sharded as that is; all other state is whole on every rank. For
    `FSDP.optim_state_dict_to_load`. Every rank calls it. Raises `CheckpointException`, also if nothing
    is stored under the key. A storage or a planner that does something itself is torch's own work.
    """
    with told_as_stock():
        if engine_loads(storage_reader, planner):
            assert isinstance(storage_reader, FileSystemReader)
            partly = bool(getattr(planner, "allow_partial_load", False))
            return _load(model_state_dict, optimizer_key, os.fspath(storage_reader.path), partly)
        return torchs.load_sharded_optimizer_state_dict(
            model_state_dict, optimizer_key, storage_reader, planner or DefaultLoadPlanner()
        )


def _load(model: dict[str, Any], key: str, path: str, partly: bool) -> dict[str, Any]:
    metadata = open_checkpoint(path).metadata
    wanted = [fqn for fqn, steps in metadata.paths.items() if steps[0] == key]
    if not wanted:
        keys = sorted({str(steps[0]) for steps in metadata.paths.values()})
        raise MismatchError(f"{path} has no optimizer state under {key!r}; its keys are {keys}", [key])
    nested = unflatten({fqn: _empty(metadata, fqn, model) for fqn in wanted}, metadata.paths)
    engine.load(nested, path, strict=not partly)
    return nested


def _empty(metadata: Metadata, fqn: str, model: dict[str, Any]) -> torch.Tensor | None:
    """What the state under `fqn` is loaded into; None for an object."""
    if fqn not in metadata.rows:
        return None
    stored = metadata.tensors[metadata.rows[fqn]]
    path = metadata.paths[fqn]
    parameter = model.get(str(path[2])) if len(path) > 3 else None
    return sharded_like(parameter, stored.shape, getattr(torch, stored.dtype))
