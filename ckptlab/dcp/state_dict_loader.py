"""`torch.distributed.checkpoint.state_dict_loader`: load, through the engine wherever it can.

A storage of somebody else's, or a planner that does something itself, is driven by torch's own
protocol. It plans nothing and opens no file itself.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint import default_planner as stock_planner
from torch.distributed.checkpoint import state_dict_loader as torchs
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.planner import LoadPlanner
from torch.distributed.checkpoint.stateful import Stateful
from torch.distributed.checkpoint.storage import StorageReader

from ckptlab import engine
from ckptlab.dcp.api import told_as_stock
from ckptlab.dcp.default_planner import DefaultLoadPlanner, _EmptyStateDictLoadPlanner
from ckptlab.dcp.records import later
from ckptlab.dcp.route import engine_loads, reader_of
from ckptlab.dcp.torchs import in_old_order_too, rest_of
from ckptlab.dcp.transform_planner import TransformPlanner
from ckptlab.errors import CheckpointError
from ckptlab.plan.check import Mismatch
from ckptlab.storage import open_checkpoint

__all__ = ["load", "load_state_dict"]

__getattr__ = rest_of(__name__)


@in_old_order_too
def load(
    state_dict: dict[str, Any],
    *,
    checkpoint_id: str | os.PathLike[str] | None = None,
    storage_reader: StorageReader | None = None,
    planner: LoadPlanner | None = None,
    process_group: dist.ProcessGroup | None = None,
    no_dist: bool = False,
) -> None:
    """As `torch.distributed.checkpoint.load`: in place, on every rank of the group.

    Elements are cast to the target's dtype, with a warning that measures what a narrower one lost.
    Raises `CheckpointException` that lists every mismatch, before anything is loaded; `StorageError`
    if nothing says where.
    """
    reader = reader_of(storage_reader, checkpoint_id)
    with told_as_stock():
        if engine_loads(reader, planner) and _through_engine(
            state_dict, reader, planner, process_group, no_dist
        ):
            return
        torchs.load(
            state_dict,
            storage_reader=reader,
            planner=planner or DefaultLoadPlanner(),
            process_group=process_group,
            no_dist=no_dist,
        )


def load_state_dict(
    state_dict: dict[str, Any],
    storage_reader: StorageReader,
    process_group: dist.ProcessGroup | None = None,
    coordinator_rank: int = 0,
    no_dist: bool = False,
    planner: LoadPlanner | None = None,
) -> None:
    """The older name of `load`."""
    storage_reader.reset()
    _load_state_dict(state_dict, storage_reader, process_group, coordinator_rank, no_dist, planner)


def _load_state_dict(
    state_dict: dict[str, Any],
    storage_reader: StorageReader,
    process_group: dist.ProcessGroup | None = None,
    coordinator_rank: int = 0,
    no_dist: bool = False,
    planner: LoadPlanner | None = None,
) -> None:
    alone = no_dist or not (dist.is_available() and dist.is_initialized())
    with told_as_stock():
        # Every rank of the engine reads for itself, so there is nothing to coordinate.
        if engine_loads(storage_reader, planner) and _through_engine(
            state_dict, storage_reader, planner, process_group, no_dist
        ):
            return
        torchs._load_state_dict(
            state_dict,
            storage_reader,
            process_group,
            coordinator_rank,
            alone,
            planner or DefaultLoadPlanner(),
        )


def _load_state_dict_from_keys(
    keys: set[str] | str | None = None,
    *,
    checkpoint_id: str | os.PathLike[str] | None = None,
    storage_reader: StorageReader | None = None,
    process_group: dist.ProcessGroup | None = None,
) -> dict[str, Any]:
    """All that is stored, or what is stored under `keys`, whole on every rank."""
    state_dict: dict[str, Any] = {}
    wanted = {keys} if isinstance(keys, str) else keys
    reader = reader_of(storage_reader, checkpoint_id)
    _load_state_dict(
        state_dict, reader, process_group=process_group, planner=_EmptyStateDictLoadPlanner(keys=wanted)
    )
    return state_dict


def _through_engine(
    state_dict: dict[str, Any],
    reader: StorageReader,
    planner: LoadPlanner | None,
    process_group: dist.ProcessGroup | None,
    no_dist: bool,
) -> bool:
    """Load by the engine; False if it refused, loading nothing, what torch's own rules allow."""
    assert isinstance(reader, FileSystemReader)
    # What a `Stateful` does for its state may be a collective: the same order on every rank.
    ordered = {key: state_dict[key] for key in sorted(state_dict, key=str)}
    transform = planner.transform if isinstance(planner, TransformPlanner) else None
    try:
        report = engine.load(
            ordered,
            reader.path,
            process_group=process_group,
            no_dist=no_dist,
            strict=not getattr(planner, "allow_partial_load", False),
            transform=transform,
            dtype="narrow" if transform is None else "exact",
        )
    except CheckpointError as error:
        if not _torchs_rules_allow(error, reader):
            raise
        return False
    for key, value in ordered.items():
        # A `Stateful` has its state already. Asking a tensor for a protocol's methods would take long.
        if isinstance(value, torch.Tensor | Mapping) or not isinstance(value, Stateful):
            state_dict[key] = value
    if isinstance(planner, stock_planner.DefaultLoadPlanner):
        # Whoever looks at it afterwards finds what torch's own steps would have told it.
        planner.metadata = later(report.metadata, report.path)
        planner.is_coordinator = report.rank == 0
    return True


def _torchs_rules_allow(error: CheckpointError, reader: FileSystemReader) -> bool:
    """Whether what the engine refused, before it loaded anything, is what torch lets pass.

    An object takes the place of whatever the target has there; before 2.4 torch stored a dict or list
    of plain values as one object under the key of the whole; and chunks may be stored through a
    transform, which the reader's extensions undo.
    """
    found = [p for p in error.problems if isinstance(p, Mismatch)]
    if not found:
        return "transform" in str(error) and _has_transforms(reader)
    objects = open_checkpoint(reader.path).metadata.objects

    def allowed(it: Mismatch) -> bool:
        if it.kind == "missing":
            parts = it.fqn.split(".")
            return any(".".join(parts[:n]) in objects for n in range(1, len(parts)))
        return it.kind == "type" and it.fqn in objects

    return all(map(allowed, found))


def _has_transforms(reader: FileSystemReader) -> bool:
    places = reader.read_metadata().storage_data
    return any(getattr(place, "transform_descriptors", None) for place in places.values())
