"""What one mesh axis does to a tensor: cut one of its dims, or repeat it.

The names and meanings are DTensor's (`torch.distributed.tensor.placement_types`).
Plain records: they know no mesh, no tensor and no torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ckptlab.errors import LayoutError


@dataclass(frozen=True)
class Replicate:
    """The ranks along this axis all hold the same.

    >>> Replicate()
    Replicate()
    """


@dataclass(frozen=True)
class Shard:
    """The ranks along this axis share out tensor dim `dim` as `torch.chunk` does.

    The last ranks may get less than the others, or nothing.

    >>> Shard(0)
    Shard(0)
    """

    dim: int

    def __repr__(self) -> str:
        return f"Shard({self.dim})"


@dataclass(frozen=True)
class StridedShard:
    """As `Shard`, but of a dim thought to be cut into `split_factor` pieces before.

    FSDP2 over TP makes it: TP, on a later axis, cuts first. DTensor calls it `_StridedShard`.

    >>> StridedShard(0, split_factor=2)
    StridedShard(0, split_factor=2)
    """

    dim: int
    split_factor: int

    def __repr__(self) -> str:
        return f"StridedShard({self.dim}, split_factor={self.split_factor})"


Placement = Replicate | Shard | StridedShard

_SHARD = re.compile(r"(?:Shard|S)\(\s*(?:dim=)?(-?\d+)\s*\)")
_STRIDED = re.compile(r"(?:_?StridedShard|_S)\(\s*(?:dim=)?(-?\d+)\s*,\s*(?:split_factor=|sf=)?(\d+)\s*\)")


def parse_placements(text: str) -> tuple[Placement, ...]:
    """Read placements as people write them, one for each mesh axis.

    Raises `LayoutError` that quotes the word which is no placement.

    >>> parse_placements("Replicate, Shard(0)")
    (Replicate(), Shard(0))
    >>> parse_placements("StridedShard(0, split_factor=2), S(0)")
    (StridedShard(0, split_factor=2), Shard(0))
    """
    inner = text.strip()
    if inner[:1] + inner[-1:] in ("[]", "()"):
        inner = inner[1:-1].rstrip().removesuffix(",")
    return tuple(_one(word.strip(), text) for word in re.split(r",(?![^()]*\))", inner))


def _one(word: str, text: str) -> Placement:
    if word in ("Replicate", "Replicate()", "R"):
        return Replicate()
    if found := _SHARD.fullmatch(word):
        return Shard(int(found[1]))
    if found := _STRIDED.fullmatch(word):
        return StridedShard(int(found[1]), int(found[2]))
    raise LayoutError(
        f"no placement: {word!r} in {text!r}; write one for each mesh axis, "
        "as in 'Replicate, Shard(0)' or 'StridedShard(0, split_factor=2), Shard(0)'"
    )
