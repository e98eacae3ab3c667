"""A part of a load transform: which elements of a stored tensor go where in a target.

It says nothing of ranks, chunks or bytes; whether it fits two tensors is asked of `plan.way`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from ckptlab.metadata import human_shape

Ranges = tuple[tuple[int, int], ...]
"""`(start, stop)` for each dim; or one alone, which counts elements in row-major order, whatever the dims."""


@dataclass(frozen=True)
class Part:
    """Elements of the stored tensor `fqn` (the checkpoint's own name), and where in a target they go.

    The stored tensor is seen as `shape` (row-major; its own if None), its dims are put in the order
    `dims` (as `permute` does), and cut to the ranges `stored` (all if None). What is left goes into
    the ranges `into` of the target (all if None), element by element in row-major order. There, dims may
    be merged or split, but not regrouped: (4, 8) goes into (32,), (2, 2, 8) or (1, 4, 8), not into (8, 4).

    One range alone, for a tensor of several dims, counts elements in row-major order: a flat range.
    For an object give the name alone.

    >>> Part("attn.qkv", stored=((0, 64), (0, 32)))
    Part('attn.qkv', stored=((0, 64), (0, 32)))
    >>> print(Part("attn.w", dims=(1, 0), into=((0, 8), (0, 4))))
    attn.w, dims (1, 0), into [0:8, 0:4]
    """

    fqn: str
    stored: Ranges | None = None
    into: Ranges | None = None
    shape: tuple[int, ...] | None = None
    dims: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("stored", "into", "shape", "dims"):
            object.__setattr__(self, name, frozen(getattr(self, name)))

    @property
    def whole(self) -> bool:
        """Whether it is the stored thing as it is: a name, and no more."""
        return self == Part(self.fqn)

    def problems(self) -> list[str]:
        """All that is wrong with it, whatever the tensors."""
        found = [] if isinstance(self.fqn, str) and self.fqn else [f"fqn is {self.fqn!r}, not a name"]
        for name in ("stored", "into"):
            found += _wrong_ranges(name, getattr(self, name))
        if self.shape is not None and not _numbers(self.shape):
            found.append(f"shape is {self.shape!r}, not sizes")
        if self.dims is not None and not (
            _numbers(self.dims) and sorted(self.dims) == list(range(len(self.dims)))
        ):
            found.append(f"dims is {self.dims!r}, not each dim from 0 on once")
        elif self.dims is not None and self.shape is not None and len(self.dims) != len(self.shape):
            found.append(f"dims {self.dims} are of {len(self.dims)} dims, shape {self.shape} is not")
        return found

    def __repr__(self) -> str:
        given = ((it.name, getattr(self, it.name)) for it in fields(self)[1:])
        more = [f"{name}={value!r}" for name, value in given if value is not None]
        return f"Part({', '.join([repr(self.fqn), *more])})"

    def __str__(self) -> str:
        words = [self.fqn]
        if self.shape is not None:
            words.append(f"as {human_shape(self.shape)}")
        if self.dims is not None:
            words.append(f"dims {self.dims}")
        if self.stored is not None:
            words.append(human_ranges(self.stored))
        if self.into is not None:
            words.append(f"into {human_ranges(self.into)}")
        return ", ".join(words)


def human_ranges(ranges: Iterable[tuple[int, int]]) -> str:
    """Ranges as an index has them: `[0:4, 8:16]`."""
    return f"[{', '.join(f'{start}:{stop}' for start, stop in ranges)}]"


def frozen(value: Any) -> Any:
    """Lists as tuples, in any depth; all else as it is, for `problems` to tell of."""
    return tuple(map(frozen, value)) if isinstance(value, list | tuple) else value


def _numbers(value: object) -> bool:
    return isinstance(value, tuple) and all(type(n) is int and n >= 0 for n in value)


def _wrong_ranges(name: str, value: object) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, tuple) or not all(_numbers(it) and len(it) == 2 for it in value):
        return [f"{name} is {value!r}, not a (start, stop) for each dim"]
    return [f"{name} has the range {it}, which ends before it begins" for it in value if it[0] > it[1]]
