"""A transform bound to a checkpoint and a target: which stored tensor fills what, and what does not fit.

From names, shapes and dtypes alone. It reads no bytes and knows no chunk and no rank.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import translate

from ckptlab.errors import LayoutError
from ckptlab.layout import Box, Shards
from ckptlab.metadata import Metadata, Tensor, near
from ckptlab.plan.check import Mismatch, fit, say
from ckptlab.plan.holding import Holding, Holdings
from ckptlab.plan.part import Part
from ckptlab.plan.regrid import without
from ckptlab.plan.transform import Transform
from ckptlab.plan.way import Way, carried, row_major_strides, way

Told = Mapping[str, Tensor | None]
"""Tensors by key, None for objects: what a checkpoint has, or what a target wants."""


@dataclass(frozen=True)
class Fill:
    """One of the stored tensors behind a target: the part that names it, and the way of its elements."""

    stored: Tensor
    part: Part
    way: Way


@dataclass(frozen=True, eq=False)
class Bound:
    """What is done for each key of a target, and what does not fit.

    `fills` are the stored tensors behind each of its tensors, `objects` the stored name of each of its
    objects. `kept` has the boxes that stay as they are, of keys that keep something: all of it, if the
    key is in neither of the others; an object keeps no box.
    """

    fills: Mapping[str, tuple[Fill, ...]]
    objects: Mapping[str, str]
    kept: Mapping[str, tuple[Box, ...]]
    found: tuple[Mismatch, ...]

    @property
    def filled(self) -> set[str]:
        """The keys of which something is loaded."""
        return {*self.fills, *self.objects}


def told(metadata: Metadata) -> dict[str, Tensor | None]:
    """What a checkpoint has by key, as `bind` asks for it."""
    return {**{tensor.fqn: tensor for tensor in metadata.tensors}, **dict.fromkeys(metadata.objects)}


def bind(transform: Transform, stored: Told, target: Told, keys: Collection[str] | None = None) -> Bound:
    """What `transform` makes of what is `stored` for each key of `target`; every mismatch is in `found`.

    `keys` are all that the target has, if `target` are only some. Raises `LayoutError` if two keys of the
    checkpoint would get one name that the target has.

    >>> bound = bind(
    ...     Transform(rename=((r"^m\\.", ""),), parts={"b": (Part("m.w", dims=(1, 0)),)}, leave=("head",)),
    ...     {"m.w": Tensor("m.w", "float32", (4, 2))},
    ...     {name: Tensor(name, "float32", shape) for name, shape in
    ...      {"w": (4, 2), "b": (2, 4), "head": (3,), "norm": (4,)}.items()},
    ... )
    >>> sorted(bound.fills), dict(bound.kept), [(m.kind, m.fqn) for m in bound.found]
    (['b', 'w'], {'head': (Box[0:3],)}, [('missing', 'norm')])
    """
    keys = set(target) if keys is None else set(keys)
    leave = _any_of(transform.leave)
    taken = {key for key in keys if key in transform.parts or leave.match(key)}
    names = _names(transform, stored, keys - taken)
    fills: dict[str, tuple[Fill, ...]] = {}
    objects: dict[str, str] = {}
    kept: dict[str, tuple[Box, ...]] = {}
    found: list[Mismatch] = []
    for fqn, wanted in target.items():
        if fqn in taken and fqn not in transform.parts:
            kept[fqn] = () if wanted is None else (_all_of(wanted),)
            continue
        parts = transform.parts.get(fqn) or ((Part(names[fqn]),) if fqn in names else ())
        wrong = _lacks(fqn, wanted, parts, stored)
        if not wrong and wanted is None:
            objects[fqn] = parts[0].fqn
        elif not wrong and wanted is not None:
            fills[fqn], left, wrong = _filled(
                wanted, parts, stored, fqn in transform.parts, bool(leave.match(fqn))
            )
            if left:
                kept[fqn] = left
        found += wrong
    found += _unexpected(transform, stored, keys, names)
    return Bound(fills, objects, kept, tuple(found))


def behind(bound: Bound, held: Iterable[Holding]) -> Holdings:
    """What a load through a transform asks of the stored tensors, so that `plan.forecast` foretells it.

    `held` is what ranks hold of the targets; each local tensor is taken to lie in memory in row-major order.
    What two targets have of one stored tensor is foretold as read twice, and so it is.

    >>> from ckptlab.layout import Layout
    >>> from ckptlab.plan.holding import holdings
    >>> turned = Transform(parts={"w": (Part("v", dims=(1, 0)),)})
    >>> target = Tensor("w", "float32", (2, 4))
    >>> bound = bind(turned, {"v": Tensor("v", "float32", (4, 2))}, {"w": target})
    >>> [wanted] = behind(bound, holdings([target], Layout.parse("2", "Shard(0)")))
    >>> wanted.tensor.fqn, wanted.shards.boxes[1]
    ('v', Box[0:4, 1:2])
    """
    known: dict[tuple[Way, int], Shards] = {}
    found = []
    for one in held:
        for fill in bound.fills.get(one.tensor.fqn, ()):
            tensor, shards = fill.stored._replace(dtype=one.tensor.dtype), one.shards
            if not fill.way.plain:
                key = (fill.way, id(shards))
                if key not in known:
                    known[key] = carried(fill.way, shards, row_major_strides(shards)).shards
                shards = known[key]
            found.append(Holding(tensor, shards))
    return Holdings.of(found)


def _any_of(patterns: Iterable[str]) -> re.Pattern[str]:
    """Whether a key is like one of these; a key that is one of them counts, whatever signs it has."""
    return re.compile("|".join(f"(?:{re.escape(it)}\\Z)|(?:{translate(it)})" for it in patterns) or r"(?!)")


def _names(transform: Transform, stored: Told, wanted: Collection[str]) -> dict[str, str]:
    """The stored key behind each key that is `wanted` by name."""
    drop = _any_of(transform.drop)
    rename = [(re.compile(pattern), replacement) for pattern, replacement in transform.rename]
    owners: dict[str, list[str]] = {}
    for key in stored:
        name = key
        for pattern, replacement in rename:
            name = pattern.sub(replacement, name)
        if name in wanted and not drop.match(key):
            owners.setdefault(name, []).append(key)
    double = {name: keys for name, keys in owners.items() if len(keys) > 1}
    if double:
        lines = "\n".join(f"  {name!r}: {' and '.join(map(repr, keys))}" for name, keys in double.items())
        raise LayoutError(f"the transform gives several keys one name; drop all but one:\n{lines}", double)
    return {name: keys[0] for name, keys in owners.items()}


def _lacks(fqn: str, wanted: Tensor | None, parts: Sequence[Part], stored: Told) -> list[Mismatch]:
    """What is not there, or is an object where a tensor is wanted, or the other way round."""
    if not parts:
        remedy = f"The checkpoint has no such key{near(fqn, list(stored))}".removesuffix("?") + "."
        return [Mismatch("missing", fqn, "nothing", say(wanted), remedy)]
    found = []
    for part in parts:
        if part.fqn not in stored:
            remedy = f"Its part {part.fqn!r} is not in the checkpoint{near(part.fqn, list(stored))}"
            found.append(Mismatch("missing", fqn, "nothing", say(wanted), remedy.removesuffix("?") + "."))
        elif (stored[part.fqn] is None) != (wanted is None):
            has = stored[part.fqn]
            remedy = (
                "Load it as an object, not a tensor." if has is None else "Give a tensor to load it into."
            )
            found.append(Mismatch("type", fqn, say(has), say(wanted), remedy))
        elif wanted is None and (len(parts) > 1 or not part.whole):
            found.append(
                Mismatch("type", fqn, "object", "object", "An object has no parts: give its name alone.")
            )
    return found


def _filled(
    wanted: Tensor, parts: Sequence[Part], stored: Told, asked: bool, leave: bool
) -> tuple[tuple[Fill, ...], tuple[Box, ...], list[Mismatch]]:
    """What fills one tensor, the boxes of it that stay as they are, and what does not fit.

    Only what is `asked` for by parts may go another way than as it is; what they do not fill is refused,
    unless it is to be left.
    """
    fills, found = [], []
    for part in parts:
        tensor = stored[part.fqn]
        assert tensor is not None
        wrong = fit(tensor._replace(fqn=wanted.fqn), wanted)
        if asked:
            wrong = [it for it in wrong if it.kind != "shape"]
            try:
                fills.append(Fill(tensor, part, way(part, tensor.shape, wanted.shape)))
            except LayoutError as error:
                wrong.append(
                    _shape(wanted, f"{part.fqn} {list(tensor.shape)}", f"The transform's part: {error}.")
                )
        elif not any(it.kind == "shape" for it in wrong):
            fills.append(Fill(tensor, part, way(part, tensor.shape, wanted.shape)))
        found += wrong
    if len(fills) < len(parts):
        return (), (), found
    boxes = [box for fill in fills for box in fill.way.filled]
    left = without(_all_of(wanted), boxes)
    over = sum(box.numel for box in (*boxes, *left)) - math.prod(wanted.shape)
    if over:
        found.append(
            _shape(wanted, f"{len(parts)} parts", f"{over} elements are filled by more than one part.")
        )
    elif left and not leave:
        remedy = f"No part fills {_some(left)}; to let them stay as they are, name {wanted.fqn!r} in leave."
        found.append(_shape(wanted, "less", remedy))
    return tuple(fills), tuple(left), list(dict.fromkeys(found))


def _shape(wanted: Tensor, stored: str, remedy: str) -> Mismatch:
    return Mismatch("shape", wanted.fqn, stored, str(list(wanted.shape)), remedy)


def _unexpected(
    transform: Transform, stored: Told, keys: Collection[str], names: Mapping[str, str]
) -> list[Mismatch]:
    """What of the checkpoint goes nowhere and was not dropped; and parts for keys that no target has."""
    used = {*names.values(), *(part.fqn for parts in transform.parts.values() for part in parts)}
    drop = _any_of(transform.drop)
    found = [
        Mismatch("unexpected", key, say(it), "nothing", "It stays in the checkpoint.")
        for key, it in stored.items()
        if key not in used and not drop.match(key)
    ]
    for fqn in transform.parts:
        if fqn not in keys:
            remedy = f"The transform has parts for it, the target no such key{near(fqn, list(keys))}"
            found.append(Mismatch("unexpected", fqn, "parts", "nothing", remedy.removesuffix("?") + "."))
    return found


def _all_of(tensor: Tensor) -> Box:
    return Box((0,) * len(tensor.shape), tensor.shape)


def _some(boxes: Sequence[Box]) -> str:
    return ", ".join(map(str, boxes[:3])) + (f" and {len(boxes) - 3} more" if len(boxes) > 3 else "")
