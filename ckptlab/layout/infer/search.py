"""The search for meshes: which ranks may make one up, and what is left when none explains everything.

It judges nothing: what it finds is weighed in `weigh`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ckptlab.layout.infer.effort import Effort, Heard, SpentError
from ckptlab.layout.infer.pieces import Kind
from ckptlab.layout.infer.trial import Trial, explain, may_cut, nearest, smallest_world

_WORLDS = 4
"""Meshes of up to so many times the ranks that were seen are thought of."""

_FEW = 10
"""If one tensor in so many is not explained, it is that tensor, not the number of ranks, that is odd."""

_MOST, _MOST_EACH = 20_000_000, 2_000
"""What each part of a search may cost, and more for each rank: several times what it costs to agree."""


@dataclass(frozen=True)
class Found:
    """Meshes that explain what was found, or the nearest; `cut_short`: more could have been tried."""

    trials: list[Trial]
    cut_short: bool = False


@dataclass(frozen=True)
class _Search:
    """What is asked: the ranks that were seen, and what they wrote."""

    seen: Sequence[int]
    found: Sequence[Kind]
    heard: Heard | None

    def effort(self) -> Effort:
        """What a part of the search may still try."""
        return Effort(_MOST + _MOST_EACH * len(self.seen), self.heard)

    def nearest(self, ranks: Sequence[int]) -> Trial:
        """The mesh of these ranks that explains the most tensors."""
        return nearest(ranks, self.found, self.effort())


def search(seen: Sequence[int], found: Sequence[Kind], heard: Heard | None = None) -> Found:
    """Trials that explain all; else the one that explains most; else one that explains the boxes alone."""
    asked = _Search(seen, found, heard)
    tensors = sum(len(k.rows) for k in found)
    good, near, short = _explained(asked, tensors)
    if good:
        return Found(good)
    if near is not None and near.wrong * _FEW < tensors:
        return Found([near])
    if near is None or near.grid.ranks.tolist() != list(seen):
        near = asked.nearest(seen or range(smallest_world(found)))
    if near.wrong * 2 < tensors:
        return Found([near], short)
    trials, more = _by_boxes(asked)
    # The boxes speak for a mesh, the writers against it: they are kept, to be told.
    trials = [_reread(trial, found) for trial in trials] if seen else trials
    return Found(trials or [near], short or more)


def _explained(asked: _Search, tensors: int) -> tuple[list[Trial], Trial | None, bool]:
    """Trials that explain all; the nearest on the first ranks that were tried; whether there were more."""
    good: list[Trial] = []
    near: Trial | None = None
    hopeless = any(kind.scattered for kind in asked.found)
    effort = asked.effort()
    try:
        for ranks in _worlds(asked.seen, asked.found):
            if good and ranks[-1] == len(ranks) - 1:
                continue
            for trial in () if hopeless else explain(ranks, asked.found, effort):
                good.append(trial)
            if not good and near is None:
                near = asked.nearest(ranks)
            if near is not None and (hopeless or near.wrong * _FEW < tensors):
                break
    except SpentError:
        return good, near, True
    return good, near, False


def _by_boxes(asked: _Search) -> tuple[list[Trial], bool]:
    """Trials that explain the boxes, whoever wrote them; and whether more could have been tried."""
    nobody = [replace(kind, writers=np.full_like(kind.writers, -1)) for kind in asked.found]
    trials: list[Trial] = []
    effort = asked.effort()
    try:
        for ranks in _worlds((), nobody):
            for trial in explain(ranks, nobody, effort):
                trials.append(trial)
            if trials:
                break
    except SpentError:
        return trials, True
    return trials, False


def _worlds(seen: Sequence[int], found: Sequence[Kind]) -> Iterator[Sequence[int]]:
    """The ranks that may make up the mesh, the likeliest first; only so many as can make the pieces."""
    least = max(seen[-1] + 1 if seen else 1, smallest_world(found))
    sizes = np.arange(least, max(_WORLDS * least, 8) + 1)
    own = bool(seen) and bool(may_cut(np.array([len(seen)]), found).all())
    if own and seen[0] > 0:
        yield seen
    for world in sizes[may_cut(sizes, found)].tolist():
        yield range(world)
    if own and seen[0] == 0 and len(seen) <= seen[-1]:
        yield seen


def _reread(trial: Trial, found: Sequence[Kind]) -> Trial:
    """The trial on what was found, writers and all, who contradict it."""
    fits = []
    for one, kind in zip(trial.fits, found, strict=True):
        hold = one.options[int(one.choice[0])].hold
        places = trial.grid.places(kind.writers)
        right = (kind.writers < 0) | ((places >= 0) & (hold[places] == kind.cell))
        fits.append(replace(one, kind=kind, wrong=(~right).sum(axis=1)))
    return replace(trial, fits=tuple(fits))
