"""What live ranks do to prove a load transform: load a target through it, and compare every element.

An op is a function of its module, so that any rank can import it; torch is imported where it runs. No
pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from ckptlab.layout import Layout, Mesh, Shard
from ckptlab.live.ranks import Context
from ckptlab.metadata import Tensor
from ckptlab.plan.holding import fitted
from ckptlab.plan.transform import Transform

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


@dataclass(frozen=True)
class Mended:
    """What one rank did: keys filled, keys that stay (wholly or in part) as they were, bytes, the verdict.

    `different` are keys of which an element is not, bit for bit, what the transform makes of the stored ones.
    """

    rank: int
    loaded: int
    kept: int
    nbytes: int
    elements: int
    different: tuple[str, ...]


def mended(
    context: Context, path: str, transform: Transform, tensors: Sequence[Tensor], objects: Sequence[str]
) -> Mended:
    """Load a target of zeros through a transform, sharded over all ranks by rows, and compare it.

    Raises what the load raises: `MismatchError` if the transform leaves something that does not fit.
    """
    from ckptlab import engine
    from ckptlab.engine.made import blank

    layout = Layout(Mesh((context.world,)), (Shard(0),))
    mesh = _device_mesh(layout.mesh, context.device.partition(":")[0])
    state: dict[str, object] = dict.fromkeys(objects)
    for tensor in tensors:
        state[tensor.fqn] = blank(tensor, fitted(layout, tensor.shape), mesh, context.device)
    report = engine.load(state, path, transform=transform, progress=context.tell)
    verdict = engine.verify_loaded(state, path, transform=transform, progress=context.tell)
    return Mended(
        context.rank, len(report.loaded), len(report.kept), report.nbytes, verdict.elements, verdict.different
    )


@lru_cache(maxsize=32)
def _device_mesh(mesh: Mesh, device: str) -> DeviceMesh:
    """A mesh makes process groups, which last as long as the ranks: so one a shape, not one a run."""
    from ckptlab.engine.made import device_mesh

    return device_mesh(mesh, device)
