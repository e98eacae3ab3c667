"""Tensors as this rank holds them: boxes, and the memory behind them.

The only place that reads what DTensor and ShardedTensor keep inside. It asks `layout` for geometry
and knows no files and no collectives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor import Replicate as TorchReplicate
from torch.distributed.tensor import Shard as TorchShard
from torch.distributed.tensor._dtensor_spec import DTensorSpec
from torch.distributed.tensor.placement_types import _StridedShard

from ckptlab.errors import LayoutError
from ckptlab.layout import Box, Boxes, Layout, Mesh, Placement, Replicate, Shard, Shards, StridedShard
from ckptlab.metadata import ITEMSIZE, Tensor
from ckptlab.plan.holding import everywhere


@dataclass(frozen=True, eq=False)
class Cut:
    """How a tensor is sharded; tensors of one dtype that are sharded alike share it.

    `shards` tells who holds what, on every rank as far as this one can know, `mine` what this rank does.
    `layout` is known for a DTensor. A `plain` tensor is whole on every rank that has it, and nothing says
    that it is the same there.
    """

    dtype: str
    shape: tuple[int, ...]
    shards: Shards
    mine: Shards
    layout: Layout | None = None
    plain: bool = False

    @cached_property
    def numel(self) -> int:
        """Elements that this rank holds."""
        return int(self.mine.boxes.numel.sum())


class Held(NamedTuple):
    """A tensor as this rank sees it: `memory[i]` is the local torch tensor behind row i of `cut.mine`."""

    fqn: str
    cut: Cut
    memory: tuple[torch.Tensor, ...]

    @property
    def tensor(self) -> Tensor:
        """The whole of which this rank has a part."""
        return Tensor(self.fqn, self.cut.dtype, self.cut.shape)

    def piece(self, row: int, within: Box | None) -> torch.Tensor:
        """The part of the memory behind row `row` of `cut.mine`, all of it if `within` is None.

        `within` counts in the local tensor.
        """
        return self.memory[row] if within is None else self.memory[row][within.slices]

    def place_of(self, box: Box) -> tuple[int, Box | None]:
        """Where `box`, one of those in `cut.mine`, lies in this rank's memory, as `piece` takes it."""
        mine = self.cut.mine
        same = (mine.boxes.offsets == box.offset).all(axis=1) & (mine.boxes.shapes == box.shape).all(axis=1)
        row = int(np.flatnonzero(same)[0])
        return row, self.within(row, Box(tuple(mine.local[row].tolist()), box.shape))

    def within(self, row: int, box: Box) -> Box | None:
        """The box, counted in the local tensor, as `piece` takes it: None if that is all there is."""
        return None if box.shape == tuple(self.memory[row].shape) else box

    def piece_of(self, box: Box) -> torch.Tensor:
        """The view of this rank's memory that is `box`, one of those in `cut.mine`."""
        return self.piece(*self.place_of(box))


def hold(values: Mapping[str, torch.Tensor], rank: int, ranks: Sequence[int]) -> dict[str, Held]:
    """What this rank holds of some tensors, and what it knows of the others; plain ones are on all `ranks`.

    Raises `LayoutError` for a tensor that has no boxes: a pending sum (`Partial`), a sparse or a
    quantized tensor; and for one whose elements do not lie where its placements say.
    """
    alike: dict[int, tuple[DTensorSpec, Cut, int, int]] = {}
    held = {}
    for fqn, value in values.items():
        if not isinstance(value, DTensor):
            held[fqn] = _hold(fqn, value, rank, ranks)
            continue
        spec, local = value._spec, value._local_tensor
        number = hash(spec)
        known = alike.get(number)
        if known is None or not _cut_alike(known[0], spec):
            cut = _cut(fqn, value, rank)
            known = alike[number] = spec, cut, cut.numel, len(cut.mine)
        _, cut, numel, rows = known
        if local.numel() != numel:
            raise _misplaced(fqn, local.numel(), cut, rank)
        memory = local.detach() if local.requires_grad else local
        held[fqn] = Held(fqn, cut, (memory,) * rows)
    return held


def _cut_alike(a: DTensorSpec, b: DTensorSpec) -> bool:
    """Whether tensors of these specs, whose hashes are the same, are cut alike.

    Their own `==` takes twice as long. In some versions of torch placements of two types may be equal, but
    then they have not the same hash.
    """
    return a.mesh is b.mesh and a.tensor_meta == b.tensor_meta and a.placements == b.placements


def _misplaced(fqn: str, there: int, cut: Cut, rank: int) -> LayoutError:
    placements = list(cut.layout.placements) if cut.layout else None
    return LayoutError(
        f"{fqn!r}: rank {rank} has {there} elements of it, not {cut.numel} as {placements} says. "
        "Its local tensor was made otherwise; cut it as torch.chunk does, or save full_tensor()"
    )


def _cut(fqn: str, value: DTensor, rank: int) -> Cut:
    dtype, spec = _dtype(fqn, value.dtype), value._spec
    try:
        layout, shards, mine = _sharded(spec.mesh, spec.placements, value.shape, rank)
        return Cut(dtype, tuple(value.shape), shards, mine, layout)
    except LayoutError as error:
        raise LayoutError(f"{fqn!r}: {error}") from None


def _hold(fqn: str, value: torch.Tensor, rank: int, ranks: Sequence[int]) -> Held:
    dtype = _dtype(fqn, value.dtype)
    if isinstance(value, ShardedTensor):
        return _hold_sharded(fqn, dtype, value, rank)
    if value.layout is not torch.strided:
        raise LayoutError(
            f"{fqn!r} is a {value.layout} tensor; only dense tensors have chunks, so call .to_dense()"
        )
    return Held(fqn, _plain(dtype, tuple(value.shape), rank, tuple(ranks)), (value.detach(),))


@lru_cache(maxsize=4096)
def _plain(dtype: str, shape: tuple[int, ...], rank: int, ranks: tuple[int, ...]) -> Cut:
    shards = everywhere(shape, ranks)
    return Cut(dtype, shape, shards, shards.of(rank), plain=True)


@lru_cache(maxsize=4096)
def _sharded(
    mesh: DeviceMesh, placements: tuple[object, ...], size: torch.Size, rank: int
) -> tuple[Layout, Shards, Shards]:
    """What every rank holds, and what this one does: found once for all tensors that are sharded alike."""
    layout = Layout(_mesh(mesh), tuple(map(_placement, placements)))
    shards = layout.shards(tuple(size))
    return layout, shards, shards.of(rank)


def _hold_sharded(fqn: str, dtype: str, value: ShardedTensor, rank: int) -> Held:
    known, shape = value.metadata().shards_metadata, tuple(value.shape)
    ndim = len(shape)
    ranks = [shard.placement.rank() if shard.placement else rank for shard in known]
    boxes = Boxes(
        np.array([shard.shard_offsets for shard in known], np.int64).reshape(len(known), ndim),
        np.array([shard.shard_sizes for shard in known], np.int64).reshape(len(known), ndim),
    )
    shards = Shards(np.array(ranks, np.int64), boxes, np.zeros_like(boxes.offsets))
    full = boxes.numel > 0
    mine = shards.of(rank)
    assert len(mine) == len(value.local_shards())
    kept = [s.tensor.detach() for s, n in zip(value.local_shards(), mine.boxes.numel, strict=True) if n]
    whole = Shards(shards.rank[full], boxes.take(full), shards.local[full])
    return Held(fqn, Cut(dtype, shape, whole, whole.of(rank)), tuple(kept))


@lru_cache(maxsize=256)
def _mesh(mesh: DeviceMesh) -> Mesh:
    return Mesh(tuple(mesh.mesh.shape), tuple(mesh.mesh_dim_names or ()), tuple(mesh.mesh.flatten().tolist()))


def _placement(placement: object) -> Placement:
    if isinstance(placement, _StridedShard):
        return StridedShard(placement.dim, int(placement.split_factor))
    if isinstance(placement, TorchShard):
        return Shard(placement.dim)
    if isinstance(placement, TorchReplicate):
        return Replicate()
    raise LayoutError(f"placement {placement}: its elements are on no rank; redistribute it first")


_DTYPES = {getattr(torch, name): name for name in ITEMSIZE}


def _dtype(fqn: str, dtype: torch.dtype) -> str:
    name = _DTYPES.get(dtype)
    if name is None:
        raise LayoutError(f"{fqn!r} has dtype {dtype}, which has no plain bytes to store; convert it first")
    return name
