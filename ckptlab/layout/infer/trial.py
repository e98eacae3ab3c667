"""Meshes tried on what was found: every grid of the ranks, and whether it explains all tensors.

It knows no names and says nothing in words; `infer` weighs what comes back.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ckptlab.layout.box import Ints
from ckptlab.layout.infer.effort import Effort, SpentError
from ckptlab.layout.infer.fit import Fit, Grid, Option, fit
from ckptlab.layout.infer.pieces import Kind
from ckptlab.layout.placement import Replicate

AXES = 4
"""Meshes of so many axes are tried."""


@dataclass(frozen=True, eq=False)
class Trial:
    """A mesh, the kinds that could be placed on it, and those of which no placements make the pieces."""

    grid: Grid
    fits: tuple[Fit, ...]
    odd: tuple[Kind, ...] = ()

    @property
    def wrong(self) -> int:
        """Tensors that it does not explain."""
        return sum(int((f.wrong > 0).sum()) for f in self.fits) + sum(len(k.rows) for k in self.odd)

    @property
    def unlisted(self) -> tuple[tuple[int, ...], ...]:
        """Tensors by row, kind by kind, that leave ranks empty without a word, if others list such ranks."""
        if not any(one.kind.lists for one in self.fits):
            return ()
        return tuple(
            tuple(kind.rows[t] for t in chosen)
            for kind, option, chosen in self.parts()
            if (option.hold < 0).any()
        )

    def parts(self) -> Iterator[tuple[Kind, Option, Ints]]:
        """Tensors of one kind under one option: their positions within the kind."""
        for found in self.fits:
            for number, option in enumerate(found.options):
                chosen = np.flatnonzero(found.choice == number)
                if len(chosen):
                    yield found.kind, option, chosen

    def holds_as(self, other: Trial) -> bool:
        """Whether each rank holds of each tensor what it holds in the other."""
        return all(
            np.array_equal(mine.options[a].hold, theirs.options[b].hold)
            for mine, theirs in zip(self.fits, other.fits, strict=True)
            for a, b in set(zip(mine.choice.tolist(), theirs.choice.tolist(), strict=True))
        )


def explain(ranks: Sequence[int], found: Sequence[Kind], effort: Effort) -> Iterator[Trial]:
    """The meshes of fewest axes that explain every tensor, and those of one axis more; maybe none."""
    good = 0
    for axes in range(1, AXES + 1):
        fewest = good
        for grid in _grids(ranks, axes):
            if (trial := _try(grid, found, effort, strict=True)) is not None:
                good += 1
                yield trial
        if fewest:
            break


def nearest(ranks: Sequence[int], found: Sequence[Kind], effort: Effort) -> Trial:
    """The mesh that explains the most tensors, of those the one of fewest axes; of all that may be tried."""
    best: Trial | None = None
    try:
        for grid in (grid for axes in range(1, AXES) for grid in _grids(ranks, axes)):
            trial = _try(grid, found, effort, strict=False)
            if trial is not None and (best is None or trial.wrong < best.wrong):
                best = trial
    except SpentError:
        pass
    return best or Trial(next(_grids(ranks, 1)), (), tuple(found))


def may_cut(worlds: Ints, found: Sequence[Kind]) -> npt.NDArray[np.bool_]:
    """Which numbers of ranks can make so many pieces at all; no mesh is tried."""
    good = np.ones(len(worlds), bool)
    most = int(worlds.max(initial=0))
    asked = {
        (k.shape[d], int(k.spans[d][:, 1].max())) for k in found for d, n in enumerate(k.counts) if n > 1
    }
    for size, longest in asked:
        # Parts of which the longest is this long; some axes must make one of these numbers of parts.
        least, end = -(-size // longest), -(-size // (longest - 1)) if longest > 1 else most + 1
        can = np.zeros(most + 1, bool)
        for parts in range(least, min(end, most + 1)):
            can[parts::parts] = True
        good &= can[worlds]
    return good


def _grids(ranks: Sequence[int], axes: int) -> Iterator[Grid]:
    for shape in _factors(len(ranks), axes):
        yield Grid(shape, np.array(ranks, np.int64))


def _factors(n: int, parts: int) -> Iterator[tuple[int, ...]]:
    """Every way to write n as a product of so many numbers, none of them 1 (but 1 itself)."""
    if parts == 1:
        yield (n,)
        return
    for first in range(2, n // 2 + 1):
        if n % first == 0:
            for rest in _factors(n // first, parts - 1):
                yield (first, *rest)


def _try(grid: Grid, found: Sequence[Kind], effort: Effort, strict: bool) -> Trial | None:
    fits, odd = [], []
    for kind in found:
        one = fit(kind, grid, effort)
        if strict and (one is None or one.wrong.any()):
            return None
        if one is None:
            odd.append(kind)
        else:
            fits.append(one)
    return Trial(grid, _settled(fits), tuple(odd))


def _settled(fits: Sequence[Fit]) -> tuple[Fit, ...]:
    """Where the writers leave a kind open, it takes what most of those before it do, the least open first."""
    usual: Counter[tuple[int, int]] = Counter()
    settled = list(fits)
    for i in sorted(range(len(fits)), key=lambda i: (len(fits[i].open), -len(fits[i].kind.rows))):
        one = fits[i]
        if not one.open or not one.kind.cut:
            continue
        best = max(one.open, key=lambda o: sum(usual[use] for use in _uses(one.options[o])))
        settled[i] = replace(one, choice=np.full_like(one.choice, best))
        usual.update({use: len(one.kind.rows) for use in _uses(one.options[best])})
    return tuple(settled)


def _uses(option: Option) -> list[tuple[int, int]]:
    """What each axis does: the dim that it cuts, -1 for a copy."""
    return [(a, -1 if isinstance(p, Replicate) else p.dim) for a, p in enumerate(option.by_axis)]


def smallest_world(found: Sequence[Kind]) -> int:
    """The fewest ranks that the boxes need."""
    return max((math.prod(kind.counts) for kind in found), default=1)
