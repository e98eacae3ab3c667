"""`torch.distributed.checkpoint.state_dict_saver`: save, through the engine wherever it can.

A storage of somebody else's, or a planner that does something itself, is driven by torch's own
protocol. It plans nothing and opens no file itself.
"""

from __future__ import annotations

import os
from concurrent.futures import Future
from typing import Any

import torch.distributed as dist
from torch.distributed.checkpoint import state_dict_saver as torchs
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlanner
from torch.distributed.checkpoint.staging import AsyncStager
from torch.distributed.checkpoint.storage import StorageWriter

from ckptlab import engine
from ckptlab.dcp.api import as_stock, told_as_stock
from ckptlab.dcp.records import later
from ckptlab.dcp.route import engine_saves, writer_of
from ckptlab.dcp.torchs import in_old_order_too, rest_of

__all__ = ["AsyncCheckpointerType", "AsyncSaveResponse", "async_save", "save", "save_state_dict"]

AsyncCheckpointerType = torchs.AsyncCheckpointerType
AsyncSaveResponse = torchs.AsyncSaveResponse
__getattr__ = rest_of(__name__)


@in_old_order_too
def save(
    state_dict: dict[str, Any],
    *,
    checkpoint_id: str | os.PathLike[str] | None = None,
    storage_writer: StorageWriter | None = None,
    planner: SavePlanner | None = None,
    process_group: dist.ProcessGroup | None = None,
    no_dist: bool = False,
    use_collectives: bool = True,
) -> Metadata:
    """As `torch.distributed.checkpoint.save`, from every rank of the group.

    `use_collectives=False` is torch's own work: each rank by itself, into files that only torch's
    protocol reads. Raises `CheckpointException`, the same on every rank, and leaves what was there
    before; `StorageError` if nothing says where.
    """
    writer = writer_of(storage_writer, checkpoint_id)
    with told_as_stock():
        if use_collectives and engine_saves(writer, planner):
            return _through_engine(state_dict, writer, process_group, no_dist)
        saved: Metadata = torchs.save(
            state_dict,
            storage_writer=writer,
            planner=planner,
            process_group=process_group,
            no_dist=no_dist,
            use_collectives=use_collectives,
        )
        return saved


def save_state_dict(
    state_dict: dict[str, Any],
    storage_writer: StorageWriter,
    process_group: dist.ProcessGroup | None = None,
    coordinator_rank: int = 0,
    no_dist: bool = False,
    planner: SavePlanner | None = None,
) -> Metadata:
    """The older name of `save`; another `coordinator_rank` than 0 is torch's own work."""
    storage_writer.reset()
    return _save_state_dict(state_dict, storage_writer, process_group, coordinator_rank, no_dist, planner)


def _save_state_dict(
    state_dict: dict[str, Any],
    storage_writer: StorageWriter,
    process_group: dist.ProcessGroup | None = None,
    coordinator_rank: int = 0,
    no_dist: bool = False,
    planner: SavePlanner | None = None,
    use_collectives: bool = True,
) -> Metadata:
    alone = no_dist or not (dist.is_available() and dist.is_initialized())
    with told_as_stock():
        if not coordinator_rank and use_collectives and engine_saves(storage_writer, planner):
            return _through_engine(state_dict, storage_writer, process_group, no_dist)
        return torchs._save_state_dict(
            state_dict, storage_writer, process_group, coordinator_rank, alone, planner, use_collectives
        )


def async_save(
    state_dict: dict[str, Any],
    *,
    checkpoint_id: str | os.PathLike[str] | None = None,
    storage_writer: StorageWriter | None = None,
    planner: SavePlanner | None = None,
    process_group: dist.ProcessGroup | None = None,
    async_checkpointer_type: torchs.AsyncCheckpointerType = AsyncCheckpointerType.THREAD,
    async_stager: AsyncStager | None = None,
    no_dist: bool = False,
    use_collectives: bool = True,
) -> Future[Any] | torchs.AsyncSaveResponse:
    """As `torch.distributed.checkpoint.async_save`: the state may change as soon as this returns.

    A stager or a process of one's own is torch's own work, as is a writer or planner that does
    something itself. Else a thread saves what was copied into buffers, which are kept for the next
    save unless a writer says `cache_staged_state_dict=False`. The future gives what `save` gives;
    its error is a `CheckpointException`.
    """
    writer = writer_of(storage_writer, checkpoint_id)
    in_thread = async_checkpointer_type is AsyncCheckpointerType.THREAD and async_stager is None
    if in_thread and use_collectives and engine_saves(writer, planner):
        assert isinstance(writer, FileSystemWriter)
        with told_as_stock():
            saving = engine.async_save(
                state_dict,
                writer.path,
                process_group=process_group,
                no_dist=no_dist,
                keep_buffers=storage_writer is None or writer.cache_staged_state_dict,
                **_options(writer),
            )
        return _Saving(saving, writer)
    response = torchs.async_save(
        state_dict,
        storage_writer=writer,
        planner=planner,
        process_group=process_group,
        async_checkpointer_type=async_checkpointer_type,
        async_stager=async_stager,
        no_dist=no_dist,
        use_collectives=use_collectives,
    )
    if isinstance(response, torchs.AsyncSaveResponse):
        return AsyncSaveResponse(response.staging_completion, _told(response.upload_completion))
    return _told(response)


class _Saving(Future[Metadata]):
    """A save of the engine that is under way, as torch's callers know it."""

    def __init__(self, saving: engine.SaveFuture, writer: FileSystemWriter) -> None:
        super().__init__()
        self._saving, self._writer = saving, writer
        self.set_running_or_notify_cancel()
        saving.add_done_callback(self._settle)

    def _settle(self, saving: Future[engine.SaveReport]) -> None:
        # Not by `saving.exception()`: only who asks this future has heard of a failure.
        error = Future.exception(saving)
        if error is None:
            self.set_result(_said(Future.result(saving), self._writer))
        else:
            self.set_exception(as_stock(error))

    def result(self, timeout: float | None = None) -> Metadata:
        """Wait for the end of the save; raises its error, or `TimeoutError`."""
        self._saving.exception(timeout)
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the end of the save; its error, or None. Raises `TimeoutError`."""
        self._saving.exception(timeout)
        return super().exception(timeout)


def _told(future: Future[Any]) -> Future[Any]:
    """The same future, its error told as `CheckpointException`."""
    told: Future[Any] = Future()

    def done(of: Future[Any]) -> None:
        error = of.exception()
        if error is None:
            told.set_result(of.result())
        else:
            told.set_exception(as_stock(error))

    future.add_done_callback(done)
    return told


def _through_engine(
    state_dict: dict[str, Any],
    writer: StorageWriter,
    process_group: dist.ProcessGroup | None,
    no_dist: bool,
) -> Metadata:
    assert isinstance(writer, FileSystemWriter)
    report = engine.save(
        state_dict, writer.path, process_group=process_group, no_dist=no_dist, **_options(writer)
    )
    return _said(report, writer)


def _options(writer: FileSystemWriter) -> dict[str, Any]:
    """What the writer says, as the engine calls it; one thread, torch's default, leaves the number to it."""
    threads = writer.thread_count if writer.thread_count > 1 else None
    return {"overwrite": writer.overwrite, "sync": writer.sync_files, "threads": threads}


def _said(report: engine.SaveReport, writer: FileSystemWriter) -> Metadata:
    """What a save gives back; as in torch, the writer knows the id of its last save."""
    writer.save_id = report.metadata.save_id or writer.save_id
    return later(report.metadata, report.path)
