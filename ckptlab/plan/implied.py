"""The target that a transform implies: the keys, shapes and dtypes of all that it makes of a checkpoint.

For a load that is to be tried without the model that it is for. No bytes, no ranks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ckptlab.errors import LayoutError
from ckptlab.metadata import Tensor, meant
from ckptlab.plan.part import Part
from ckptlab.plan.transform import Transform


def implied(transform: Transform, stored: Mapping[str, Tensor | None]) -> dict[str, Tensor | None]:
    """What a target has that wants all that a transform makes of what is `stored`; None for objects.

    Stored things go by their new names, but for those that are dropped or go into parts. What is put
    together of parts is as large as they reach, and of the first part's dtype. Raises `LayoutError` for
    parts that do not tell how large it is.

    >>> told = {"qkv": Tensor("qkv", "float32", (6, 2)), "m.b": Tensor("m.b", "int64", (3,))}
    >>> parts = {"q": (Part("qkv", stored=((0, 2), (0, 2))),)}
    >>> [(key, it.shape) for key, it in implied(Transform(((r"^m\\.", ""),), parts), told).items()]
    [('b', (3,)), ('q', (2, 2))]
    """
    gone = {part.fqn for parts in transform.parts.values() for part in parts}
    gone |= {key for pattern in transform.drop for key in (pattern, *meant(stored, pattern)[0])}
    found = {}
    for key, tensor in stored.items():
        if key not in gone:
            name = _renamed(transform, key)
            found[name] = None if tensor is None else tensor._replace(fqn=name)
    for fqn, parts in transform.parts.items():
        first = stored.get(parts[0].fqn)
        shape = None if first is None else _shape(fqn, parts, first)
        found[fqn] = None if first is None or shape is None else Tensor(fqn, first.dtype, shape)
    return found


def _renamed(transform: Transform, key: str) -> str:
    for pattern, replacement in transform.rename:
        key = re.sub(pattern, replacement, key)
    return key


def _shape(fqn: str, parts: Sequence[Part], first: Tensor) -> tuple[int, ...]:
    """How far the parts of a target reach; of one part without a place, all that is taken of it."""
    if len(parts) == 1 and parts[0].into is None:
        return _taken(parts[0], first.shape)
    places = [part.into for part in parts if part.into is not None]
    if len(places) < len(parts) or len({len(place) for place in places}) > 1:
        raise LayoutError(f"the parts of {fqn!r} do not tell its shape; give each its place in all dims")
    return tuple(max(stop for _, stop in dim) for dim in zip(*places, strict=True))


def _taken(part: Part, shape: tuple[int, ...]) -> tuple[int, ...]:
    seen = shape if part.shape is None else part.shape
    turned = seen if part.dims is None else tuple(seen[d] for d in part.dims)
    return turned if part.stored is None else tuple(stop - start for start, stop in part.stored)
