"""Optimizer state loaded under the model's own sharding.

Stock DCP spreads it over all ranks in rows whatever the model's mesh, and on an HSDP mesh
hands back zeros and misplaced rows (pytorch#145978). Here every state tensor is sharded as
its parameter is. It makes no plan and opens no file itself.
"""

from __future__ import annotations

from typing import Any

import torch

from ckptlab import engine
from ckptlab.dcp.storage import DefaultLoadPlanner, FileSystemReader
from ckptlab.engine.state import sharded_like, unflatten
from ckptlab.errors import MismatchError
from ckptlab.metadata import Metadata
from ckptlab.storage import open_checkpoint


def load_sharded_optimizer_state_dict(
    model_state_dict: dict[str, Any],
    optimizer_key: str,
    storage_reader: FileSystemReader,
    planner: DefaultLoadPlanner | None = None,
) -> dict[str, Any]:
    """The optimizer state stored under `optimizer_key`, as a nested dict `{optimizer_key: ...}`.

    State of the parameter `p` (path `optimizer_key, "state", p, ...`) that has the shape of
    `model_state_dict[p]` is sharded as that is; all other state is whole on every rank. For
    `FSDP.optim_state_dict_to_load`. Every rank calls it. Raises `MismatchError` if nothing is
    stored under the key.
    """
    metadata = open_checkpoint(storage_reader.path).metadata
    wanted = [fqn for fqn, path in metadata.paths.items() if path[0] == optimizer_key]
    if not wanted:
        keys = sorted({str(path[0]) for path in metadata.paths.values()})
        raise MismatchError(
            f"{storage_reader.path} has no optimizer state under {optimizer_key!r}; its keys are {keys}",
            [optimizer_key],
        )
    state = {fqn: _empty(metadata, fqn, model_state_dict) for fqn in wanted}
    nested = unflatten(state, metadata.paths)
    engine.load(nested, storage_reader.path, strict=not (planner is not None and planner.allow_partial_load))
    return nested


def _empty(metadata: Metadata, fqn: str, model: dict[str, Any]) -> torch.Tensor | None:
    """What the state under `fqn` is loaded into; None for an object."""
    if fqn not in metadata.rows:
        return None
    stored = metadata.tensors[metadata.rows[fqn]]
    path = metadata.paths[fqn]
    parameter = model.get(str(path[2])) if len(path) > 3 else None
    return sharded_like(parameter, stored.shape, getattr(torch, stored.dtype))
