"""A device mesh: ranks in an n-d grid with named axes.

As `torch.distributed.DeviceMesh`, without devices: it knows no tensor, no process
group and no "me".
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np

from ckptlab.errors import LayoutError


@dataclass(frozen=True)
class Mesh:
    """Ranks 0..n-1, or the `ranks` named, laid out row by row in a grid of `shape`.

    >>> mesh = Mesh((2, 2), ("replicate", "shard"))
    >>> mesh
    Mesh(replicate=2, shard=2)
    >>> mesh.size, mesh.rank_list, mesh.coordinate(2)
    (4, (0, 1, 2, 3), (1, 0))
    """

    shape: tuple[int, ...]
    axes: tuple[str, ...] = ()
    ranks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        object.__setattr__(self, "shape", shape)
        if not shape or min(shape) < 1:
            raise LayoutError(f"a mesh needs axes of at least one rank each, not {shape}")
        axes = tuple(self.axes) or _default_axes(len(shape))
        object.__setattr__(self, "axes", axes)
        if len(axes) != len(shape) or len(set(axes)) != len(axes):
            raise LayoutError(f"mesh {shape} needs {len(shape)} different axis names, not {axes}")
        ranks = tuple(int(r) for r in self.ranks)
        if ranks and (len(ranks) != math.prod(shape) or len(set(ranks)) != len(ranks) or min(ranks) < 0):
            raise LayoutError(f"mesh {shape} needs {math.prod(shape)} different ranks, not {ranks}")
        if ranks and ranks == tuple(range(math.prod(shape))):
            ranks = ()
        object.__setattr__(self, "ranks", ranks)

    @classmethod
    def parse(cls, text: str) -> Mesh:
        """Read `4`, `2x2` or `replicate=2,shard=2`.

        >>> Mesh.parse("2x2")
        Mesh(axis0=2, axis1=2)
        >>> Mesh.parse("dp=2, tp=4").shape
        (2, 4)
        """
        if re.fullmatch(r"\d+(x\d+)*", text.strip()):
            return cls(tuple(int(n) for n in text.split("x")))
        named = [re.fullmatch(r"\s*([A-Za-z_]\w*)\s*=\s*(\d+)\s*", word) for word in text.split(",")]
        found = [match for match in named if match]
        if len(found) == len(named):
            return cls(tuple(int(m[2]) for m in found), tuple(m[1] for m in found))
        raise LayoutError(f"no mesh: {text!r}; write 4, 2x2 or replicate=2,shard=2")

    @property
    def size(self) -> int:
        """How many ranks."""
        return math.prod(self.shape)

    @property
    def rank_list(self) -> tuple[int, ...]:
        """Every rank, row by row."""
        return self.ranks or tuple(range(self.size))

    def coordinate(self, rank: int) -> tuple[int, ...]:
        """Where a rank stands, one number an axis; `LayoutError` for a rank that is not in the mesh."""
        return tuple(int(i) for i in np.unravel_index(self.place(rank), self.shape))

    def place(self, rank: int) -> int:
        """The position of a rank, row by row; `LayoutError` for a rank that is not in the mesh."""
        if not self.ranks and 0 <= rank < self.size:
            return rank
        if rank not in self.ranks:
            raise LayoutError(f"rank {rank} is not in {self!r} with ranks {self.rank_list}")
        return self.ranks.index(rank)

    def __repr__(self) -> str:
        axes = ", ".join(f"{name}={n}" for name, n in zip(self.axes, self.shape, strict=True))
        return f"Mesh({axes}, ranks={self.ranks})" if self.ranks else f"Mesh({axes})"


def _default_axes(ndim: int) -> tuple[str, ...]:
    return ("shard",) if ndim == 1 else tuple(f"axis{i}" for i in range(ndim))
