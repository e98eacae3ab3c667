"""What of `torch.distributed.checkpoint` is torch's own here too, under our names.

`ckptlab.dcp.planner` and every other submodule that has no file beside this one is the very
module of torch, so that its classes are the same ones. What a module of ours does not define
it takes from its namesake. It knows nothing of what ours do differently.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, cast

from torch.distributed.checkpoint.utils import _api_bc_check

_OURS, _THEIRS = f"{__package__}.", "torch.distributed.checkpoint."
_HERE = Path(__file__).parent
F = TypeVar("F", bound=Callable[..., Any])


class _Loader(Loader):
    def exec_module(self, module: ModuleType) -> None:
        # The import system hands out whatever stands here afterwards.
        sys.modules[module.__name__] = import_module(_their_name(module.__name__))


class _Finder(MetaPathFinder):
    """Finds `ckptlab.dcp.NAME` as torch's module where the house has no file of that name."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(_OURS):
            return None
        head = fullname.removeprefix(_OURS).split(".")[0]
        if (_HERE / f"{head}.py").exists() or find_spec(_their_name(fullname)) is None:
            return None
        return ModuleSpec(fullname, _Loader())


def _their_name(ours: str) -> str:
    return _THEIRS + ours.removeprefix(_OURS)


def install() -> None:
    """Let the imports of torch's submodules under our name find them."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def rest_of(ours: str) -> Callable[[str], Any]:
    """A module's `__getattr__`: what it does not define is its torch namesake's."""

    def get(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {ours!r} has no attribute {name!r}")
        return getattr(import_module(_their_name(ours)), name)

    return get


def in_old_order_too(call: F) -> F:
    """Let the storage be the second argument by place, as in torch before 2.2; torch warns of that."""
    return cast(F, _api_bc_check(call))  # type: ignore[no-untyped-call]
