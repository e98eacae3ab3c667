"""What live ranks are asked to do with a checkpoint.

Each op is a function of its module, so that any rank can import it. No pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch.distributed as dist

from ckptlab import engine
from ckptlab.engine.state import blank, device_mesh, unflatten
from ckptlab.events import Phase
from ckptlab.layout import Layout
from ckptlab.live.ranks import Context
from ckptlab.plan.holding import fitted
from ckptlab.storage import open_checkpoint

POISON = 0xA5
"""Every byte of a target before it is loaded, so that what was not loaded is seen."""


@dataclass(frozen=True)
class Outcome:
    """What one rank did: bytes of elements and wrapping that it read, seconds by phase, the verdict."""

    rank: int
    nbytes: int
    reads: int
    header_bytes: int
    seconds: Mapping[Phase, float]
    elements: int
    different: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Every loaded element is, bit for bit, the stored one."""
        return not self.different


def reshard(context: Context, path: str, layout: Layout) -> Outcome:
    """Load every tensor of a checkpoint under one layout, then compare it with what is stored.

    Tells an `events.Event` for each step.
    """
    metadata = open_checkpoint(path).metadata
    kind = context.device.partition(":")[0]
    mesh = device_mesh(layout.mesh, kind)
    targets = {
        tensor.fqn: blank(tensor, fitted(layout, tensor.shape), mesh, context.device, POISON)
        for tensor in metadata.tensors
    }
    state = unflatten({**targets, **dict.fromkeys(metadata.objects)}, metadata.paths)
    dist.barrier()
    report = engine.load(state, path, progress=context.tell)
    verdict = engine.verify_loaded(state, path, progress=context.tell)
    return Outcome(
        context.rank,
        report.nbytes,
        report.reads,
        report.header_bytes,
        report.seconds,
        verdict.elements,
        verdict.different,
    )
