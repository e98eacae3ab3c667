"""A load planner that applies a transform, in stock `torch.distributed.checkpoint.load` too.

It asks for boxes of the stored tensors and hands out views of the target's memory to fill. Geometry is
asked of `plan`; it opens no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    MetadataIndex,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.metadata import Metadata as StockMetadata
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, ReadItem
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from ckptlab.dcp.default_planner import DefaultLoadPlanner
from ckptlab.engine.held import Held, HeldTensors, hold
from ckptlab.engine.made import without_memory
from ckptlab.engine.state import flatten
from ckptlab.engine.transform import refuse_without_values, sources
from ckptlab.layout import Box
from ckptlab.metadata import Tensor
from ckptlab.plan.bind import bind
from ckptlab.plan.check import errors, refuse
from ckptlab.plan.transform import Transform

__all__ = ["TransformPlanner"]


class TransformPlanner(DefaultLoadPlanner):
    """Loads through a transform: `dcp.load(state, checkpoint_id=path, planner=TransformPlanner(transform))`.

    Every mismatch is in one `MismatchError`, before anything is loaded; `allow_partial_load` lets keys pass
    that the checkpoint has not. Dtypes are converted as `transform.dtype` allows. Stock storage reads a
    whole chunk for each box that is wanted of it; `ckptlab.load(..., transform=)` reads what is wanted.
    """

    def __init__(
        self,
        transform: Transform,
        flatten_state_dict: bool = True,
        flatten_sharded_tensors: bool = True,
        allow_partial_load: bool = False,
    ) -> None:
        super().__init__(flatten_state_dict, flatten_sharded_tensors, allow_partial_load)
        self.transform = transform
        self._views: list[torch.Tensor] = []
        self._without_values: set[str] = set()

    def set_up_planner(
        self,
        state_dict: dict[str, Any],
        metadata: StockMetadata | None = None,
        is_coordinator: bool = False,
    ) -> None:
        """As torch's, which gives tensors on the meta device memory; remembers which those were."""
        leaves = flatten(state_dict).values.items()
        self._without_values = {fqn for fqn, value in leaves if without_memory(value)}
        super().set_up_planner(state_dict, metadata, is_coordinator)

    def create_local_plan(self) -> LoadPlan:
        """What this rank reads of the stored tensors. `MismatchError` lists all that does not fit."""
        assert self.metadata is not None
        held = _held(self.state_dict)
        target = {fqn: held[fqn].tensor if fqn in held else None for fqn in self.state_dict}
        bound = bind(self.transform, _told(self.metadata), target)
        strict = not self.allow_partial_load
        refuse("the checkpoint", errors(bound.found, strict, self.transform.dtype))
        refuse_without_values(bound, self._without_values)
        items, self._views = [], []
        for fqn in target:
            if fqn in bound.objects:
                items.append(_object(fqn, bound.objects[fqn]))
            for one in sources(bound, held, [fqn]):
                items += self._items(fqn, one)
        return LoadPlan(items)

    def _items(self, fqn: str, one: Held) -> list[ReadItem]:
        """The reads that fill one target's views; each is found again by its number."""
        assert self.metadata is not None
        stored = self.metadata.state_dict_metadata[one.fqn]
        assert isinstance(stored, TensorStorageMetadata)
        items = []
        for row in range(len(one.cut.mine)):
            box = one.cut.mine.boxes[row]
            wanted = ChunkStorageMetadata(torch.Size(box.offset), torch.Size(box.shape))
            index = MetadataIndex(fqn, wanted.offsets, len(self._views))
            local = Box(tuple(one.cut.mine.local[row].tolist()), box.shape)
            self._views.append(one.piece(row, local))
            found = create_read_items_for_chunk_list(one.fqn, stored, [wanted])
            items += [replace(item, dest_index=index) for item in found]
        return items

    def lookup_tensor(self, index: MetadataIndex) -> torch.Tensor:
        """The view that a read fills."""
        assert index.index is not None
        return self._views[index.index]


def _held(state: Mapping[str, Any]) -> HeldTensors:
    there = dist.is_available() and dist.is_initialized()
    rank, world = (dist.get_rank(), dist.get_world_size()) if there else (0, 1)
    tensors = {fqn: value for fqn, value in state.items() if isinstance(value, torch.Tensor)}
    return hold(tensors, rank, range(world))


def _told(metadata: StockMetadata) -> dict[str, Tensor | None]:
    """What a checkpoint has by key, as `plan.bind` asks for it."""
    return {
        fqn: Tensor(fqn, str(it.properties.dtype).removeprefix("torch."), tuple(it.size))
        if isinstance(it, TensorStorageMetadata)
        else None
        for fqn, it in metadata.state_dict_metadata.items()
    }


def _object(fqn: str, stored: str) -> ReadItem:
    none = torch.Size((0,))
    return ReadItem(LoadItemType.BYTE_IO, MetadataIndex(fqn), none, MetadataIndex(stored), none, none)
