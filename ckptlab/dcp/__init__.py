"""The public names of `torch.distributed.checkpoint`, on ckptlab's engine.

`import ckptlab.dcp as dist_cp` in place of `import torch.distributed.checkpoint as dist_cp`.
A thin face: options that the engine cannot honour are refused, never ignored. It makes no
plan and opens no file itself.
"""

from __future__ import annotations

import os
from typing import Any

from ckptlab import engine
from ckptlab.dcp.metadata import Metadata, stock_metadata
from ckptlab.dcp.optimizer import load_sharded_optimizer_state_dict
from ckptlab.dcp.storage import DefaultLoadPlanner, DefaultSavePlanner, FileSystemReader, FileSystemWriter
from ckptlab.errors import CheckpointError
from ckptlab.storage import open_checkpoint

__all__ = [
    "DefaultLoadPlanner",
    "DefaultSavePlanner",
    "FileSystemReader",
    "FileSystemWriter",
    "load",
    "load_sharded_optimizer_state_dict",
    "load_state_dict",
    "save",
    "save_state_dict",
]

Id = str | os.PathLike[str] | None


def save(
    state_dict: dict[str, Any],
    *,
    checkpoint_id: Id = None,
    storage_writer: FileSystemWriter | None = None,
    planner: DefaultSavePlanner | None = None,
    process_group: Any = None,
    no_dist: bool = False,
) -> Metadata:
    """As `torch.distributed.checkpoint.save`."""
    writer = storage_writer or FileSystemWriter(_path(checkpoint_id))
    path = os.fspath(checkpoint_id) if checkpoint_id is not None else writer.path
    engine.save(
        state_dict,
        path,
        process_group=process_group,
        no_dist=no_dist,
        overwrite=writer.overwrite,
        sync=writer.sync_files,
    )
    return stock_metadata(open_checkpoint(path).metadata, path)


def load(
    state_dict: dict[str, Any],
    *,
    checkpoint_id: Id = None,
    storage_reader: FileSystemReader | None = None,
    planner: DefaultLoadPlanner | None = None,
    process_group: Any = None,
    no_dist: bool = False,
) -> None:
    """As `torch.distributed.checkpoint.load`, in place; warns where it casts to the target's dtype."""
    reader = storage_reader or FileSystemReader(_path(checkpoint_id))
    path = os.fspath(checkpoint_id) if checkpoint_id is not None else reader.path
    engine.load(
        state_dict,
        path,
        process_group=process_group,
        no_dist=no_dist,
        strict=not (planner is not None and planner.allow_partial_load),
        dtype="cast",
    )


def save_state_dict(
    state_dict: dict[str, Any],
    storage_writer: FileSystemWriter,
    process_group: Any = None,
    coordinator_rank: int = 0,
    no_dist: bool = False,
    planner: DefaultSavePlanner | None = None,
) -> Metadata:
    """The older name of `save`."""
    _only_coordinator(coordinator_rank)
    return save(
        state_dict,
        storage_writer=storage_writer,
        planner=planner,
        process_group=process_group,
        no_dist=no_dist,
    )


def load_state_dict(
    state_dict: dict[str, Any],
    storage_reader: FileSystemReader,
    process_group: Any = None,
    coordinator_rank: int = 0,
    no_dist: bool = False,
    planner: DefaultLoadPlanner | None = None,
) -> None:
    """The older name of `load`."""
    _only_coordinator(coordinator_rank)
    load(
        state_dict,
        storage_reader=storage_reader,
        planner=planner,
        process_group=process_group,
        no_dist=no_dist,
    )


def _path(checkpoint_id: Id) -> str:
    if checkpoint_id is None:
        raise CheckpointError("where? give checkpoint_id, or a storage_writer or storage_reader with a path")
    return os.fspath(checkpoint_id)


def _only_coordinator(rank: int) -> None:
    if rank:
        raise CheckpointError(
            f"coordinator_rank={rank}: ckptlab publishes from rank 0 of the group; leave it 0"
        )
