"""Tensors as this rank holds them: boxes, and the memory behind them.

The only place that reads what DTensor and ShardedTensor keep inside. It asks `layout` for geometry
and knows no files and no collectives.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain
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
from ckptlab.layout.box import Ints
from ckptlab.metadata import ITEMSIZE, Tensor, Tensors, grouped
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

    def place_of(self, box: Box) -> tuple[int, Box]:
        """The row of `box` in `mine`, of which it is one, and where it is in the local tensor."""
        mine = self.mine
        same = (mine.boxes.offsets == box.offset).all(axis=1) & (mine.boxes.shapes == box.shape).all(axis=1)
        row = int(np.flatnonzero(same)[0])
        return row, Box(tuple(mine.local[row].tolist()), box.shape)


class Held(NamedTuple):
    """A tensor as this rank sees it: `memory[i]` is the local torch tensor behind row i of `cut.mine`."""

    fqn: str
    cut: Cut
    memory: tuple[torch.Tensor, ...]

    @property
    def tensor(self) -> Tensor:
        """The whole of which this rank has a part."""
        return Tensor(self.fqn, self.cut.dtype, self.cut.shape)

    def piece(self, row: int, box: Box) -> torch.Tensor:
        """The part of the memory behind row `row` of `cut.mine` that is `box`, counted in the local one."""
        memory = self.memory[row]
        return memory if box.shape == tuple(memory.shape) else memory[box.slices]

    def piece_of(self, box: Box) -> torch.Tensor:
        """The view of this rank's memory that is `box`, one of those in `cut.mine`."""
        return self.piece(*self.cut.place_of(box))


class HeldAlike(NamedTuple):
    """Tensors of one cut: their positions among all that are held, ascending."""

    rows: Ints
    cut: Cut


@dataclass(frozen=True, eq=False)
class HeldTensors(Mapping[str, Held]):
    """What a rank holds of some tensors, by fqn: one `Held` a tensor, those alike told together.

    A state has thousands of tensors, but few cuts. `memory` is that of each tensor, in the order of `names`.
    In what a load fills two may have one name; they are told apart by their positions.
    """

    names: Sequence[str]
    memory: Sequence[tuple[torch.Tensor, ...]]
    alike: Sequence[HeldAlike]

    @classmethod
    def of(cls, held: Iterable[Held]) -> HeldTensors:
        """These, in their order."""
        every = tuple(held)
        alike = [HeldAlike(rows, every[rows[0]].cut) for rows in grouped(id(one.cut) for one in every)]
        return cls([one.fqn for one in every], [one.memory for one in every], alike)

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __contains__(self, fqn: object) -> bool:
        return fqn in self._row

    def __getitem__(self, fqn: str) -> Held:
        row = self._row[fqn]
        return Held(fqn, self.cuts[row], self.memory[row])

    @cached_property
    def tensors(self) -> Tensors:
        """The wholes of which this rank has parts."""
        forms: dict[tuple[str, tuple[int, ...]], int] = {}
        kinds = np.empty(len(self), np.int64)
        for rows, cut in self.alike:
            kinds[rows] = forms.setdefault((cut.dtype, cut.shape), len(forms))
        return Tensors(self.names, kinds, list(forms))

    @property
    def nbytes(self) -> int:
        """Bytes of those wholes."""
        return sum(Tensor("", cut.dtype, cut.shape).nbytes * len(rows) for rows, cut in self.alike)

    @property
    def locals(self) -> Iterator[torch.Tensor]:
        """Every local tensor."""
        return chain.from_iterable(self.memory)

    @cached_property
    def cuts(self) -> Sequence[Cut]:
        """The cut of each tensor, in the order of `names`."""
        found = {row: cut for rows, cut in self.alike for row in rows.tolist()}
        return [found[row] for row in range(len(self))]

    @cached_property
    def _row(self) -> dict[str, int]:
        return dict(zip(self.names, range(len(self)), strict=True))

    def rows_of(self, names: Sequence[str]) -> Ints:
        """The position of each of these, -1 of what is not held."""
        if names == self.names:
            return np.arange(len(self))
        return np.array([self._row.get(fqn, -1) for fqn in names], np.int64)

    def pieces(self, rows: Ints, row: int, box: Box) -> list[torch.Tensor]:
        """What `Held.piece` is of the tensors at `rows`, which are of one cut."""
        memory = [self.memory[one][row] for one in rows.tolist()]
        whole = not memory or box.shape == tuple(memory[0].shape)
        return memory if whole else [one[box.slices] for one in memory]


class _Known(NamedTuple):
    """What is known of tensors of a spec: how they are cut, and their rows so far."""

    spec: DTensorSpec
    cut: Cut
    numel: int
    boxes: int
    rows: list[int]


def hold(values: Mapping[str, torch.Tensor], rank: int, ranks: Sequence[int]) -> HeldTensors:
    """What this rank holds of some tensors, and what it knows of the others; plain ones are on all `ranks`.

    Raises `LayoutError` for a tensor that has no boxes: a pending sum (`Partial`), a sparse or a
    quantized tensor; and for one whose elements do not lie where its placements say.
    """
    # Tensors of a module or an optimizer that are cut alike share their spec; others have each its own.
    known: dict[int, _Known] = {}
    unlike: dict[int, _Known] = {}
    alike: dict[int, tuple[list[int], Cut]] = {}
    every: list[tuple[torch.Tensor, ...]] = []
    for row, (fqn, value) in enumerate(values.items()):
        if not isinstance(value, DTensor):
            cut, memory = _hold(fqn, value, rank, ranks)
            alike.setdefault(id(cut), ([], cut))[0].append(row)
            every.append(memory)
            continue
        spec, local = value._spec, value._local_tensor
        seen = known.get(id(spec))
        if seen is None:
            seen = unlike.get(hash(spec))
            if seen is None or not _cut_alike(seen.spec, spec):
                cut = _cut(fqn, value, rank)
                rows = alike.setdefault(id(cut), ([], cut))[0]
                seen = unlike[hash(spec)] = _Known(spec, cut, cut.numel, len(cut.mine), rows)
            known[id(spec)] = seen
        _, cut, numel, boxes, rows = seen
        if local.numel() != numel:
            raise _misplaced(fqn, local.numel(), cut, rank)
        rows.append(row)
        every.append((local.detach() if local.requires_grad else local,) * boxes)
    groups = [HeldAlike(np.array(rows, np.int64), cut) for rows, cut in alike.values()]
    return HeldTensors(list(values), every, groups)


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
    spec = value._spec
    try:
        return _sharded(_dtype(fqn, value.dtype), spec.mesh, spec.placements, value.shape, rank)
    except LayoutError as error:
        raise LayoutError(f"{fqn!r}: {error}") from None


@lru_cache(maxsize=4096)
def _sharded(
    dtype: str, mesh: DeviceMesh, placements: tuple[object, ...], size: torch.Size, rank: int
) -> Cut:
    """Found once for all tensors that are sharded alike."""
    layout = Layout(_mesh(mesh), tuple(map(_placement, placements)))
    shards = layout.shards(tuple(size))
    return Cut(dtype, tuple(size), shards, shards.of(rank), layout)


def _hold(
    fqn: str, value: torch.Tensor, rank: int, ranks: Sequence[int]
) -> tuple[Cut, tuple[torch.Tensor, ...]]:
    """The cut of what is no DTensor, and its memory."""
    dtype = _dtype(fqn, value.dtype)
    if isinstance(value, ShardedTensor):
        return _hold_sharded(dtype, value, rank)
    if value.layout is not torch.strided:
        raise LayoutError(
            f"{fqn!r} is a {value.layout} tensor; only dense tensors have chunks, so call .to_dense()"
        )
    return _plain(dtype, tuple(value.shape), rank, tuple(ranks)), (value.detach(),)


@lru_cache(maxsize=4096)
def _plain(dtype: str, shape: tuple[int, ...], rank: int, ranks: tuple[int, ...]) -> Cut:
    shards = everywhere(shape, ranks)
    return Cut(dtype, shape, shards, shards.of(rank), plain=True)


def _hold_sharded(dtype: str, value: ShardedTensor, rank: int) -> tuple[Cut, tuple[torch.Tensor, ...]]:
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
    return Cut(dtype, shape, whole, whole.of(rank)), tuple(kept)


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
