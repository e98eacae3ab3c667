"""How a checkpoint lies in far files, told to the forecast.

It asks no bytes, and knows no request.
"""

from __future__ import annotations

from ckptlab.plan.far import Far, Wrapped
from ckptlab.storage import Checkpoint
from ckptlab.storage.template import template


def far_of(checkpoint: Checkpoint, verify: bool = False) -> Far | None:
    """What the forecast has to know of a checkpoint's far files; None where they are local.

    `verify` says that the load checks chunks which are read in part, too.
    """
    if checkpoint.files.mapped:
        return None
    bare, known = checkpoint.payloads is not None, checkpoint.values is not None
    return Far(None if bare else _wrapped, checkpoint.ours, objects=not known, verify=verify)


def _wrapped(dtype: str, shape: tuple[int, ...]) -> Wrapped:
    known = template(dtype, shape)
    return Wrapped(len(known.before), known.crc_at + 4)
