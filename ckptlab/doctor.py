"""`ckptlab.diagnose`: why a checkpoint does not load into a target, whatever both are.

It opens both sides and asks `plan.diagnose`; torch is imported only for a target that is torch's own.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from ckptlab.errors import CheckpointError, UnsafeError
from ckptlab.events import Progress, silent
from ckptlab.explorer.rounding import rounding
from ckptlab.plan.diagnose import Diagnosis, Finding, Side, side_of
from ckptlab.plan.diagnose import diagnose as compared
from ckptlab.storage import Checkpoint, open_checkpoint
from ckptlab.storage.torch_save import gc_paused

_LOOKED_INTO = 20
"""Objects that are looked at, to say what they are where a tensor is wanted."""


def diagnose(
    checkpoint: str | os.PathLike[str] | Checkpoint,
    target: Any,
    *,
    rank: int | None = None,
    measure: bool = False,
    progress: Progress = silent,
) -> Diagnosis:
    """Everything that keeps a checkpoint from loading into a target: causes, how sure, and remedies.

    `target` is a model, a (nested) state_dict (of tensors on the meta device too), or a checkpoint, open
    or given by its path. No tensor's data is read unless `measure` asks what a narrower dtype would
    round; that reads every tensor concerned, as a stream, and tells `progress`. `rank` is whose flat shard
    the target has (this process's, if None).

    The result's `.transform` has the remedies that are sure and lose nothing, for
    `load(..., transform=)`; `.transform_with(findings)` takes in those that were looked at. Raises what
    opening raises, and `LayoutError` for a target that is none.
    """
    opened = checkpoint if isinstance(checkpoint, Checkpoint) else open_checkpoint(checkpoint)
    wanted, name = _wanted(target, rank)
    stored = side_of(opened.metadata)
    clash = [key for key in stored.objects if key in wanted.tensors][:_LOOKED_INTO]
    stored = replace(stored, objects={**stored.objects, **{key: _said(opened, key) for key in clash}})
    # A hundred thousand keys are a million small values, none of them garbage.
    with gc_paused():
        found = compared(stored, wanted, opened.path, name)
    if not measure:
        return found
    return replace(found, findings=tuple(_measured(it, found, opened, wanted, progress) for it in found))


def _wanted(target: Any, rank: int | None) -> tuple[Side, str]:
    if isinstance(target, str | os.PathLike):
        target = open_checkpoint(target)
    if isinstance(target, Checkpoint):
        return side_of(target.metadata), target.path
    if isinstance(target, Side):
        return target, "the target"
    from ckptlab.engine.target_of import target_of

    kind = type(target).__name__
    return target_of(target, rank), "the state_dict" if isinstance(target, dict) else f"the {kind}"


def _said(checkpoint: Checkpoint, key: str) -> str:
    """What an object is, in words."""
    try:
        value = checkpoint[key]
    except UnsafeError as error:
        return ", ".join(map(str, error.problems)) or "made of more than plain values"
    except CheckpointError:
        return "unreadable"
    return (
        f"{type(value).__name__} {value!r}" if isinstance(value, int | float | str) else type(value).__name__
    )


def _measured(
    finding: Finding, found: Diagnosis, checkpoint: Checkpoint, wanted: Side, progress: Progress
) -> Finding:
    """A finding of rounding, with how much it is."""
    if finding.kind not in ("narrowed", "number") or not finding.cost:
        return finding
    dtypes = {found.pairs[key]: wanted.tensors[key].dtype for key in finding.keys}
    return replace(finding, cost=str(rounding(checkpoint, dtypes, progress)))
