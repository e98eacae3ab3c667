"""`torch.distributed.checkpoint.format_utils`: between DCP checkpoints and `torch.save` files.

As torch's, but no file that it opens can run code. It knows no process group but the default one.
"""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed._shard._utils import narrow_tensor_by_index
from torch.distributed.checkpoint import format_utils as torchs
from torch.distributed.checkpoint._nested_dict import flatten_state_dict
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner as TorchsPlanner
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner
from torch.futures import Future

from ckptlab.dcp.default_planner import DefaultLoadPlanner
from ckptlab.dcp.torchs import rest_of
from ckptlab.engine.harmless import harmless
from ckptlab.errors import CheckpointError
from ckptlab.storage.convert import convert

__all__ = [
    "BroadcastingTorchSaveReader",
    "DynamicMetaLoadPlanner",
    "dcp_to_torch_save",
    "torch_save_to_dcp",
]

__getattr__ = rest_of(__name__)


class DynamicMetaLoadPlanner(torchs.DynamicMetaLoadPlanner, DefaultLoadPlanner):
    """Loads what the target asks for from a storage that has no metadata, as a `torch.save` file."""


class BroadcastingTorchSaveReader(torchs.BroadcastingTorchSaveReader):
    """Reads a `torch.save` file on the coordinator alone, and sends each tensor to all ranks.

    For `load` with a `DynamicMetaLoadPlanner`, under a process group. Only tensors can be loaded, and
    the coordinator holds all of the file.
    """

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Fill the planner's tensors. `CheckpointError` on every rank if the file does not fit them."""
        assert isinstance(planner, TorchsPlanner)
        stored: dict[str, torch.Tensor] = {}
        failure: list[Exception | None] = [None]
        if self.is_coordinator:
            try:
                stored = self._read(planner)
            except Exception as error:
                failure = [error]
        dist.broadcast_object_list(failure, src=self.coordinator_rank)
        if failure[0] is not None:
            raise failure[0]
        device = dist.distributed_c10d._get_pg_default_device()
        items = {fqn: [i for i in plan.items if i.storage_index.fqn == fqn] for fqn in planner.state_dict}
        # Every rank takes part for every tensor, also where it holds no piece of it.
        for fqn, target in planner.state_dict.items():
            whole = (
                stored.pop(fqn).to(device=device, dtype=target.dtype)
                if self.is_coordinator
                else torch.empty(target.shape, dtype=target.dtype, device=device)
            )
            dist.broadcast(whole.contiguous(), src=self.coordinator_rank)
            for item in items[fqn]:
                piece = planner.resolve_tensor(item).detach()
                # The planner counts from the chunk, and takes what this rank holds for one.
                corner = item.storage_index.offset or (0,) * whole.ndim
                start = [a + b for a, b in zip(corner, item.storage_offsets, strict=True)]
                piece.copy_(narrow_tensor_by_index(whole, start, item.lengths))
                planner.commit_tensor(item, piece)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _read(self, planner: TorchsPlanner) -> dict[str, torch.Tensor]:
        """The file's tensors that the planner asks for."""
        assert self.checkpoint_id is not None
        with harmless():
            whole: dict[str, Any] = torch.load(self.checkpoint_id, map_location="cpu", weights_only=True)
        if planner.flatten_state_dict:
            whole, _ = flatten_state_dict(whole)
        wrong = [
            f"{fqn}: {_say(whole.get(fqn))}, target {_say(target)}"
            for fqn, target in planner.state_dict.items()
            if _say(whole.get(fqn)) != _say(target)
        ]
        if wrong:
            lines = "\n".join(f"  {line}" for line in wrong)
            raise CheckpointError(f"{self.checkpoint_id} does not fit the target:\n{lines}", wrong)
        return {fqn: whole[fqn] for fqn in planner.state_dict}


def _say(value: object) -> str:
    if value is None:
        return "nothing"
    return str(list(value.shape)) if isinstance(value, torch.Tensor) else "no tensor"


def dcp_to_torch_save(
    dcp_checkpoint_dir: str | os.PathLike[str], torch_save_path: str | os.PathLike[str]
) -> None:
    """Write the whole of a DCP checkpoint, nested as it was saved, into one `torch.save` file.

    As a stream: the whole is never in memory. Raises `CheckpointError` for objects that are not made
    of plain values.
    """
    convert(dcp_checkpoint_dir, torch_save_path, format="torch", overwrite=True)


def torch_save_to_dcp(
    torch_save_path: str | os.PathLike[str], dcp_checkpoint_dir: str | os.PathLike[str]
) -> None:
    """Write what a `torch.save` file holds, tensors and plain values, as a DCP checkpoint; as a stream."""
    convert(torch_save_path, dcp_checkpoint_dir, format="dcp", overwrite=True)
