"""Which way a call takes: through the engine, or by torch's own protocol.

Readers, writers and planners that are as torch or we made them only carry options, and the
engine does the work. One of somebody else's, or a subclass that does something itself, gets
the calls that torch's protocol promises it, so torch drives it. It moves nothing itself.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Mapping
from typing import Any

from torch.distributed.checkpoint import default_planner, filesystem
from torch.distributed.checkpoint.planner import LoadPlanner, SavePlanner
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter

from ckptlab.dcp import _fsspec_filesystem as remote
from ckptlab.dcp import default_planner as our_planner
from ckptlab.dcp import filesystem as ours
from ckptlab.dcp.api import StorageError
from ckptlab.dcp.filesystem import FileSystemReader, FileSystemWriter
from ckptlab.dcp.transform_planner import TransformPlanner

__all__ = ["engine_loads", "engine_saves", "reader_of", "writer_of"]

Id = str | os.PathLike[str] | None


def _methods(kind: type) -> dict[str, Any]:
    """The methods a class has, own or inherited, as they are now; what tells of paths is no part of it."""
    return {
        name: inspect.getattr_static(kind, name)
        for name in dir(kind)
        if not name.startswith("__") and inspect.isfunction(inspect.getattr_static(kind, name))
    }


# As they were when this was imported: what somebody puts into a class later is a change too.
_AS_MADE: Mapping[type, Mapping[str, Any]] = {
    kind: _methods(kind)
    for kind in (
        filesystem.FileSystemWriter,
        ours.FileSystemWriter,
        filesystem.FileSystemReader,
        ours.FileSystemReader,
        remote.FsspecWriter,
        remote.FsspecReader,
        default_planner.DefaultSavePlanner,
        default_planner.DefaultLoadPlanner,
        our_planner.DefaultLoadPlanner,
        TransformPlanner,
    )
}


def _as_made(it: object, kinds: Iterable[type]) -> bool:
    """Whether an object does nothing that one of these classes does not do."""
    return any(
        isinstance(it, kind)
        and all(inspect.getattr_static(it, name) is method for name, method in _AS_MADE[kind].items())
        for kind in kinds
    )


def engine_saves(writer: StorageWriter, planner: SavePlanner | None) -> bool:
    """Whether the engine does what this writer and this planner say."""
    if not _as_made(writer, (ours.FileSystemWriter, filesystem.FileSystemWriter, remote.FsspecWriter)):
        return False
    assert isinstance(writer, filesystem.FileSystemWriter)
    plain = (
        _engine_reaches(writer)
        and writer.single_file_per_rank
        and not writer.transforms.extensions
        and writer.serialization_format is filesystem.SerializationFormat.TORCH_SAVE
    )
    return plain and (planner is None or _engine_plans(planner))


def _engine_plans(planner: SavePlanner) -> bool:
    if not _as_made(planner, (default_planner.DefaultSavePlanner,)):
        return False
    assert isinstance(planner, default_planner.DefaultSavePlanner)
    return (
        planner.flatten_state_dict
        and not planner.dedup_save_to_lowest_rank
        and not planner._enable_plan_caching
    )


def engine_loads(reader: StorageReader, planner: LoadPlanner | None) -> bool:
    """Whether the engine does what this reader and this planner say."""
    if not _as_made(reader, (ours.FileSystemReader, filesystem.FileSystemReader, remote.FsspecReader)):
        return False
    assert isinstance(reader, filesystem.FileSystemReader)
    if not _engine_reaches(reader) or _by_rank(reader):
        return False
    if planner is None:
        return True
    kinds = (TransformPlanner, our_planner.DefaultLoadPlanner, default_planner.DefaultLoadPlanner)
    if not _as_made(planner, kinds):
        return False
    assert isinstance(planner, default_planner.DefaultLoadPlanner)
    return planner.flatten_state_dict


def writer_of(writer: StorageWriter | None, checkpoint_id: Id) -> StorageWriter:
    """The writer to use, led to `checkpoint_id` if that is given."""
    if writer:
        if checkpoint_id is not None:
            writer.reset(checkpoint_id)
        return writer
    chosen = _detect(checkpoint_id, (FileSystemWriter, remote.FsspecWriter), "storage_writer")
    assert isinstance(chosen, StorageWriter)
    return chosen


def reader_of(reader: StorageReader | None, checkpoint_id: Id) -> StorageReader:
    """The reader to use, led to `checkpoint_id` if that is given."""
    if reader:
        if checkpoint_id is not None:
            reader.reset(checkpoint_id)
        return reader
    chosen = _detect(checkpoint_id, (FileSystemReader, remote.FsspecReader), "storage_reader")
    assert isinstance(chosen, StorageReader)
    return chosen


def _detect(
    checkpoint_id: Id, kinds: Iterable[type[StorageReader] | type[StorageWriter]], owner: str
) -> StorageReader | StorageWriter:
    if not checkpoint_id:
        raise StorageError(
            f"where? `checkpoint_id` must be specified if {owner} is None; give checkpoint_id, or a {owner}"
        )
    for kind in kinds:
        if kind.validate_checkpoint_id(checkpoint_id):
            return kind(checkpoint_id)  # type: ignore[call-arg]
    raise StorageError(
        f"Cannot detect which storage {checkpoint_id!r} means: it is no local path that can be written, "
        f"and fsspec does not know it. Please specify the {owner}."
    )


def _engine_reaches(storage: filesystem.FileSystemWriter | filesystem.FileSystemReader) -> bool:
    """Whether the engine finds the same files under the storage's path."""
    kind: type[filesystem.FileSystemBase] = type(storage.fs)
    # With options of its own, or made by torch's class, which forgets them, a URL may lead elsewhere.
    plain = getattr(storage, "options", None) == {}
    return kind is filesystem.FileSystem or (kind is remote.FileSystem and plain)


def _by_rank(reader: filesystem.FileSystemReader) -> bool:
    """Whether each rank saved for itself, into files that only torch's protocol reads."""
    there = [reader.fs.exists(reader._get_metadata_path(rank)) for rank in (None, 0)]
    return there == [False, True]
