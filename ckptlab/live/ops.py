"""What live ranks are asked to do with a checkpoint.

Each op is a function of its module, so that any rank can import it; torch is imported where an
op runs, not where it is asked for. No pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from ckptlab.events import Phase
from ckptlab.layout import Layout, Mesh
from ckptlab.live.ranks import Context
from ckptlab.plan.holding import fitted
from ckptlab.storage import open_checkpoint

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

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
    from ckptlab import engine
    from ckptlab.engine.state import blank, unflatten

    metadata = open_checkpoint(path).metadata
    mesh = _device_mesh(layout.mesh, context.device.partition(":")[0])
    targets = {
        tensor.fqn: blank(tensor, fitted(layout, tensor.shape), mesh, context.device, POISON)
        for tensor in metadata.tensors
    }
    state = unflatten({**targets, **dict.fromkeys(metadata.objects)}, metadata.paths)
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


@lru_cache(maxsize=32)
def _device_mesh(mesh: Mesh, device: str) -> DeviceMesh:
    """A mesh makes process groups, which last as long as the ranks: so one a shape, not one a run."""
    from ckptlab.engine.state import device_mesh

    return device_mesh(mesh, device)


def save_demo(context: Context, path: str) -> int:
    """Train the demo model for a step under HSDP and save it with its optimizer; the bytes written here."""
    from ckptlab.live.demo import train_and_save

    return train_and_save(context, path)
