"""What all ranks hold, known to every rank before a save: the same holdings, or one error.

Ranks that already know the same compare a digest; only where they differ do they tell each
other what they hold. It moves no bytes of tensors and knows no files.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from ckptlab.engine.ferry import crc_of
from ckptlab.engine.held import HeldTensors, hold
from ckptlab.engine.ranks import Team
from ckptlab.engine.state import Leaves, Path
from ckptlab.errors import CheckpointError
from ckptlab.layout import Layout
from ckptlab.plan.holding import Alike, Holding, Holdings, among, merge
from ckptlab.storage.crc import crc32


@dataclass(frozen=True)
class Values:
    """The plain values of a rank: objects by length and crc, plain tensors by crc."""

    objects: Mapping[str, tuple[int, int]]
    plain: Mapping[str, int]


@dataclass(frozen=True, eq=False)
class Offer:
    """What one rank brings to a save: tensors it holds, and objects as the bytes that will be stored."""

    held: HeldTensors
    objects: Mapping[str, bytes]
    paths: Mapping[str, Path]

    @cached_property
    def values(self) -> Values:
        """The crc of each plain value."""
        held = self.held
        rows = [row for rows, cut in held.alike if cut.plain for row in rows.tolist()]
        plain = {held.names[row]: crc_of(held.memory[row][0]) for row in rows}
        return Values({fqn: (len(data), crc32(data)) for fqn, data in self.objects.items()}, plain)


@dataclass(frozen=True)
class Told:
    """What a rank tells of its offer: a digest of who holds what, and one of all plain values."""

    held: bytes
    values: bytes


@dataclass(frozen=True, eq=False)
class Agreed:
    """What is saved: every tensor with all its holders, every object with its writing rank and its length."""

    held: Holdings
    objects: Mapping[str, tuple[int, int]]
    paths: Mapping[str, Path]
    layouts: Mapping[str, Layout]


def offer(leaves: Leaves, team: Team) -> Offer:
    """This rank's part of a save; objects are pickled here."""
    values = leaves.values.items()
    tensors = {fqn: value for fqn, value in values if isinstance(value, torch.Tensor)}
    objects = {fqn: _pickled(fqn, value) for fqn, value in values if fqn not in tensors}
    held = hold(tensors, team.global_rank, team.ranks)
    return Offer(held, objects, leaves.paths)


def _pickled(fqn: str, value: object) -> bytes:
    buffer = io.BytesIO()
    try:
        torch.save(value, buffer)
    except Exception as error:
        raise CheckpointError(
            f"{fqn!r} is a {type(value).__name__} that cannot be pickled: {error}", [fqn]
        ) from error
    return buffer.getvalue()


def announce(mine: Offer, team: Team) -> Told:
    """What this rank tells the others of its offer."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr([list(mine.paths), list(mine.objects)]).encode())
    digest.update(repr([path for path in mine.paths.values() if len(path) > 1]).encode())
    for rows, cut in mine.held.alike:
        shards = cut.shards
        digest.update(f"{cut.dtype}{cut.shape}{cut.layout}{cut.plain}{len(rows)}".encode())
        for column in (shards.rank, shards.boxes.offsets, shards.boxes.shapes, shards.local, rows):
            digest.update(column.tobytes())
    values = repr(mine.values).encode() if team.world > 1 else b""
    return Told(digest.digest(), hashlib.blake2b(values, digest_size=16).digest())


def settle(all_told: Sequence[Told], mine: Offer, team: Team) -> Agreed:
    """What the whole team saves, from what each rank told.

    Raises `CheckpointError` on every rank for plain values that are not the same everywhere.
    """
    held = mine.held
    cuts = zip(held.names, held.cuts, strict=True)
    layouts = {fqn: cut.layout for fqn, cut in cuts if cut.layout is not None}
    objects = {fqn: (team.ranks[0], len(data)) for fqn, data in mine.objects.items()}
    if any(other != all_told[0] for other in all_told):
        values = team.gather(mine.values)
        _refuse_different(values, mine.objects, team)
        objects = {}
        for rank, other in zip(team.ranks, values, strict=True):
            for fqn, (length, _) in other.objects.items():
                objects.setdefault(fqn, (rank, length))
    if all(other.held == all_told[0].held for other in all_told):
        # Ranks outside the team may hold parts too, but they write nothing.
        every = Holdings(held.tensors, [Alike(rows, cut.shards) for rows, cut in held.alike])
        return Agreed(among(every, team.ranks), objects, mine.paths, layouts)
    parts = {fqn: Holding(h.tensor, h.cut.mine) for fqn, h in held.items()}
    everyone = team.gather((parts, dict(mine.paths), layouts))
    merged: dict[str, list[Holding]] = {}
    paths: dict[str, Path] = {}
    layouts = {}
    for theirs, their_paths, their_layouts in everyone:
        for fqn, part in theirs.items():
            merged.setdefault(fqn, []).append(part)
        paths |= their_paths
        layouts |= their_layouts
    if both := sorted(merged.keys() & objects.keys()):
        raise CheckpointError(
            f"tensors on some ranks, objects on others: {', '.join(both)}; a key must name one thing", both
        )
    return Agreed(Holdings.of(merge(parts) for parts in merged.values()), objects, paths, layouts)


def _refuse_different(told: Sequence[Values], objects: Mapping[str, bytes], team: Team) -> None:
    """Plain values have one place in a checkpoint, so they must be the same on every rank that has them."""
    wrong: dict[str, list[int]] = {}
    doubtful: list[str] = []
    for kind in ("plain", "objects"):
        seen: dict[str, dict[Any, list[int]]] = {}
        for rank, other in zip(team.ranks, told, strict=True):
            for fqn, content in getattr(other, kind).items():
                seen.setdefault(fqn, {}).setdefault(content, []).append(rank)
        differing = {fqn: by for fqn, by in seen.items() if len(by) > 1}
        if kind == "objects":
            doubtful = sorted(differing)
        else:
            wrong |= {fqn: [ranks[0] for ranks in by.values()] for fqn, by in differing.items()}
    if doubtful:
        # Equal values may be pickled differently, so those bytes alone prove nothing.
        everyone = team.gather({fqn: objects[fqn] for fqn in doubtful if fqn in objects})
        for fqn in doubtful:
            values = [(r, _value(o[fqn])) for r, o in zip(team.ranks, everyone, strict=True) if fqn in o]
            others = [r for r, v in values[1:] if not _same(v, values[0][1])]
            if others:
                wrong[fqn] = [values[0][0], *others]
    if wrong:
        lines = "\n".join(
            f"  {fqn}: ranks {', '.join(map(str, ranks))} differ" for fqn, ranks in sorted(wrong.items())
        )
        raise CheckpointError(
            "plain values must be the same on every rank, or all but one would be lost; nothing was saved:\n"
            f"{lines}\nSave each under a key of its own rank (f'rng.{{rank}}'), or make it a DTensor."
            f"{_of_groups(wrong)}",
            sorted(wrong),
        )


def _of_groups(wrong: Collection[str]) -> str:
    """What to do where ranks that train different parameters have different groups of them."""
    if not any("param_groups" in fqn for fqn in wrong):
        return ""
    return (
        " Groups of an optimizer are told by parameter with "
        "torch's StateDictOptions(flatten_optimizer_state_dict=True)."
    )


def _value(data: bytes) -> object:
    # Bytes that a rank of this very process group pickled a moment ago.
    return torch.load(io.BytesIO(data), weights_only=False)


def _same(a: object, b: object) -> bool:
    try:
        return bool(a == b)
    except Exception:
        # Values that cannot be compared are not known to be the same.
        return False
