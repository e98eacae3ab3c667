"""What real ranks do in lesson 5: train a little model under HSDP, save it, load it, compare.

The model and the steps are those of PyTorch's own example and test of HSDP checkpoints. Runs on
ranks; knows no notebook.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from types import ModuleType
from typing import Any, Literal

import torch
import torch.distributed.checkpoint as stock_dcp
import torch.distributed.checkpoint.optimizer as stock_optimizer
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel as Fsdp
from torch.distributed.fsdp import ShardingStrategy, StateDictType
from torch.distributed.tensor import DTensor

import ckptlab.dcp as our_dcp
import ckptlab.dcp.optimizer as our_optimizer
from ckptlab.layout import Layout
from ckptlab.lessons.small import held_by
from ckptlab.live.ranks import Context
from ckptlab.metadata import Tensor

By = Literal["stock DCP", "ckptlab"]

_DCP: Mapping[By, tuple[ModuleType, ModuleType]] = {
    "stock DCP": (stock_dcp, stock_optimizer),
    "ckptlab": (our_dcp, our_optimizer),
}
"""The same names, on either engine."""

_WIDTHS = (5, 8, 4, 12)

MOMENT = "optim.state.net1.weight.exp_avg"
"""One tensor of Adam's state, of 8 rows."""


@dataclass(frozen=True)
class Seen:
    """One tensor on one rank: whether it was as saved before the load, and whether it is after it."""

    before: bool
    after: bool


def model_round_trip(context: Context, path: str, by: By, fsdp: bool) -> dict[str, Seen]:
    """Save a model under HSDP, train a step, load it again; or load it into FSDP in one row, if `fsdp`."""
    dcp, _ = _DCP[by]
    with _quiet():
        model, optimizer = _trained(context, 1, _hsdp(context), ShardingStrategy.HYBRID_SHARD)
        saved = {"model": deepcopy(model.state_dict())}
        dcp.save(saved, storage_writer=dcp.FileSystemWriter(path))
        if fsdp:
            model, _ = _trained(context, 2, _row(context), ShardingStrategy.FULL_SHARD)
        else:
            _step(context, model, optimizer, 2)
        target = {"model": deepcopy(model.state_dict())}
        before = _wholes(target)
        dcp.load(target, storage_reader=dcp.FileSystemReader(path))
        model.load_state_dict(target["model"])
        return _compared(_wholes(saved), before, _wholes({"model": model.state_dict()}))


def adam_round_trip(context: Context, path: str, by: By) -> tuple[dict[str, Seen], list[int]]:
    """Save a model with its Adam state under HSDP; load both into a second model, as the example does.

    Also tells which row of `MOMENT` each row of it is that this rank has then (-1: of
    none, all zeros; -2: of none).
    """
    dcp, optimizer = _DCP[by]
    with _quiet():
        first, first_adam = _trained(context, 1, _hsdp(context), ShardingStrategy.HYBRID_SHARD)
        saved = _state(first, first_adam)
        dcp.save(saved, storage_writer=dcp.FileSystemWriter(path))
        second, second_adam = _trained(context, 2, _hsdp(context), ShardingStrategy.HYBRID_SHARD)
        before = _locals(_state(second, second_adam))
        target = {"model": second.state_dict()}
        dcp.load(target, storage_reader=dcp.FileSystemReader(path))
        second.load_state_dict(target["model"])
        loaded = optimizer.load_sharded_optimizer_state_dict(
            model_state_dict=target["model"],
            optimizer_key="optim",
            storage_reader=dcp.FileSystemReader(path),
        )
        second_adam.load_state_dict(Fsdp.optim_state_dict_to_load(second, second_adam, loaded["optim"]))
        now, whole = _locals(_state(second, second_adam)), _wholes(saved)[MOMENT]
    return _compared(_locals(saved), before, now), [_row_of(row, whole) for row in now[MOMENT]]


def save_diverged(context: Context, path: str, by: By, tensor: Tensor, layout: Layout, rank: int) -> None:
    """Save a tensor of which one rank holds other values than its replica: its first row is -1 throughout.

    Raises what the save raises.
    """
    state = {tensor.fqn: held_by(context, tensor, layout)}
    if context.rank == rank:
        state[tensor.fqn].to_local()[0] = -1
    dcp, _ = _DCP[by]
    with _quiet():
        dcp.save(state, storage_writer=dcp.FileSystemWriter(path))


def _row_of(row: torch.Tensor, whole: torch.Tensor) -> int:
    unknown = -2 if row.any() else -1
    return next((i for i, was in enumerate(whole) if torch.equal(row, was)), unknown)


def _trained(
    context: Context, seed: int, mesh: DeviceMesh, strategy: ShardingStrategy
) -> tuple[Fsdp, torch.optim.Adam]:
    """The model under FSDP1 after one step of Adam."""
    torch.manual_seed(seed)
    layers = OrderedDict[str, nn.Module]()
    for i, (wide, out) in enumerate(pairwise(_WIDTHS), 1):
        layers[f"net{i}"] = nn.Linear(wide, out)
        layers[f"tanh{i}"] = nn.Tanh()
    device = torch.device(context.device)
    model = Fsdp(
        nn.Sequential(layers).to(device), device_id=device, device_mesh=mesh, sharding_strategy=strategy
    )
    Fsdp.set_state_dict_type(model, StateDictType.SHARDED_STATE_DICT)
    adam = torch.optim.Adam(model.parameters(), lr=0.1)
    _step(context, model, adam, seed)
    return model, adam


def _step(context: Context, model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(100 * seed + context.rank)
    batch = torch.rand(6, _WIDTHS[0], generator=generator).to(context.device)
    optimizer.zero_grad()
    model(batch).square().sum().backward()
    optimizer.step()


def _hsdp(context: Context) -> DeviceMesh:
    return _mesh(context.device.partition(":")[0], (2, context.world // 2))


def _row(context: Context) -> DeviceMesh:
    return _mesh(context.device.partition(":")[0], (context.world,))


@cache
def _mesh(kind: str, shape: tuple[int, ...]) -> DeviceMesh:
    """A mesh makes process groups, which last as long as the ranks: so one a shape."""
    return init_device_mesh(kind, shape)


def _state(model: Fsdp, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return {"model": model.state_dict(), "optim": Fsdp.optim_state_dict(model, optimizer)}


def _leaves(state: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    for key, value in state.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        elif isinstance(value, torch.Tensor):
            yield f"{prefix}{key}", value


def _locals(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """What this rank holds of each tensor, as it is now."""
    return {
        fqn: (value.to_local() if isinstance(value, DTensor) else value).detach().clone()
        for fqn, value in _leaves(state)
    }


def _wholes(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Each tensor, gathered from all ranks."""
    return {
        fqn: (value.full_tensor() if isinstance(value, DTensor) else value).detach().clone()
        for fqn, value in _leaves(state)
    }


def _compared(
    saved: Mapping[str, torch.Tensor], before: Mapping[str, torch.Tensor], now: Mapping[str, torch.Tensor]
) -> dict[str, Seen]:
    return {
        fqn: Seen(torch.equal(was, before[fqn]), torch.equal(was, now[fqn])) for fqn, was in saved.items()
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """FSDP and stock DCP warn of what they will drop some day."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
