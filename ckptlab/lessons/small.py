"""A small model whose every element tells where it stands, and real ranks that save it.

The element at row i, column j of a weight of layer d is `1000 d + i + j / 100`. Knows no lesson.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ckptlab.layout import Layout, Mesh
from ckptlab.live.ops import POISON
from ckptlab.live.ranks import Context, Ranks
from ckptlab.metadata import Tensor
from ckptlab.plan.holding import fitted
from ckptlab.storage import Checkpoint, open_checkpoint

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor

LAYERS = 4
_EMBEDDING = 9
"""The embedding's number, as if it were a layer."""

TENSORS = (
    Tensor("embed.weight", "float32", (50, 24)),
    *(
        Tensor(f"layers.{d}.{name}.weight", "float32", shape)
        for d in range(LAYERS)
        for name, shape in (("norm", (24,)), ("wq", (30, 24)), ("w1", (43, 24)))
    ),
)
"""What the model is made of; 43 rows go into no number of ranks."""


def values(tensor: Tensor) -> npt.NDArray[np.float32]:
    """Every element of a tensor of the model; one of a vector is as if it stood in row 0."""
    layer = int(tensor.fqn.split(".")[1]) if tensor.fqn.startswith("layers.") else _EMBEDDING
    rows, columns = (1, *tensor.shape)[-2:]
    every = 1000 * layer + np.arange(rows)[:, None] + np.arange(columns) / 100
    return every.reshape(tensor.shape).astype(np.float32)


def target(context: Context, tensor: Tensor, layout: Layout) -> DTensor:
    """Room for what this rank holds under a layout, none of it right yet; axes that cannot cut copy."""
    from ckptlab.engine.made import blank

    chosen = fitted(layout, tensor.shape)
    mesh = _device_mesh(chosen.mesh, context.device.partition(":")[0])
    return blank(tensor, chosen, mesh, context.device, POISON)


def held_by(context: Context, tensor: Tensor, layout: Layout) -> DTensor:
    """The tensor as this rank holds it under a layout."""
    import torch

    out = target(context, tensor, layout)
    mine, whole = fitted(layout, tensor.shape).shards(tensor.shape).of(context.rank), values(tensor)
    for row in range(len(mine)):
        box = mine.boxes[row]
        inner = [slice(low, low + n) for low, n in zip(mine.local[row].tolist(), box.shape, strict=True)]
        out.to_local()[tuple(inner)] = torch.from_numpy(whole[box.slices].copy()).to(context.device)
    return out


@lru_cache(maxsize=32)
def _device_mesh(mesh: Mesh, device: str) -> DeviceMesh:
    """A mesh makes process groups, which last as long as the ranks: so one a shape."""
    from ckptlab.engine.made import device_mesh

    return device_mesh(mesh, device)


def save_small(context: Context, path: str, layout: Layout, tensors: Sequence[Tensor]) -> int:
    """Save tensors of the model under one layout with ckptlab; the bytes that this rank wrote."""
    from ckptlab import engine

    state: dict[str, Any] = {tensor.fqn: held_by(context, tensor, layout) for tensor in tensors}
    return engine.save(state, path).nbytes


def saved(ranks: Ranks, layout: Layout, path: str, tensors: Sequence[Tensor] = TENSORS) -> Checkpoint:
    """The checkpoint of the model that real ranks save under a layout, in place of what was at `path`."""
    whole = os.path.realpath(path)
    shutil.rmtree(whole, ignore_errors=True)
    ranks.run(save_small, whole, layout, tuple(tensors))
    return open_checkpoint(path)
