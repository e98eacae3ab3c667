"""Classes of objects that torch refuses to unpickle unasked, though they can do no harm.

Stock DCP's loads unpickle whatever an object is. So that what people save can be loaded without
that, values of the standard library and of numpy are allowed. It loads nothing itself.
"""

from __future__ import annotations

import datetime
import io
import pathlib
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any

import numpy as np
import torch

__all__ = ["harmless"]

Allowed = Callable[..., Any] | tuple[Callable[..., Any], str]

_ARRAYS = import_module("numpy._core.multiarray")
_NUMPY: list[Allowed] = [
    np.ndarray,
    np.dtype,
    # Both names: before and after numpy 2.
    *(
        (getattr(_ARRAYS, name), f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for name in ("_reconstruct", "scalar")
    ),
    *(kind for kind in vars(np.dtypes).values() if isinstance(kind, type)),
]
_PLAIN: list[Allowed] = [
    datetime.date,
    datetime.datetime,
    datetime.time,
    datetime.timedelta,
    datetime.timezone,
    frozenset,
    io.BytesIO,
    pathlib.Path,
    pathlib.PosixPath,
    pathlib.PurePosixPath,
    uuid.UUID,
]


def harmless() -> AbstractContextManager[None]:
    """While it is open, `torch.load(weights_only=True)` makes these too, and all that the user allowed."""
    return torch.serialization.safe_globals([*_PLAIN, *_NUMPY])
