"""The search for meshes: which ranks may make one up, and what is left when none explains everything.

It judges nothing: what it finds is weighed in `weigh`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from ckptlab.layout.infer.pieces import Kind
from ckptlab.layout.infer.trial import Trial, explain, may_cut, nearest, smallest_world

_WORLDS = 4
"""Meshes of up to so many times the ranks that were seen are thought of."""

_FEW = 10
"""If one tensor in so many is not explained, it is that tensor, not the number of ranks, that is odd."""


def search(seen: Sequence[int], found: Sequence[Kind]) -> list[Trial]:
    """Trials that explain all; else the one that explains most; else one that explains the boxes alone."""
    good: list[Trial] = []
    near: Trial | None = None
    tensors = sum(len(k.rows) for k in found)
    for ranks in _worlds(seen, found):
        contiguous = ranks[-1] == len(ranks) - 1
        if (good and contiguous) or not may_cut(len(ranks), found):
            continue
        good += explain(ranks, found)
        if not good and near is None:
            near = nearest(ranks, found)
            if near.wrong * _FEW < tensors:
                return [near]
    if good:
        return good
    near = nearest(seen or range(smallest_world(found)), found)
    if near.wrong * 2 < tensors:
        return [near]
    nobody = [replace(kind, writers=np.full_like(kind.writers, -1)) for kind in found]
    for ranks in _worlds((), nobody):
        if may_cut(len(ranks), nobody) and (trials := explain(ranks, nobody)):
            # The boxes speak for a mesh, the writers against it: they are kept, to be told.
            return [_reread(trial, found) for trial in trials] if seen else trials
    return [near]


def _worlds(seen: Sequence[int], found: Sequence[Kind]) -> Iterator[tuple[int, ...]]:
    """The ranks that may make up the mesh, the likeliest first."""
    least = max(seen[-1] + 1 if seen else 1, smallest_world(found))
    if seen and seen[0] > 0:
        yield tuple(seen)
    for world in range(least, max(_WORLDS * least, 8) + 1):
        yield tuple(range(world))
    if seen and seen[0] == 0 and len(seen) <= seen[-1]:
        yield tuple(seen)


def _reread(trial: Trial, found: Sequence[Kind]) -> Trial:
    """The trial on what was found, writers and all, who contradict it."""
    fits = []
    for one, kind in zip(trial.fits, found, strict=True):
        hold = one.options[int(one.choice[0])].hold
        places = trial.grid.places(kind.writers)
        right = (kind.writers < 0) | ((places >= 0) & (hold[places] == kind.cell))
        fits.append(replace(one, kind=kind, wrong=(~right).sum(axis=1)))
    return replace(trial, fits=tuple(fits))
