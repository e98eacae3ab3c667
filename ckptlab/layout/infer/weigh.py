"""How far each mesh is believed that explains what was found.

Beliefs are rules of thumb, stated here: only their order and their rough size mean anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ckptlab.layout.infer import evidence
from ckptlab.layout.infer.keyed import Keyed, keyed
from ckptlab.layout.infer.pieces import Kind, Pieces
from ckptlab.layout.infer.replay import Replayed, replay
from ckptlab.layout.infer.trial import Trial

_AXIS, _FINER, _IDLE, _GAPS, _UNLISTED, _IN_TURN = 0.15, 0.1, 0.5, 0.3, 0.3, 0.1
"""How much less is believed: for each axis more than needed; all meshes together that only part an axis of
the first; for ranks that wrote nothing; for ranks left out; for ranks left empty without a word, where
others are listed; for different keys that go round and round just as copies would."""


@dataclass(frozen=True)
class Weighed:
    """A trial, the axes along which it takes ranks to hold different keys, and how far it is believed.

    `peers` is how many meshes part an axis of the first, if this is one of them; else 1.
    """

    belief: float
    trial: Trial
    keys: tuple[Keyed, ...]
    replayed: Replayed
    peers: int
    same_as_first: bool


def weigh(
    trials: Sequence[Trial], tensors: Sequence[Pieces], seen: Sequence[int], objects: int
) -> Iterator[Weighed]:
    """Each trial, and each with ranks that hold different keys where copies were thought of."""
    nbytes = np.array([t.nbytes for t in tensors], np.int64)
    names = [t.name for t in tensors]
    same = [i for i, trial in enumerate(trials) if i and _holds_the_same(trial, trials[0])]
    finer = [i for i in same if not _in_vain(trials[i])]
    numbered = bool(keyed(trials[0], names))
    for i, trial in enumerate(trials):
        ranks, peers = trial.grid.ranks, len(finer) if i in finer else 1
        if i in same and i not in finer:
            continue
        least = min(len(t.grid.shape) for t in trials if len(t.grid.ranks) == len(ranks))
        belief = _FINER / peers if i in finer else _AXIS ** (len(trial.grid.shape) - least)
        if set(ranks.tolist()) - set(seen):
            belief *= _IDLE
        if seen and seen[0] == 0 and int(ranks.max()) >= len(ranks):
            belief *= _GAPS
        shared = replay(trial.fits, trial.grid, nbytes, objects)
        rate = max(shared.busy, shared.lowest) / max(shared.judged, 1)
        if shared.judged:
            belief *= 1 - 0.9 * (1 - rate**2) * min(1.0, shared.judged / 8)
        if trial.unlisted:
            belief *= _UNLISTED
        keys = keyed(trial, names) if numbered or i not in finer else ()
        odds = max((one.odds for one in keys), default=1.0)
        if keys:
            in_turn = rate == 1.0 and any(one.in_turn for one in keys)
            other = belief * (1 - 0.5 / odds) * (_IN_TURN if in_turn else 1)
            yield Weighed(other, trial, keys, shared, peers, i in finer)
        yield Weighed(belief if rate == 1.0 else belief / odds, trial, (), shared, peers, i in finer)


def _holds_the_same(trial: Trial, first: Trial) -> bool:
    """Whether no rank holds anything else than in the first trial: no checkpoint can tell the two apart."""
    return np.array_equal(first.grid.ranks, trial.grid.ranks) and trial.holds_as(first)


def _in_vain(trial: Trial) -> bool:
    """Whether axes are parted only to be joined again, for some tensor or in nothing but copies."""
    copies = [not use.cuts for use in evidence.uses(trial)]
    joined = any(option.flattened for _, option, _ in trial.parts())
    return joined or any(a and b for a, b in pairwise(copies))


def support(weighed: Weighed, found: Sequence[Kind]) -> float:
    """How far a mesh can be believed at all: the more of what was seen is as it would have it, the more."""
    trial = weighed.trial
    cut = [one for one in trial.fits if one.kind.cut]
    known = sum(int((one.kind.writers >= 0).sum()) for one in cut)
    right = known - sum(int(one.wrong.sum()) for one in cut)
    if weighed.keys:
        numbered = sum(n for one in weighed.keys for n in one.slots.values())
        known, right = known + numbered, right + numbered
    else:
        # Not every saver shares copies out as stock does: beside pieces, each choice counts a quarter.
        shared, part = weighed.replayed, 4 if known else 1
        known, right = known + shared.judged // part, right + max(shared.busy, shared.lowest) // part
    odd = [*trial.odd, *(kind for kind in found if not kind.regular)]
    known += sum(kind.writers.size for kind in odd)
    right = max(right - sum(map(len, trial.unlisted)), 0)
    return (right + 1) / (known + 2)
