"""What live ranks are asked to do with a checkpoint.

Each op is a function of its module, so that any rank can import it; torch is imported where an
op runs, not where it is asked for. No pictures.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ckptlab.events import Event, Phase
from ckptlab.layout import Layout, Mesh
from ckptlab.live.peak import UNKNOWN, Peak
from ckptlab.live.ranks import Context
from ckptlab.plan.bind import told
from ckptlab.plan.holding import fitted
from ckptlab.plan.implied import implied
from ckptlab.plan.transform import Transform
from ckptlab.storage import open_checkpoint

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

POISON = 0xA5
"""Every byte of a target before it is loaded, so that what was not loaded is seen."""


@dataclass(frozen=True)
class Outcome:
    """What one rank did: bytes of elements and wrapping that it read, seconds by phase, the verdict.

    `peak` is the most memory that the load took of the host above the target's own, `device_peak` the same
    of its GPU; in bytes, `peak.UNKNOWN` where nobody tells. Far files were asked for `fetched` bytes in
    `requests` ranged reads.
    """

    rank: int
    nbytes: int
    reads: int
    header_bytes: int
    seconds: Mapping[Phase, float]
    elements: int
    different: tuple[str, ...]
    peak: int = UNKNOWN
    device_peak: int = 0
    requests: int = 0
    fetched: int = 0

    @property
    def equal(self) -> bool:
        """Every loaded element is, bit for bit, the stored one."""
        return not self.different


def reshard(
    context: Context,
    path: str,
    layout: Layout | Mapping[str, Layout],
    verify: bool = False,
    transform: Transform | None = None,
) -> Outcome:
    """Load every tensor under one layout, or each under its own, then compare with what is stored.

    With a `transform`, what it makes of them. Tells an `events.Event` for each step, in seconds since this
    call. `verify`, as `engine.load` has it.
    """
    import torch

    from ckptlab import engine
    from ckptlab.engine.made import blank
    from ckptlab.engine.state import unflatten

    began = time.perf_counter()

    def tell(event: Event) -> None:
        # Load and comparison each count from their own beginning.
        context.tell(replace(event, seconds=time.perf_counter() - began))

    tell(Event(context.rank, "start", 0, 0, 0.0))
    metadata, kind = open_checkpoint(path).metadata, context.device.partition(":")[0]
    wanted = implied(transform or Transform(), told(metadata))
    state: dict[str, Any] = {}
    for fqn, tensor in wanted.items():
        if tensor is None:
            state[fqn] = None
            continue
        chosen = layout if isinstance(layout, Layout) else layout[fqn]
        mesh = _device_mesh(chosen.mesh, kind)
        state[fqn] = blank(tensor, fitted(chosen, tensor.shape), mesh, context.device, POISON)
    if transform is None:
        state = unflatten(state, metadata.paths)
    if kind == "cuda":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
    peak = Peak()
    report = engine.load(state, path, transform=transform, verify=verify, progress=tell)
    most = peak.nbytes
    device_peak = torch.cuda.max_memory_allocated() - held if kind == "cuda" else 0
    verdict = engine.verify_loaded(state, path, transform=transform, progress=tell)
    tell(Event(context.rank, "done", 0, 0, 0.0))
    return Outcome(
        context.rank,
        report.nbytes,
        report.reads,
        report.header_bytes,
        report.seconds,
        verdict.elements,
        verdict.different,
        most,
        device_peak,
        report.requests,
        report.fetched,
    )


@lru_cache(maxsize=32)
def _device_mesh(mesh: Mesh, device: str) -> DeviceMesh:
    """A mesh makes process groups, which last as long as the ranks: so one a shape, not one a run."""
    from ckptlab.engine.made import device_mesh

    return device_mesh(mesh, device)


def save_demo(context: Context, path: str) -> int:
    """Train the demo model for a step under HSDP and save it with its optimizer; the bytes written here."""
    from ckptlab.live.demo import train_and_save

    return train_and_save(context, path)
