"""Load a checkpoint into a state_dict's own memory, on any mesh: check, plan, read, tell.

Every mismatch is found before a byte of the target changes. It knows no format and no
notebook.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from ckptlab.engine.ranks import Team
from ckptlab.engine.state import Held, Leaf, expand, flatten, hand_over, hold, put
from ckptlab.engine.transfer import Counts, Source
from ckptlab.errors import CorruptError, UnsafeError
from ckptlab.events import Phase, Progress, Trace, silent
from ckptlab.metadata import Metadata
from ckptlab.plan.check import Mismatch, Wanted, check, refuse
from ckptlab.plan.holding import Holding
from ckptlab.plan.load import LoadPlan, plan_load
from ckptlab.storage.checkpoint import Checkpoint, open_checkpoint


@dataclass(frozen=True)
class LoadReport:
    """What one rank loaded, and what it cost.

    `loaded` are keys of the target that were filled, `missing` those the checkpoint has not (only
    with `strict=False`), `unexpected` those of the checkpoint that the target does not ask for.
    `nbytes` are the bytes of elements asked of storage in `reads` reads; `header_bytes` all others:
    the wrapping round chunks, and what `verify` reads only to check. `seconds` by phase.
    """

    path: str
    rank: int
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    nbytes: int
    reads: int
    header_bytes: int
    seconds: Mapping[Phase, float]


def load(
    state_dict: MutableMapping[str, Any],
    path: str | os.PathLike[str],
    *,
    process_group: Any = None,
    no_dist: bool = False,
    strict: bool = True,
    dtype: Literal["exact", "cast"] = "exact",
    verify: bool = False,
    progress: Progress = silent,
) -> LoadReport:
    """Fill the tensors of a (nested) state_dict in place, and set its objects, from a checkpoint.

    Every rank of the process group calls it with its own state, under whatever mesh. Raises
    `MismatchError` that lists every key that does not fit, before anything is loaded; with
    `strict=False` keys that the checkpoint has not are left as they are and reported. `dtype="cast"`
    lets elements be converted to the target's dtype. Whole chunks are checked against their stored
    crc; `verify` checks chunks that are read in part, too, by reading all of them.
    """
    team = Team.of(process_group, alone=no_dist)
    trace = Trace(team.rank, progress)
    with trace.phase("metadata"):
        checkpoint = team.together("metadata", lambda: open_checkpoint(path))
    with trace.phase("plan"):
        state = team.together("plan", lambda: expand(state_dict))
        leaves = team.together("plan", lambda: flatten(state))
        held = team.together("plan", lambda: _hold(leaves, team))
        found = _agree(team.tell("plan", lambda: check(checkpoint.metadata, _wanted(leaves, held))))
        team.together("plan", lambda: refuse(checkpoint.path, _errors(found, strict, dtype)))
        _say_casts(found)
        missing = {m.fqn for m in found if m.kind == "missing"}
        keys = [fqn for fqn in leaves if fqn not in missing]
        tensors = [fqn for fqn in keys if fqn in held]
        plan = team.together("plan", lambda: _plan(checkpoint.metadata, [held[fqn] for fqn in tensors]))
    counts = Counts()
    with (
        trace.phase("read", int(plan.nbytes.sum())),
        Source(checkpoint, trace, counts) as source,
    ):
        others = [fqn for fqn in keys if fqn not in held]
        objects = team.together("read", lambda: _ready(checkpoint, plan, source, others))
        team.together("read", lambda: _fill(source, plan, [held[fqn] for fqn in tensors], verify))
    with trace.phase("commit"):
        for fqn, value in objects.items():
            put(state, leaves[fqn].path, value)
        team.together("commit", lambda: hand_over(state_dict, state))
    return LoadReport(
        checkpoint.path,
        team.rank,
        tuple(keys),
        tuple(sorted(missing & set(leaves))),
        tuple(sorted(m.fqn for m in found if m.kind == "unexpected")),
        counts.nbytes,
        counts.reads,
        counts.header_bytes,
        trace.seconds,
    )


def _hold(leaves: Mapping[str, Leaf], team: Team) -> dict[str, Held]:
    return {
        fqn: hold(fqn, leaf.value, team.global_rank, team.ranks)
        for fqn, leaf in leaves.items()
        if isinstance(leaf.value, torch.Tensor)
    }


def _wanted(leaves: Mapping[str, Leaf], held: Mapping[str, Held]) -> dict[str, Wanted]:
    return {fqn: Wanted(held[fqn].holding.tensor if fqn in held else None) for fqn in leaves}


def _agree(told: Sequence[Sequence[Mismatch]]) -> list[Mismatch]:
    """The findings of all ranks, each once; a key is unexpected only if no rank asks for it."""
    unexpected = set.intersection(*({m.fqn for m in theirs if m.kind == "unexpected"} for theirs in told))
    each = dict.fromkeys(m for theirs in told for m in theirs)
    return [m for m in each if m.kind != "unexpected" or m.fqn in unexpected]


def _errors(found: Sequence[Mismatch], strict: bool, dtype: str) -> list[Mismatch]:
    allowed = set() if strict else {"missing"}
    allowed |= {"dtype"} if dtype == "cast" else set()
    return [m for m in found if m.kind not in allowed]


def _say_casts(found: Sequence[Mismatch]) -> None:
    casts = [f"{m.fqn} ({m.stored} to {m.wanted})" for m in found if m.kind == "dtype"]
    if casts:
        more = f" and {len(casts) - 5} more" if len(casts) > 5 else ""
        warnings.warn(f"elements are cast to the target's dtype: {', '.join(casts[:5])}{more}", stacklevel=3)


def _plan(metadata: Metadata, held: Sequence[Held]) -> LoadPlan:
    return plan_load(metadata, [Holding(h.holding.tensor, h.mine) for h in held])


def _files_there(checkpoint: Checkpoint, plan: LoadPlan) -> None:
    """Every file that the plan reads is there and long enough; said before the target changes."""
    files = checkpoint.metadata.chunks.file[plan.chunk]
    names = {checkpoint.metadata.files[i] for i in np.unique(files).tolist()}
    problems = [problem for problem in checkpoint.check_files() if problem.name in names]
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise CorruptError(f"{checkpoint.path} is not whole, nothing was loaded:\n{lines}", problems)


def _ready(checkpoint: Checkpoint, plan: LoadPlan, source: Source, objects: Sequence[str]) -> dict[str, Any]:
    """Look at all that may be wrong before the target changes; the objects, as they are to be set."""
    _files_there(checkpoint, plan)
    for reads in plan.reads:
        source.find(reads)
    return {fqn: _object(checkpoint, fqn) for fqn in objects}


def _fill(source: Source, plan: LoadPlan, held: Sequence[Held], verify: bool) -> None:
    for reads, target in zip(plan.reads, held, strict=True):
        for i in range(len(reads)):
            source.read(reads, i, target.piece(int(reads.want[i]), reads.target_box(i)), verify)


def _object(checkpoint: Checkpoint, fqn: str) -> Any:
    if checkpoint.values is not None:
        return checkpoint.values[fqn]
    extent = checkpoint.metadata.objects[fqn]
    data = checkpoint.files.read(checkpoint.metadata.files[extent.file], extent.start, extent.length)
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        raise UnsafeError(
            f"object {fqn!r} of {checkpoint.path} is not made of plain values, so it is not unpickled: "
            f"{error}\nIf you trust its writer, allow its classes by torch.serialization.add_safe_globals.",
            [fqn],
        ) from error
