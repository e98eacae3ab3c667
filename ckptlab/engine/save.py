"""Save a state_dict from all ranks: agree, plan, write, then publish in one step.

Writes what stock DCP reads. A save over an older checkpoint writes new file names and swaps
`.metadata` last, so that at any moment the old or the new one is there, whole.
"""

from __future__ import annotations

import os
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ckptlab.engine.agree import Agreed, Offer, Told, announce, offer, settle
from ckptlab.engine.divergence import NOTHING_SHARED, Digests, refuse_diverged, replicas_of
from ckptlab.engine.ranks import Team
from ckptlab.engine.state import expand, flatten
from ckptlab.engine.writing import Source, Taken, write_files
from ckptlab.errors import CheckpointError, LostError, PathError
from ckptlab.events import Phase, Progress, Trace, silent
from ckptlab.metadata import Extent, Metadata
from ckptlab.plan.save import SavePlan, plan_save
from ckptlab.storage.dcp import METADATA_FILE, data_file
from ckptlab.storage.dcp_write import write_metadata
from ckptlab.storage.files import Files
from ckptlab.storage.sidecar import SIDECAR_PREFIX, sidecar_file, write_sidecar
from ckptlab.storage.template import template
from ckptlab.storage.torch_save import gc_paused
from ckptlab.storage.where import files_at

_MUCH = 64 << 20
_FILES = 4


@dataclass(frozen=True)
class SaveReport:
    """What one rank did in a save: bytes and chunks it wrote, and seconds of each phase.

    `metadata` is what the whole checkpoint says of itself, the same on every rank.
    """

    path: str
    rank: int
    nbytes: int
    chunks: int
    seconds: Mapping[Phase, float]
    metadata: Metadata = field(repr=False, compare=False)


@gc_paused()
def save(
    state_dict: Mapping[str, Any],
    path: str | os.PathLike[str],
    *,
    process_group: Any = None,
    no_dist: bool = False,
    overwrite: bool = True,
    sync: bool = True,
    replicas: Literal["check", "trust"] = "check",
    threads: int | None = None,
    progress: Progress = silent,
) -> SaveReport:
    """Save a (nested) state_dict of DTensors, ShardedTensors, tensors and objects as a DCP checkpoint.

    Every rank of the process group calls it with its own state; without a group, or with `no_dist`,
    this process saves alone. `sync` waits until the disk has it. `overwrite=False` refuses a path that
    holds a checkpoint (`PathError`). Shards that several ranks hold are compared by crc and refused
    where they differ, unless `replicas="trust"`. Each rank writes `threads` files at once: one, or of a
    state of 64 MiB or more four to far storage, and up to four if it saves alone. Raises the same error
    on every rank; what was there before a failed save is still there.
    """
    team = Team.of(process_group, alone=no_dist)
    trace = Trace(team.rank, progress)

    def make() -> Offer:
        return offer(flatten(expand(state_dict)), team)

    return _save(make, path, team, trace, overwrite, sync, replicas, threads)


def save_offer(
    mine: Offer,
    path: str | os.PathLike[str],
    team: Team,
    trace: Trace,
    *,
    overwrite: bool = True,
    sync: bool = True,
    replicas: Literal["check", "trust"] = "check",
    threads: int | None = None,
) -> SaveReport:
    """Save what each rank offers; the same as `save`, with the state told apart already."""
    return _save(lambda: mine, path, team, trace, overwrite, sync, replicas, threads)


def _save(
    make: Callable[[], Offer],
    path: str | os.PathLike[str],
    team: Team,
    trace: Trace,
    overwrite: bool,
    sync: bool,
    replicas: Literal["check", "trust"],
    threads: int | None,
) -> SaveReport:
    files = files_at(path)
    if files.private and team.world > 1:
        raise PathError(f"{files.root} is in the memory of one process: ranks cannot save there together")
    offers = []

    def announced() -> tuple[Told, _Ground | CheckpointError | None]:
        offers.append(make())
        many = threads or _threads(team, offers[0], files)
        ground = _prepare(files, overwrite, many) if team.rank == 0 else None
        return announce(offers[0], team), ground

    with trace.phase("plan"), gc_paused():
        told = team.tell(trace, announced)
        (mine,), ground = offers, told[0][1]
        if isinstance(ground, CheckpointError):
            raise ground
        assert ground is not None
        agreed = settle([one for one, _ in told], mine, team)
        plan = plan_save(agreed.held, max(team.ranks) + 1)
        # The plan is the same on every rank, so all of them compare, or none.
        compared = replicas == "check" and plan.replicated and team.world > 1
        source = _place(plan, agreed, mine, ground, {} if compared else None)
    own = [team.global_rank * ground.threads + i for i in range(ground.threads)]
    chunks = source.metadata.chunks
    here = np.isin(chunks.file, own)
    total = int(chunks.length[here].sum()) + sum(
        extent.length for extent in source.metadata.objects.values() if extent.file in own
    )

    records = []
    shared = []

    def write() -> Digests:
        with trace.phase("write", total), ThreadPoolExecutor(1, "ckptlab-record") as beside:
            record = beside.submit(_record, files, source.metadata, sync) if team.rank == 0 else None
            write_files(files, own, source, sync, trace)
            # What was written has its crcs by now.
            known = source.crcs
            shared.append(NOTHING_SHARED if known is None else replicas_of(mine.held, team, known))
            records.append(record.result() if record else b"")
            return shared[0].digests

    def commit() -> None:
        with trace.phase("commit"):
            trace.check()
            if team.rank == 0:
                _commit(files, source.metadata, records[0], sync)

    try:
        told_of = team.tell(trace, write)
        refuse_diverged(told_of, shared[0], mine.held, team)
    except Exception as error:
        # Only where all agree: a collective that broke here may have gone well on the rank that publishes.
        agreed_on = isinstance(error, CheckpointError) and not isinstance(error, LostError)
        if team.world == 1 or agreed_on:
            beside = [sidecar_file(ground.save_id)] if team.rank == 0 else []
            _clear(files, [source.metadata.files[i] for i in own] + beside)
        raise
    team.together(trace, commit)
    return SaveReport(files.root, team.rank, total, int(here.sum()), trace.seconds, source.metadata)


def _threads(team: Team, mine: Offer, files: Files) -> int:
    """How many files each rank writes at once if nobody said: one, unless there is much to write."""
    # A far file is sent part after part, each a wait; the cores that a rank has alone are few.
    many = _FILES if not files.mapped else min(_FILES, os.cpu_count() or 1) if team.world == 1 else 1
    much = many > 1 and mine.held.nbytes >= _MUCH
    return many if much else 1


@dataclass(frozen=True)
class _Ground:
    """What the first rank decides for all: a word in the names of the files, the save's id, files a rank."""

    generation: str
    save_id: str
    threads: int


def _prepare(files: Files, overwrite: bool, threads: int) -> _Ground | CheckpointError:
    """Make the directory; an older checkpoint in it makes this save a new generation."""
    try:
        files.make()
        old = METADATA_FILE in files.names()
    except CheckpointError as error:
        return error
    if old and not overwrite:
        words = f"{files.root} holds a checkpoint already; choose another path or overwrite=True"
        return PathError(words, [files.root])
    save_id = str(uuid.uuid4())
    return _Ground(save_id[:8] if old else "", save_id, threads)


def _place(plan: SavePlan, agreed: Agreed, mine: Offer, ground: _Ground, crcs: Taken | None) -> Source:
    """Where each chunk and object lies; the same on every rank."""
    chunks, end = plan.chunks(lambda dtype, shape: template(dtype, shape).length, ground.threads)
    objects = {}
    for fqn, (rank, nbytes) in agreed.objects.items():
        file = rank * ground.threads
        objects[fqn] = Extent(file, int(end[file]), nbytes)
        end[file] += nbytes
    files = [(rank, i) for rank in range(len(plan.bytes_by_rank)) for i in range(ground.threads)]
    metadata = Metadata(
        plan.tensors,
        chunks,
        tuple(data_file(rank, i, ground.generation) for rank, i in files),
        tuple(rank for rank, _ in files),
        objects,
        agreed.paths,
        agreed.layouts,
        ground.save_id,
    )
    return Source(plan, metadata, mine.held, mine.objects, crcs)


def _record(files: Files, metadata: Metadata, sync: bool) -> bytes:
    """The `.metadata` to be, once the file beside it is there, which nobody minds until then."""
    record = write_metadata(metadata, files.root)
    files.publish(sidecar_file(metadata.save_id), write_sidecar(metadata, record), sync)
    return record


def _commit(files: Files, metadata: Metadata, record: bytes, sync: bool) -> None:
    """Publish, then clear what nobody refers to any more."""
    beside = sidecar_file(metadata.save_id)
    try:
        files.publish(METADATA_FILE, record, sync)
    except Exception:
        if not _published(files, record):
            _clear(files, [beside, *metadata.files])
        raise
    try:
        _clear_others(files, metadata, beside)
    except Exception as error:
        # The checkpoint is there, so this save has not failed; the next one clears again.
        warnings.warn(
            f"{files.root} is saved, but what an older save left there is not cleared: {error}", stacklevel=2
        )


def _clear_others(files: Files, metadata: Metadata, beside: str) -> None:
    used = {metadata.files[i] for i in np.unique(metadata.chunks.file).tolist()}
    used |= {metadata.files[extent.file] for extent in metadata.objects.values()} | {beside}
    for name in files.names():
        data = name.startswith("__") and name.endswith(".distcp")
        # A save that was killed while it published leaves a file that never got its name.
        unfinished = name.startswith(f"{METADATA_FILE}.") and name.endswith(".tmp")
        if (data or unfinished or name.startswith(SIDECAR_PREFIX)) and name not in used:
            files.remove(name)


def _published(files: Files, record: bytes) -> bool:
    """Whether this save may be the one that is there now, though publishing it failed."""
    try:
        if METADATA_FILE not in files.names():
            return False
        return files.read(METADATA_FILE, 0, files.size(METADATA_FILE)) == record
    except Exception:
        # What cannot be read may be ours.
        return True


def _clear(files: Files, names: Sequence[str]) -> None:
    """Remove what a failed save wrote, as far as that goes: it takes room, and the next save needs some."""
    for name in names:
        with suppress(Exception):
            files.remove(name)
