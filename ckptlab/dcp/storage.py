"""Stock DCP's readers, writers and planners, as far as they only say where and how.

Each keeps its options; whichever the engine cannot honour is refused at once. They move no
bytes.
"""

from __future__ import annotations

import os

from ckptlab.dcp.metadata import Metadata, stock_metadata
from ckptlab.errors import CheckpointError
from ckptlab.storage import open_checkpoint


class FileSystemWriter:
    """Where to save: a directory.

    `sync_files` waits for the disk, `overwrite` allows an older checkpoint there.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        single_file_per_rank: bool = True,
        sync_files: bool = True,
        thread_count: int = 1,
        per_thread_copy_ahead: int = 10_000_000,
        cache_staged_state_dict: bool = False,
        overwrite: bool = True,
    ) -> None:
        _refuse(
            "FileSystemWriter",
            single_file_per_rank=(single_file_per_rank, True),
            thread_count=(thread_count, 1),
        )
        _refuse("FileSystemWriter", cache_staged_state_dict=(cache_staged_state_dict, False))
        self.path = os.fspath(path)
        self.sync_files = sync_files
        self.per_thread_copy_ahead = per_thread_copy_ahead
        self.overwrite = overwrite


class FileSystemReader:
    """Where to load from: a directory that holds a DCP checkpoint."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)

    def read_metadata(self) -> Metadata:
        """What the checkpoint says of itself, as stock records. Runs no code of the file."""
        return stock_metadata(open_checkpoint(self.path).metadata, self.path)


class DefaultSavePlanner:
    """How to save: nested state flattened, replicas written once, shared out by bytes."""

    def __init__(
        self,
        flatten_state_dict: bool = True,
        flatten_sharded_tensors: bool = True,
        dedup_replicated_tensors: bool | None = None,
        dedup_save_to_lowest_rank: bool = False,
        enable_plan_caching: bool = False,
    ) -> None:
        _refuse(
            "DefaultSavePlanner",
            flatten_state_dict=(flatten_state_dict, True),
            flatten_sharded_tensors=(flatten_sharded_tensors, True),
            dedup_save_to_lowest_rank=(dedup_save_to_lowest_rank, False),
            enable_plan_caching=(enable_plan_caching, False),
        )


class DefaultLoadPlanner:
    """How to load: into flattened nested state; `allow_partial_load` leaves keys the checkpoint has not."""

    def __init__(
        self,
        flatten_state_dict: bool = True,
        flatten_sharded_tensors: bool = True,
        allow_partial_load: bool = False,
    ) -> None:
        _refuse(
            "DefaultLoadPlanner",
            flatten_state_dict=(flatten_state_dict, True),
            flatten_sharded_tensors=(flatten_sharded_tensors, True),
        )
        self.allow_partial_load = allow_partial_load


def _refuse(owner: str, **options: tuple[object, object]) -> None:
    for name, (given, supported) in options.items():
        if given != supported:
            raise CheckpointError(
                f"{owner}: {name}={given!r} is not supported yet; ckptlab does {supported!r}"
            )
