"""Lesson 3: saving. Who writes what, when several ranks hold the same?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from ckptlab.layout import Layout
from ckptlab.lessons.ask import WAITING, Verdict, right, wrong
from ckptlab.lessons.frames import Choice, Job, frames, jobs, share_out, shared_scene, written
from ckptlab.lessons.small import TENSORS
from ckptlab.lessons.steps import Steps, steps
from ckptlab.metadata import ITEMSIZE, Tensor
from ckptlab.plan.holding import holdings
from ckptlab.storage import Checkpoint
from ckptlab.storage.dcp import METADATA_FILE
from ckptlab.widgets.tensor import mesh_view
from ckptlab.widgets.view import SceneView

HSDP = Layout.parse("replicate=2, shard=2", "Replicate, Shard(0)")
"""Two copies, each on two ranks."""

MODEL = TENSORS[:4]
"""The embedding and one layer: few enough to follow each."""

LOPSIDED = tuple(
    Tensor(name, "float32", (rows, 10))
    for name, rows in (("embed", 60), ("head", 60), ("gate", 40), ("up", 40), ("down", 40))
)
"""A model of which the default does not share out the writing as evenly as can be."""

Sharing = Mapping[str, Literal[0, 1]]
"""For each tensor, which copy writes it: 0 (ranks 0 and 1) or 1 (ranks 2 and 3)."""


def draw() -> SceneView:
    """The mesh, and what each rank holds of the embedding."""
    return mesh_view(HSDP, MODEL[0])


def plan() -> Steps:
    """The plan of saving `MODEL`, step by step."""
    return steps(frames(MODEL, HSDP))


def compare(checkpoint: Checkpoint) -> Verdict:
    """What real ranks wrote of `MODEL` on `HSDP`, beside the plan: the same files, the same bytes?"""
    metadata = checkpoint.metadata
    planned, real = written(metadata.tensors, HSDP), metadata.chunks
    if len(planned) != len(real):
        return wrong(f"the plan has {len(planned)} chunks, the checkpoint {len(real)}.")
    wrote = np.array(metadata.writers)[real.file]
    for name, one, other in (
        ("writer", planned.file, wrote),
        ("first byte", planned.start, real.start),
        ("length", planned.length, real.length),
    ):
        if (one != other).any():
            i = int(np.flatnonzero(one != other)[0])
            return wrong(f"chunk {i}: the plan says {name} {one[i]}, but the file {other[i]}.")
    return right(f"of all {len(real)} chunks writer, first byte and length are as planned.")


def bytes_by_rank(checkpoint: Checkpoint) -> list[int]:
    """Bytes of elements that each rank wrote."""
    metadata, out = checkpoint.metadata, np.zeros(HSDP.mesh.size, np.int64)
    for row, tensor in enumerate(metadata.tensors):
        np.add.at(out, metadata.chunk_writers(row), metadata.boxes(row).numel * ITEMSIZE[tensor.dtype])
    return [int(n) for n in out]


def in_order(checkpoint: Checkpoint) -> list[str]:
    """The files that a loader reads by, in the order in which they were put in place; see `os.stat`."""
    names = [*checkpoint.metadata.files, METADATA_FILE]
    return sorted(names, key=lambda name: (Path(checkpoint.path) / name).stat().st_mtime_ns)


def draw_sharing(answer: Sharing | None) -> SceneView:
    """Who writes what of `LOPSIDED` by this sharing-out; by the default without one."""
    every = _jobs()
    known = answer or {}
    choices = _shared(every, known) if known else share_out(every, HSDP.mesh.size)
    title = "Your sharing-out" if known else "The default: the least busy holder"
    return SceneView(shared_scene(choices, HSDP.mesh.size, title), hint="")


def check_sharing(answer: Sharing | None) -> Verdict:
    """A sharing-out of `LOPSIDED` by which the busiest rank writes less than by the default."""
    if answer is None:
        return WAITING
    if problem := _unusable(answer):
        return wrong(problem)
    every = _jobs()
    mine, default = _busy(_shared(every, answer)), _busy(share_out(every, HSDP.mesh.size))
    rank = int(mine.argmax())
    copy = HSDP.mesh.coordinate(rank)[0]
    theirs = ", ".join(tensor.fqn for tensor in LOPSIDED if answer[tensor.fqn] == copy)
    said = f"rank {rank} writes {mine[rank]:,} bytes (its halves of {theirs})"
    if mine.max() >= default.max():
        return wrong(f"{said}. That is no less than the {default.max():,} of the default's busiest rank.")
    if mine.max() == mine.min():
        return right(f"all ranks write {mine[rank]:,} bytes; the default's busiest writes {default.max():,}.")
    return right(f"{said}; the default's busiest writes {default.max():,}.")


def _unusable(answer: Sharing) -> str:
    """What makes it no sharing-out at all; "" if it is one."""
    names = [tensor.fqn for tensor in LOPSIDED]
    if missing := [name for name in names if name not in answer]:
        return f"nobody writes {', '.join(missing)}: it would be lost."
    if unknown := [name for name in answer if name not in names]:
        return f"there is no tensor {unknown[0]!r}; there are {', '.join(names)}."
    odd = [name for name in names if answer[name] not in (0, 1)]
    return f"{odd[0]}: there is no copy {answer[odd[0]]!r}; there are 0 and 1." if odd else ""


def _jobs() -> tuple[Job, ...]:
    return jobs(holdings(LOPSIDED, HSDP))


def _shared(every: tuple[Job, ...], answer: Sharing) -> tuple[Choice, ...]:
    """By the answer; what it does not speak of, by the default."""

    def rule(job: Job, busy: object) -> int:
        copy = answer.get(job.fqn, 0)
        return job.holders[copy] if copy in (0, 1) else job.holders[0]

    return share_out(every, HSDP.mesh.size, rule)


def _busy(choices: tuple[Choice, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Bytes that each rank writes."""
    out = np.zeros(HSDP.mesh.size, np.int64)
    for choice in choices:
        out[choice.writer] += choice.job.nbytes
    return out
