"""Replicas that are not the same: found before a save is published that would lose all but one of them.

Each rank takes a crc of every shard that others hold too; only where those differ are elements
compared. It writes nothing and knows no files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter

import numpy as np
import torch

from ckptlab.engine.ferry import crc_of
from ckptlab.engine.held import Cut, HeldTensors
from ckptlab.engine.memory import memory_of, on_cpu
from ckptlab.engine.ranks import Team
from ckptlab.errors import CheckpointError
from ckptlab.layout import Box

_MEASURED = 8
"""Shards of which the difference is measured; when many went apart, more would only take time."""
_SLICE = 16 << 20

Shard = tuple[str, Box]
Crcs = Mapping[Shard, int]
Digests = Mapping[tuple[int, ...], bytes]


@dataclass(frozen=True)
class Divergence:
    """A shard that is not the same on all ranks that hold it: `ranks` differ from `others`.

    `elements` of them differ, by `largest` at most (NaN where one of two is); both are None for a
    shard that was not measured, as enough others were.
    """

    fqn: str
    box: Box
    ranks: tuple[int, ...]
    others: tuple[int, ...]
    elements: int | None = None
    largest: float | None = None

    def __str__(self) -> str:
        words = f"{self.fqn} {self.box}: {_ranks(self.ranks)} not the same as {_ranks(self.others)}"
        if self.elements is None:
            return words
        many = "1 element differs" if self.elements == 1 else f"{self.elements} elements differ"
        return f"{words}, {many}, by {self.largest:.6g} at most"


@dataclass(frozen=True, eq=False)
class Replicas:
    """The shards of a rank that others hold too: the crc of each, by all who hold it."""

    crcs: Mapping[tuple[int, ...], Crcs]

    @property
    def digests(self) -> Digests:
        """What the other ranks are told: for each group of holders, one digest of all that they share."""
        return {holders: _digest(crcs) for holders, crcs in self.crcs.items()}


NOTHING_SHARED = Replicas({})


def replicas_of(held: HeldTensors, team: Team, known: Crcs) -> Replicas:
    """Take the crc of each shard that others of the team hold too, less those that are `known`.

    Plain tensors are passed over: see `agree`.
    """
    shared = {id(cut): _shared(cut, team) for _, cut in held.alike if not cut.plain}
    crcs: dict[tuple[int, ...], dict[Shard, int]] = {}
    # The same order on every rank, whatever the order of their dicts.
    for fqn, cut in sorted(zip(held.names, held.cuts, strict=True), key=itemgetter(0)):
        for box, holders, place in shared.get(id(cut), ()):
            crc = known.get((fqn, box))
            if crc is None:
                crc = crc_of(held[fqn].piece(*place))
            crcs.setdefault(holders, {})[fqn, box] = crc
    return Replicas(crcs)


def refuse_diverged(told: Sequence[Digests], mine: Replicas, held: HeldTensors, team: Team) -> None:
    """Refuse shards that several ranks hold, and that are not the same bit for bit on all of them.

    Every rank of the team calls it with what all ranks told, and raises the same `CheckpointError`: each
    key with the ranks and the largest difference, and `Divergence` records in `.problems`.
    """
    known = [holders for theirs in told for holders in theirs]
    apart = {h for h in known if len({theirs[h] for theirs in told if h in theirs}) > 1}
    if apart:
        suspects = {shard: crc for holders in apart for shard, crc in mine.crcs.get(holders, {}).items()}
        found = _diverged(team.gather(suspects), team.ranks)
        if found:
            _refuse([_measured(d, held, team) for d in found[:_MEASURED]] + found[_MEASURED:])


_Shared = tuple[Box, tuple[int, ...], tuple[int, Box]]
"""A box that several ranks hold, those ranks, and where it lies in this one's memory."""


def _shared(cut: Cut, team: Team) -> list[_Shared]:
    """The boxes of this rank that others of the team hold too; holders ascending."""
    found = cut.shards.distinct
    rows = np.searchsorted(found.first, np.flatnonzero(found.rank == team.global_rank), side="right") - 1
    shared = []
    for row in rows.tolist():
        holders = found.rank[found.first[row] : found.first[row + 1]].tolist()
        holders = tuple(rank for rank in holders if rank in team.ranks)
        if len(holders) > 1:
            box = found.boxes[row]
            shared.append((box, holders, cut.place_of(box)))
    return shared


def _digest(crcs: Crcs) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr([(fqn, box.offset, box.shape) for fqn, box in crcs]).encode())
    digest.update(np.array(list(crcs.values()), np.uint32).tobytes())
    return digest.digest()


def _diverged(told: Sequence[Crcs], ranks: Sequence[int]) -> list[Divergence]:
    """The shards of which not every rank has the same crc; most ranks, else the lowest, are the `others`."""
    holders: dict[Shard, dict[int, list[int]]] = {}
    for rank, crcs in zip(ranks, told, strict=True):
        for shard, crc in crcs.items():
            holders.setdefault(shard, {}).setdefault(crc, []).append(rank)
    found = []
    for (fqn, box), by_crc in holders.items():
        most, *rest = sorted(by_crc.values(), key=lambda group: (-len(group), group))
        if rest:
            found.append(Divergence(fqn, box, tuple(sorted(r for group in rest for r in group)), tuple(most)))
    return sorted(found, key=lambda d: (d.fqn, d.box.offset))


def _measured(found: Divergence, held: HeldTensors, team: Team) -> Divergence:
    """How far the ranks are apart: one of the `others` sends its elements to those that differ."""
    source, me = found.others[0], team.global_rank
    mine = None
    if me == source or me in found.ranks:
        mine = on_cpu(held[found.fqn].piece_of(found.box)).reshape(-1)
    memory = memoryview(b"") if mine is None else memory_of(mine)
    nbytes = team.from_rank(source, memory.nbytes)
    theirs = bytearray()
    for start in range(0, nbytes, _SLICE):
        part = team.from_rank(source, bytes(memory[start : start + _SLICE]) if me == source else b"")
        theirs += part if me in found.ranks else b""

    def compare() -> tuple[int, float] | None:
        if mine is None or me == source:
            return None
        return difference(mine, torch.frombuffer(theirs, dtype=mine.dtype))

    told = [one for one in team.tell("write", compare) if one is not None]
    largest = [float(by) for _, by in told]
    # A NaN is lost in max() unless it comes first.
    worst = float("nan") if any(by != by for by in largest) else max(largest)  # noqa: PLR0124
    return replace(found, elements=max(n for n, _ in told), largest=worst)


def difference(a: torch.Tensor, b: torch.Tensor) -> tuple[int, float]:
    """How many elements of two flat CPU tensors of one dtype differ in a bit, and by how much at most.

    Of complex elements the parts are compared.
    """
    size = a.element_size()
    bits = [t.view(torch.uint8).reshape(-1, size) for t in (a, b)]
    differ = bits[0].ne(bits[1]).any(dim=1)
    count = int(differ.sum())
    if not count:
        return 0, 0.0
    apart = _numbers(bits[0][differ], a.dtype).sub(_numbers(bits[1][differ], a.dtype))
    return count, float(apart.abs().max())


def _numbers(bits: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Elements, one a row of `bits`, as float64; of complex ones both parts."""
    # Operators of complex32 warn that they are experimental; its parts are plain halves.
    return bits.view(dtype.to_real() if dtype.is_complex else dtype).to(torch.float64)


def _refuse(found: Sequence[Divergence]) -> None:
    lines = "\n".join(f"  {one}" for one in found[:_MEASURED])
    more = f"\n  and {len(found) - _MEASURED} more shards" if len(found) > _MEASURED else ""
    raise CheckpointError(
        "shards that must be the same on several ranks are not, and all but one would be lost; "
        f"nothing was saved:\n{lines}{more}\n"
        "Find where these ranks went apart (a gradient that was not reduced, a seed of each rank's own), "
        'or save with replicas="trust", which keeps one of them as it is.',
        found,
    )


def _ranks(ranks: Sequence[int]) -> str:
    return f"rank {ranks[0]} is" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))} are"
