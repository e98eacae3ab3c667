"""A torch state_dict as keys, boxes and memory, and back.

The only place that looks inside DTensor and ShardedTensor. It asks `layout` for geometry
and knows no files and no collectives.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import torch
from torch.distributed import get_world_size
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.distributed._shard.sharded_tensor.shard import Shard as ShardOfSharded
from torch.distributed.checkpoint.stateful import Stateful
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor import Replicate as TorchReplicate
from torch.distributed.tensor import Shard as TorchShard
from torch.distributed.tensor._dtensor_spec import DTensorSpec
from torch.distributed.tensor.placement_types import _StridedShard

from ckptlab.errors import LayoutError
from ckptlab.layout import Box, Boxes, Layout, Mesh, Placement, Replicate, Shard, Shards, StridedShard
from ckptlab.metadata import ITEMSIZE, Tensor
from ckptlab.plan.holding import Holding, everywhere

Path = tuple[str | int, ...]

_NEVER_STATEFUL = (torch.Tensor, dict)


class Leaf(NamedTuple):
    """One value of a state_dict under its fqn, and the keys that lead to it."""

    fqn: str
    path: Path
    value: Any


class Held(NamedTuple):
    """A tensor as this rank sees it: who holds what, and its own memory.

    `memory[i]` is the local torch tensor behind this rank's row i of `mine`; `layout` is known
    for a DTensor. `holding` tells of every rank, as far as this one can know. A `plain` tensor is
    whole on every rank that has it, and nothing says that it is the same there.
    """

    holding: Holding
    mine: Shards
    memory: tuple[torch.Tensor, ...]
    layout: Layout | None = None
    plain: bool = False

    def piece(self, row: int, within: Box | None) -> torch.Tensor:
        """The part of the memory behind row `row` of `mine`, all of it if `within` is None.

        `within` counts in the local tensor.
        """
        return self.memory[row] if within is None else self.memory[row][within.slices]

    def place_of(self, box: Box) -> tuple[int, Box | None]:
        """Where `box`, one of those in `mine`, lies in this rank's memory, as `piece` takes it."""
        same = (self.mine.boxes.offsets == box.offset).all(axis=1) & (
            self.mine.boxes.shapes == box.shape
        ).all(axis=1)
        row = int(np.flatnonzero(same)[0])
        return row, self.within(row, Box(tuple(self.mine.local[row].tolist()), box.shape))

    def within(self, row: int, box: Box) -> Box | None:
        """The box, counted in the local tensor, as `piece` takes it: None if that is all there is."""
        return None if box.shape == tuple(self.memory[row].shape) else box

    def piece_of(self, box: Box) -> torch.Tensor:
        """The view of this rank's memory that is `box`, one of those in `mine`."""
        return self.piece(*self.place_of(box))


def expand(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state with each `Stateful` (a module, an optimizer) replaced by its own `state_dict()`.

    They are asked in the order of their keys, the same on every rank, as many of them call collectives.
    """
    asked = sorted((key for key, value in state.items() if _stateful(value)), key=str)
    return {**state, **{key: state[key].state_dict() for key in asked}}


def _stateful(value: object) -> TypeGuard[Stateful]:
    # Asking a tensor for the methods of a protocol costs more than all else that is done with it.
    return (
        type(value) is not DTensor and not isinstance(value, _NEVER_STATEFUL) and isinstance(value, Stateful)
    )


def flatten(state: Mapping[str, Any]) -> dict[str, Leaf]:
    """Every leaf by fqn: dict keys and list positions joined by dots, as stock DCP names them.

    A list is entered only if a tensor or a dict is somewhere in it; else it is one object.
    """
    found: dict[str, Leaf] = {}
    for key, value in state.items():
        if type(value) is DTensor and type(key) is str and key not in found:
            # Most leaves are this, and need not be looked into.
            found[key] = Leaf(key, (key,), value)
        else:
            _visit(found, (str(key),), value)
    return found


def _visit(found: dict[str, Leaf], path: Path, value: Any) -> None:
    # Tensors first: there are many, and telling that one is no mapping takes long.
    if not isinstance(value, torch.Tensor):
        if isinstance(value, Mapping):
            for key, inner in value.items():
                _visit(found, (*path, str(key)), inner)
            return
        if isinstance(value, list) and _to_enter(value):
            for i, inner in enumerate(value):
                _visit(found, (*path, i), inner)
            return
    fqn = ".".join(map(str, path))
    if fqn in found:
        raise LayoutError(
            f"two values of the state_dict are both called {fqn!r}: {found[fqn].path} and {path}"
        )
    found[fqn] = Leaf(fqn, path, value)


def _to_enter(value: list[Any]) -> bool:
    return any(isinstance(v, torch.Tensor | Mapping) or (isinstance(v, list) and _to_enter(v)) for v in value)


def hand_over(target: MutableMapping[str, Any], filled: Mapping[str, Any], assign: bool = False) -> None:
    """Give each `Stateful` of `target` the state filled for it, and `target` itself its new objects.

    `assign` makes a module take the filled tensors themselves, where its own had no memory. The order is
    that of the keys, the same on every rank, as loading a state may call collectives.
    """
    for key in sorted(target, key=str):
        value = target[key]
        if isinstance(value, torch.nn.Module) and assign:
            value.load_state_dict(filled[key], assign=True)
        elif _stateful(value):
            value.load_state_dict(filled[key])
        else:
            target[key] = filled[key]


def runs_code(target: Mapping[str, Any]) -> bool:
    """Whether `hand_over` runs code that is not ours: a `Stateful`'s, or a mapping's own."""
    return type(target) not in (dict, OrderedDict) or any(_stateful(value) for value in target.values())


def put(state: MutableMapping[str, Any], path: Path, value: Any) -> None:
    """Set the value at `path` of a nested state_dict."""
    inner: Any = state
    for key in path[:-1]:
        inner = inner[_own_key(inner, key)]
    inner[_own_key(inner, path[-1])] = value


def _own_key(container: Any, key: str | int) -> Any:
    """The container's own key behind a path's: dict keys became strings on the way."""
    if isinstance(container, Mapping) and key not in container:
        return next((k for k in container if str(k) == key), key)
    return key


def unflatten(values: Mapping[str, Any], paths: Mapping[str, Path]) -> dict[str, Any]:
    """The nested state_dict of which `values` are the leaves."""
    nested: dict[str, Any] = {}
    for fqn, value in values.items():
        path = paths.get(fqn, (fqn,))
        inner: Any = nested
        for key, after in pairwise(path):
            inner = _grow(inner, key, [] if isinstance(after, int) else {})
        _grow(inner, path[-1], None)
        inner[path[-1]] = value
    return nested


def _grow(container: Any, key: str | int, default: Any) -> Any:
    if isinstance(container, list):
        assert isinstance(key, int)
        # Places of which nothing is stored were empty, and an empty dict has no leaves either.
        container += [{} for _ in range(key + 1 - len(container))]
        if container[key] == {}:
            container[key] = default
        return container[key]
    return container.setdefault(key, default)


def hold(values: Mapping[str, torch.Tensor], rank: int, ranks: Sequence[int]) -> dict[str, Held]:
    """What this rank holds of some tensors, and what it knows of the others; plain ones are on all `ranks`.

    Raises `LayoutError` for a tensor that has no boxes: a pending sum (`Partial`), a sparse or a
    quantized tensor; and for one whose elements do not lie where its placements say.
    """
    alike: dict[int, tuple[DTensorSpec, _Cut]] = {}
    held = {}
    for fqn, value in values.items():
        if not isinstance(value, DTensor):
            held[fqn] = _hold(fqn, value, rank, ranks)
            continue
        spec, local = value._spec, value._local_tensor
        number = hash(spec)
        known = alike.get(number)
        if known is None or not _cut_alike(known[0], spec):
            known = alike[number] = spec, _cut(fqn, value, rank)
        dtype, layout, shape, shards, mine, rows, own = known[1]
        if local.numel() != own:
            raise _misplaced(fqn, local.numel(), own, layout, rank)
        memory = local.detach() if local.requires_grad else local
        held[fqn] = Held(Holding(Tensor(fqn, dtype, shape), shards), mine, (memory,) * rows, layout)
    return held


_Cut = tuple[str, Layout, tuple[int, ...], Shards, Shards, int, int]
"""Dtype, layout, shape, what every rank holds, what this one does, in how many rows and elements."""


def _cut_alike(a: DTensorSpec, b: DTensorSpec) -> bool:
    """Whether tensors of these specs, whose hashes are the same, are; their own `==` takes twice as long."""
    return a.mesh is b.mesh and a.tensor_meta == b.tensor_meta and a.placements == b.placements


def _misplaced(fqn: str, there: int, told: int, layout: Layout, rank: int) -> LayoutError:
    return LayoutError(
        f"{fqn!r}: rank {rank} has {there} elements of it, not {told} as {list(layout.placements)} says. "
        "Its local tensor was made otherwise; cut it as torch.chunk does, or save full_tensor()"
    )


def _cut(fqn: str, value: DTensor, rank: int) -> _Cut:
    dtype, spec = _dtype(fqn, value.dtype), value._spec
    try:
        return dtype, *_sharded(spec.mesh, spec.placements, value.shape, rank)
    except LayoutError as error:
        raise LayoutError(f"{fqn!r}: {error}") from None


def _hold(fqn: str, value: torch.Tensor, rank: int, ranks: Sequence[int]) -> Held:
    tensor = Tensor(fqn, _dtype(fqn, value.dtype), tuple(value.shape))
    if isinstance(value, ShardedTensor):
        return _hold_sharded(tensor, value, rank)
    if value.layout is not torch.strided:
        raise LayoutError(
            f"{fqn!r} is a {value.layout} tensor; only dense tensors have chunks, so call .to_dense()"
        )
    holding = everywhere(tensor, ranks)
    return Held(holding, _of(holding.shards, rank), (value.detach(),), plain=True)


@lru_cache(maxsize=4096)
def _sharded(
    mesh: DeviceMesh, placements: tuple[object, ...], size: torch.Size, rank: int
) -> tuple[Layout, tuple[int, ...], Shards, Shards, int, int]:
    """What every rank holds, and what this one does: found once for all tensors that are sharded alike."""
    layout, shape = Layout(_mesh(mesh), tuple(map(_placement, placements))), tuple(size)
    shards = layout.shards(shape)
    return layout, shape, shards, (mine := shards.of(rank)), len(mine), int(mine.boxes.numel.sum())


@lru_cache(maxsize=4096)
def _of(shards: Shards, rank: int) -> Shards:
    return shards.of(rank)


def _hold_sharded(tensor: Tensor, value: ShardedTensor, rank: int) -> Held:
    known = value.metadata().shards_metadata
    ndim = len(tensor.shape)
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
    return Held(Holding(tensor, whole), whole.of(rank), tuple(kept))


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


def torch_placements(layout: Layout) -> tuple[Any, ...]:
    """The placements of a layout as DTensor wants them."""
    return tuple(
        _StridedShard(p.dim, split_factor=p.split_factor)
        if isinstance(p, StridedShard)
        else TorchShard(p.dim)
        if isinstance(p, Shard)
        else TorchReplicate()
        for p in layout.placements
    )


_DTYPES = {getattr(torch, name): name for name in ITEMSIZE}


def _dtype(fqn: str, dtype: torch.dtype) -> str:
    name = _DTYPES.get(dtype)
    if name is None:
        raise LayoutError(f"{fqn!r} has dtype {dtype}, which has no plain bytes to store; convert it first")
    return name


def sharded_like(model: torch.Tensor | None, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Zeros of `shape` and `dtype`, sharded as `model` is if that has this shape; else a plain tensor."""
    if model is None or tuple(model.shape) != shape:
        device = "cpu" if model is None else model.device
        return torch.zeros(shape, dtype=dtype, device=device)
    if isinstance(model, DTensor):
        local = torch.zeros_like(model._local_tensor, dtype=dtype)
        return _around(local, model)
    if isinstance(model, ShardedTensor):
        known = replace(model.metadata())
        known.tensor_properties = replace(known.tensor_properties, dtype=dtype)
        shards = [
            ShardOfSharded(torch.zeros_like(shard.tensor, dtype=dtype), shard.metadata)
            for shard in model.local_shards()
        ]
        return ShardedTensor._init_from_local_shards_and_global_metadata(
            shards, known, process_group=model._process_group
        )
    return torch.zeros_like(model, dtype=dtype)


def _around(local: torch.Tensor, model: DTensor) -> DTensor:
    """`local` as this rank's part of a tensor that is sharded as `model` is."""
    return DTensor.from_local(
        local,
        model.device_mesh,
        model.placements,
        run_check=False,
        shape=model.shape,
        stride=model.stride(),
    )


def without_memory(value: object) -> TypeGuard[torch.Tensor]:
    """Whether it is a tensor on the meta device."""
    return isinstance(value, torch.Tensor) and not isinstance(value, ShardedTensor) and value.is_meta


def materialized(value: torch.Tensor, device: str | None) -> torch.Tensor:
    """A tensor without memory, with memory: on `device`, else on its mesh's, else on the CPU."""
    if isinstance(value, DTensor):
        local = torch.empty_like(value._local_tensor, device=device or value.device_mesh.device_type)
        return _around(local, value)
    return torch.empty_like(value, device=device or "cpu")


def device_mesh(mesh: Mesh, device: str) -> DeviceMesh:
    """The mesh as torch has it, on "cpu" or "cuda"; every rank of the default process group calls it.

    Raises `LayoutError` for a mesh that is not of all ranks of that group.
    """
    world = get_world_size()
    if sorted(mesh.rank_list) != list(range(world)):
        raise LayoutError(f"{mesh!r} is of {mesh.size} ranks, not of the {world} that are running")
    ranks = torch.tensor(mesh.rank_list, dtype=torch.int).reshape(mesh.shape)
    return DeviceMesh(device, ranks, mesh_dim_names=mesh.axes)


def blank(tensor: Tensor, layout: Layout, mesh: DeviceMesh, device: str, fill: int = 0) -> DTensor:
    """A DTensor under a layout on `mesh`, every byte of it `fill`."""
    local = torch.empty(
        layout.local_shape(tensor.shape, mesh.get_rank()), dtype=getattr(torch, tensor.dtype), device=device
    )
    local.reshape(-1).view(torch.uint8).fill_(fill)
    strides = torch.empty(tensor.shape, device="meta").stride()
    placements = torch_placements(layout)
    return DTensor.from_local(
        local, mesh, placements, run_check=False, shape=torch.Size(tensor.shape), stride=strides
    )
