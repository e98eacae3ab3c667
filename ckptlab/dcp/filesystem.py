"""`torch.distributed.checkpoint.filesystem`: where to save to and load from, as torch's own classes.

The engine takes only their options. As a storage that torch's protocol drives they are torch's,
but what they read runs no code, and a writer thread that failed is not passed over. They know
no process group.
"""

from __future__ import annotations

from typing import Any

from torch.distributed.checkpoint import filesystem as torchs
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from ckptlab.dcp.records import read_records
from ckptlab.dcp.torchs import rest_of
from ckptlab.errors import CheckpointError

__all__ = [
    "FileSystem",
    "FileSystemBase",
    "FileSystemReader",
    "FileSystemWriter",
    "SafeReading",
    "SerializationFormat",
    "WholeWriting",
]

FileSystem = torchs.FileSystem
FileSystemBase = torchs.FileSystemBase
SerializationFormat = torchs.SerializationFormat
__getattr__ = rest_of(__name__)


class WholeWriting(torchs._FileSystemWriter):
    """A writer that says so if one of its threads failed; torch's publishes what the others wrote."""

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """As torch's; `CheckpointError` unless every item of the plan was written."""
        written = super().write_data(plan, planner)
        lost = len(plan.items) - len(written.value())
        if lost:
            raise CheckpointError(
                f"a writer thread failed (its own traceback is on stderr): {lost} of {len(plan.items)} "
                f"items were not written to {self.path}; nothing was published"
            )
        return written


class SafeReading(torchs.FileSystemReader):
    """A reader that runs no code of what it reads."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """What the checkpoint says of itself, or what `rank` alone wrote if that is given.

        `UnsafeError` if the file asks for anything that such a file does not need.
        """
        path = self._get_metadata_path(kwargs.get("rank"))
        with self.fs.create_stream(path, "rb") as stream:
            metadata = read_records(stream.read(), str(path))
        if metadata.storage_meta is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class FileSystemWriter(WholeWriting, torchs.FileSystemWriter):
    """Where to save: a directory, with torch's own parameters.

    What the engine does itself: one file a rank, `sync_files` (wait for the disk), `overwrite`.
    `per_thread_copy_ahead` says how much to copy from a GPU beforehand, and `cache_staged_state_dict`
    whether an `async_save` through this writer keeps its copy. The others are torch's own work.
    """


class FileSystemReader(SafeReading):
    """Where to load from: a directory that holds a DCP checkpoint, with torch's own parameters."""
