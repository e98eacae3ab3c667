"""Save a state_dict from all ranks: agree, plan, write, then publish in one step.

Writes what stock DCP reads. A save over an older checkpoint writes new file names and swaps
`.metadata` last, so that at any moment the old or the new one is there, whole.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ckptlab.engine.agree import Agreed, Offer, agree, offer
from ckptlab.engine.divergence import check_replicas
from ckptlab.engine.ranks import Team
from ckptlab.engine.state import expand, flatten
from ckptlab.engine.transfer import chunk_buffers, on_cpu
from ckptlab.errors import PathError
from ckptlab.events import Phase, Progress, Trace, silent
from ckptlab.layout import Box
from ckptlab.metadata import ChunkColumns, Extent, Metadata
from ckptlab.plan.save import SavePlan, plan_save
from ckptlab.storage.dcp import METADATA_FILE, data_file
from ckptlab.storage.dcp_write import write_metadata
from ckptlab.storage.files import Files
from ckptlab.storage.sidecar import LAYOUT_PREFIX, layout_file, write_layouts
from ckptlab.storage.template import template
from ckptlab.storage.where import files_at


@dataclass(frozen=True)
class SaveReport:
    """What one rank did in a save: bytes and chunks it wrote, and seconds of each phase."""

    path: str
    rank: int
    nbytes: int
    chunks: int
    seconds: Mapping[Phase, float]


@dataclass(frozen=True)
class _Job:
    """One chunk that this rank writes: which box of which tensor, and where in the file."""

    fqn: str
    box: Box
    start: int


def save(
    state_dict: Mapping[str, Any],
    path: str | os.PathLike[str],
    *,
    process_group: Any = None,
    no_dist: bool = False,
    overwrite: bool = True,
    sync: bool = True,
    replicas: Literal["check", "trust"] = "check",
    progress: Progress = silent,
) -> SaveReport:
    """Save a (nested) state_dict of DTensors, ShardedTensors, tensors and objects as a DCP checkpoint.

    Every rank of the process group calls it with its own state; without a group, or with `no_dist`,
    this process saves alone. `sync` waits until the disk has it. `overwrite=False` refuses a path that
    holds a checkpoint (`PathError`). Shards that several ranks hold are compared by crc and refused
    where they differ, unless `replicas="trust"`. Raises the same error on every rank; what was there before a
    failed save is still there.
    """
    team = Team.of(process_group, alone=no_dist)
    trace = Trace(team.rank, progress)
    with trace.phase("plan"):
        mine = team.together("plan", lambda: offer(flatten(expand(state_dict)), team))
    return save_offer(mine, path, team, trace, overwrite=overwrite, sync=sync, replicas=replicas)


def save_offer(
    mine: Offer,
    path: str | os.PathLike[str],
    team: Team,
    trace: Trace,
    *,
    overwrite: bool = True,
    sync: bool = True,
    replicas: Literal["check", "trust"] = "check",
) -> SaveReport:
    """Save what each rank offers; the same as `save`, with the state told apart already."""
    files = files_at(path)
    with trace.phase("plan"):
        agreed = agree(mine, team)
        if replicas == "check":
            check_replicas(mine.held, team)
        generation, save_id = team.first("plan", lambda: _prepare(files, overwrite))
        plan = plan_save(agreed.held, max(team.ranks) + 1)
        metadata, jobs, total = _place(agreed, plan, team, generation, save_id)
    with trace.phase("write", total):
        team.together("write", lambda: _write(files, mine, jobs, metadata, team, generation, sync, trace))
    with trace.phase("commit"):
        team.first("commit", lambda: _commit(files, metadata, sync))
    return SaveReport(files.root, team.rank, total, len(jobs), trace.seconds)


def _prepare(files: Files, overwrite: bool) -> tuple[str, str]:
    """Make the directory; an older checkpoint in it makes this save a new generation."""
    files.make()
    old = METADATA_FILE in files.names()
    if old and not overwrite:
        raise PathError(
            f"{files.root} holds a checkpoint already; choose another path or overwrite=True", [files.root]
        )
    save_id = str(uuid.uuid4())
    return (save_id[:8] if old else ""), save_id


def _place(
    agreed: Agreed, plan: SavePlan, team: Team, generation: str, save_id: str
) -> tuple[Metadata, list[_Job], int]:
    """Where each chunk and object lies; the same on every rank. Also this rank's own jobs and bytes."""
    names = [data_file(rank, 0, generation) for rank in range(len(plan.bytes_by_rank))]
    end = np.zeros(len(names), np.int64)
    columns, jobs = ChunkColumns(), []
    for writes in plan.writes:
        start, length = [], []
        for i, rank in enumerate(writes.writer.tolist()):
            box = writes.boxes[i]
            if rank == team.global_rank:
                jobs.append(_Job(writes.tensor.fqn, box, int(end[rank])))
            start.append(int(end[rank]))
            length.append(template(writes.tensor.dtype, box.shape).length)
            end[rank] += length[-1]
        columns.add(writes.boxes, writes.writer.tolist(), start, length)
    objects = {}
    for fqn, (rank, nbytes) in agreed.objects.items():
        objects[fqn] = Extent(rank, int(end[rank]), nbytes)
        end[rank] += nbytes
    metadata = Metadata(
        tuple(writes.tensor for writes in plan.writes),
        columns.build(),
        tuple(names),
        tuple(range(len(names))),
        objects,
        agreed.paths,
        agreed.layouts,
        save_id,
    )
    return metadata, jobs, int(end[team.global_rank])


def _write(
    files: Files,
    mine: Offer,
    jobs: list[_Job],
    metadata: Metadata,
    team: Team,
    generation: str,
    sync: bool,
    trace: Trace,
) -> None:
    objects = {fqn: extent for fqn, extent in metadata.objects.items() if extent.file == team.global_rank}
    if not jobs and not objects:
        return
    with files.create(data_file(team.global_rank, 0, generation)) as writer:
        for job in jobs:
            held = mine.held[job.fqn]
            payload = on_cpu(held.piece_of(job.box))
            frame = template(held.holding.tensor.dtype, job.box.shape)
            writer.write_at(job.start, chunk_buffers(frame.before, payload, frame.after))
            trace.moved(frame.length)
        for fqn, extent in objects.items():
            writer.write_at(extent.start, [mine.objects[fqn]])
            trace.moved(extent.length)
        if sync:
            writer.sync()


def _commit(files: Files, metadata: Metadata, sync: bool) -> None:
    """Publish, then clear what nobody refers to any more."""
    beside = layout_file(metadata.save_id)
    files.publish(beside, write_layouts(metadata), sync)
    files.publish(METADATA_FILE, write_metadata(metadata, files.root), sync)
    used = {metadata.files[i] for i in metadata.chunks.file.tolist()}
    used |= {metadata.files[extent.file] for extent in metadata.objects.values()} | {beside}
    for name in files.names():
        data = name.startswith("__") and name.endswith(".distcp")
        # A save that was killed while it published leaves a file that never got its name.
        unfinished = name.startswith(f"{METADATA_FILE}.") and name.endswith(".tmp")
        if (data or unfinished or name.startswith(LAYOUT_PREFIX)) and name not in used:
            files.remove(name)
