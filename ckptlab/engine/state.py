"""A torch state_dict as keys and leaves, and back.

It asks `Stateful`s for their state and hands it over to them. It looks into no tensor, and knows no
files and no collectives.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, MutableMapping
from itertools import pairwise
from typing import Any, NamedTuple, TypeGuard

import torch
from torch.distributed.checkpoint.stateful import Stateful
from torch.distributed.tensor import DTensor

from ckptlab.errors import LayoutError

Path = tuple[str | int, ...]

_NEVER_STATEFUL = (torch.Tensor, dict)


class Leaves(NamedTuple):
    """The values of a state_dict by fqn, and the keys that lead to each."""

    values: dict[str, Any]
    paths: dict[str, Path]


def expand(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state with each `Stateful` (a module, an optimizer) replaced by its own `state_dict()`.

    They are asked in the order of their keys, the same on every rank, as many of them call collectives.
    """
    return {**state, **{key: state[key].state_dict() for key in sorted(_statefuls(state), key=str)}}


def _statefuls(state: Mapping[str, Any]) -> list[str]:
    """The keys of those in it."""
    # Asking a tensor for the methods of a protocol costs more than all else that is done with it.
    return [key for key, value in state.items() if type(value) is not DTensor and _stateful(value)]


def _stateful(value: object) -> TypeGuard[Stateful]:
    return not isinstance(value, _NEVER_STATEFUL) and isinstance(value, Stateful)


def flatten(state: Mapping[str, Any]) -> Leaves:
    """Every leaf by fqn: dict keys and list positions joined by dots, as stock DCP names them.

    A list is entered only if a tensor or a dict is somewhere in it; else it is one object.
    """
    found = Leaves({}, {})
    values, paths = found
    for key, value in state.items():
        if type(value) is DTensor and type(key) is str and key not in values:
            # Most leaves are this, and need not be looked into.
            values[key], paths[key] = value, (key,)
        else:
            _visit(found, (str(key),), value)
    return found


def _visit(found: Leaves, path: Path, value: Any) -> None:
    # Tensors first: there are many, and telling that one is no mapping takes long.
    if not isinstance(value, torch.Tensor):
        if isinstance(value, Mapping):
            for key, inner in value.items():
                _visit(found, (*path, str(key)), inner)
            return
        if isinstance(value, list) and _to_enter(value, set()):
            for i, inner in enumerate(value):
                _visit(found, (*path, i), inner)
            return
    fqn = ".".join(map(str, path))
    if fqn in found.values:
        raise LayoutError(
            f"two values of the state_dict are both called {fqn!r}: {found.paths[fqn]} and {path}"
        )
    found.values[fqn], found.paths[fqn] = value, path


def _to_enter(value: list[Any], seen: set[int]) -> bool:
    """Whether a tensor or a dict is in a list; lists that were `seen`, as others share them, have none."""
    if id(value) in seen:
        return False
    seen.add(id(value))
    return any(
        isinstance(v, torch.Tensor | Mapping) or (isinstance(v, list) and _to_enter(v, seen)) for v in value
    )


def hand_over(target: MutableMapping[str, Any], filled: Mapping[str, Any], assign: bool = False) -> None:
    """Give each `Stateful` of `target` the state filled for it, and `target` itself its new objects.

    `assign` makes a module take the filled tensors themselves, where its own had no memory. The order is
    that of the keys, the same on every rank, as loading a state may call collectives.
    """
    for key in sorted(target, key=str):
        value = target[key]
        if type(value) is DTensor and value is filled[key]:
            continue  # filled in place, as most are
        if isinstance(value, torch.nn.Module) and assign:
            value.load_state_dict(filled[key], assign=True)
        elif _stateful(value):
            value.load_state_dict(filled[key])
        else:
            target[key] = filled[key]


def runs_code(target: Mapping[str, Any]) -> bool:
    """Whether `hand_over` runs code that is not ours: a `Stateful`'s, or a mapping's own."""
    return type(target) not in (dict, OrderedDict) or bool(_statefuls(target))


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
