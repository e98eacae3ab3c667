"""What a model, an optimizer or a state_dict wants of a checkpoint, as `plan.diagnose` compares it.

Names are those that a load gives its leaves. No element is looked at, so the meta device will do; it
knows no checkpoint.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ckptlab.engine.ranks import Team
from ckptlab.engine.state import expand, flatten
from ckptlab.errors import LayoutError
from ckptlab.metadata import ITEMSIZE, Tensor
from ckptlab.plan.diagnose.side import Side


def target_of(target: Any, rank: int | None = None) -> Side:
    """A `torch.nn.Module`, anything else with a `state_dict()`, or a (nested) state_dict, as a side.

    `rank` is the one whose shard a flat tensor is; this process's, if None. Raises `LayoutError` for
    what is none of these, and for a tensor without plain bytes.
    """
    whole = target if isinstance(target, Mapping) else _state_of(target)
    tensors: dict[str, Tensor] = {}
    objects: dict[str, str] = {}
    values: dict[str, torch.Tensor] = {}
    for fqn, value in flatten(expand(whole)).values.items():
        if isinstance(value, torch.Tensor):
            dtype = str(value.dtype).removeprefix("torch.")
            if dtype not in ITEMSIZE:
                raise LayoutError(f"{fqn!r} has dtype {value.dtype}, which has no plain bytes", [fqn])
            tensors[fqn] = Tensor(fqn, dtype, tuple(value.shape))
            values[fqn] = value
        else:
            objects[fqn] = type(value).__name__
    mine = Team.of().rank if rank is None else rank
    return Side(tensors, objects, _tied(values), frozenset(_frozen(target)), mine)


def _state_of(target: Any) -> Mapping[str, Any]:
    told = getattr(target, "state_dict", None)
    state = told() if callable(told) else None
    if not isinstance(state, Mapping):
        raise LayoutError(
            f"a target is a model, a state_dict, a checkpoint or its path, not {type(target).__name__}",
            [target],
        )
    return state


def _tied(values: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """For each tensor whose memory an earlier one has, that one."""
    first: dict[tuple[object, ...], str] = {}
    tied = {}
    for fqn, value in values.items():
        if hasattr(value, "local_shards") or not value.numel():
            continue
        local = value.to_local() if hasattr(value, "to_local") else value
        if local.layout is not torch.strided:
            continue
        # Tensors on the meta device have no address, but storages all the same.
        where = (local.untyped_storage()._cdata, local.storage_offset(), tuple(local.shape), local.stride())
        owner = first.setdefault(where, fqn)
        if owner != fqn:
            tied[fqn] = owner
    return tied


def _frozen(target: Any, before: str = "") -> list[str]:
    """The parameters of the modules in a target that take no gradient."""
    if isinstance(target, torch.nn.Module):
        return [before + name for name, it in target.named_parameters() if not it.requires_grad]
    if not isinstance(target, Mapping):
        return []
    # State of a parameter is named after it as its own module has it.
    return [name for value in target.values() for name in _frozen(value)]


def made_on_meta(where: str) -> Any:
    """What the callable `module:name` gives when it is called on the meta device, where nothing takes memory.

    Modules are looked for in the current directory too. Raises `LayoutError` that tells what went wrong.
    """
    module, _, name = where.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        factory: Callable[[], Any] = found
        with torch.device("meta"):
            return factory()
    except Exception as error:
        raise LayoutError(
            f"{where!r} gave no target: {type(error).__name__}: {error}; it names a callable that takes "
            "nothing and gives a model or a state_dict",
            [where],
        ) from error
    finally:
        sys.path.remove(here)
