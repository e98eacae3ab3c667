"""From the pieces that tensors were stored in, and who wrote each, back to the mesh that saved them.

Stock DCP records neither mesh nor placements. Every mesh of the ranks is tried; those that
explain all pieces are weighed, and each is handed back, best first, with what speaks for and
against it. It knows no file and no format.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from ckptlab.layout import evidence
from ckptlab.layout.box import Box
from ckptlab.layout.fit import Option
from ckptlab.layout.keyed import Keyed, keyed
from ckptlab.layout.layout import Layout
from ckptlab.layout.mesh import Mesh
from ckptlab.layout.pieces import Kind, Pieces, kinds
from ckptlab.layout.placement import Replicate
from ckptlab.layout.replay import Replayed, replay
from ckptlab.layout.trial import Trial, explain, may_cut, nearest, smallest_world

_AXIS, _FINER, _IDLE, _GAPS = 0.15, 0.1, 0.5, 0.3
"""How much less is believed: for each axis more than needed; all meshes together that only part an axis of
the first; for ranks that wrote nothing; for ranks left out."""

_LEAST = 0.01
"""What is believed less than so much of all is not handed back."""

_MOST_AGAINST = 100
_WORLDS = 4
"""Meshes of up to so many times the ranks that were seen are thought of."""


@dataclass(frozen=True)
class Contradiction:
    """A piece that a mesh does not explain, and why not. `writer` is -1 where nobody knows it."""

    name: str
    box: Box | None
    writer: int
    why: str

    def __str__(self) -> str:
        box = "" if self.box is None else f" {self.box}"
        return f"{self.name}{box}: {self.why}"


@dataclass(frozen=True)
class Candidate:
    """A mesh that may have saved the checkpoint, with a layout for each tensor by name.

    `certainty` runs from 0 to 1, all candidates together to at most 1. A tensor that only some ranks
    hold has a layout on a part of the mesh.
    """

    mesh: Mesh
    layouts: Mapping[str, Layout]
    certainty: float
    why: tuple[str, ...]
    against: tuple[Contradiction, ...] = ()

    @property
    def sure(self) -> str:
        """The certainty in words."""
        for least, words in ((0.9, "sure"), (0.6, "likely"), (0.3, "possible")):
            if self.certainty >= least:
                return words
        return "a guess"

    def __str__(self) -> str:
        lines = [f"{self.mesh!r}, {self.sure} ({self.certainty:.0%})", *(f"  {line}" for line in self.why)]
        shown = [f"  against: {found}" for found in self.against[:3]]
        more = len(self.against) - len(shown)
        return "\n".join([*lines, *shown, *([f"  and {more:,} more against"] if more else [])])


@dataclass(frozen=True)
class Inference:
    """The candidates, best first (at least one), and what can not be told from pieces and writers."""

    candidates: tuple[Candidate, ...]
    untold: tuple[str, ...] = ()

    @property
    def best(self) -> Candidate:
        """The one that is believed most."""
        return self.candidates[0]

    def __str__(self) -> str:
        return "\n".join([*map(str, self.candidates), *self.untold])


def infer(tensors: Sequence[Pieces], ranks: Sequence[int] = (), objects: int = 0, most: int = 4) -> Inference:
    """The meshes and placements that explain how these tensors were stored.

    `tensors` stand in the order of the state that was saved, as far as it is known; `ranks` are
    ranks that took part for certain, even if they wrote no tensor; `objects` is how many
    other values were saved, which stock counts when it shares out copies. At most `most` candidates.

    >>> from ckptlab.layout import Boxes
    >>> halves = Boxes(np.array([[0, 0], [4, 0]]), np.array([[4, 6], [4, 6]]))
    >>> wrote = {"w1": [0, 1], "w2": [2, 3], "w3": [0, 1]}
    >>> found = infer([Pieces(k, (8, 6), halves, np.array(w), 192) for k, w in wrote.items()])
    >>> found.best.mesh, found.best.layouts["w2"].placements
    (Mesh(replicate=2, fsdp=2), (Replicate(), Shard(0)))
    """
    found = kinds(tensors)
    regular = sorted((k for k in found if k.regular), key=lambda k: -len(k.pairs) * k.cut)
    seen = sorted({*ranks, *(int(w) for k in found for w in np.unique(k.writers) if w >= 0)})
    trials = _search(seen, regular)
    weighed = sorted(_weighed(trials, tensors, seen, objects), key=lambda one: -one.belief)
    total = sum(one.belief for one in weighed)
    weighed = [one for one in weighed if one.belief * one.peers >= _LEAST * total]
    candidates = tuple(_candidate(one, one.belief / total, tensors, found) for one in weighed[:most])
    return Inference(candidates, _untold(candidates, len(weighed) - most, seen, regular))


def _search(seen: Sequence[int], found: Sequence[Kind]) -> list[Trial]:
    """Trials that explain all; else the one that explains most; else one that explains the boxes alone."""
    good: list[Trial] = []
    for ranks in _worlds(seen, found):
        contiguous = ranks[-1] == len(ranks) - 1
        if (good and contiguous) or not may_cut(len(ranks), found):
            continue
        good += explain(ranks, found)
    if good:
        return good
    near = nearest(seen, found) if seen and may_cut(len(seen), found) else None
    if near is not None and near.wrong * 2 < sum(len(k.rows) for k in found):
        return [near]
    nobody = [replace(kind, writers=np.full_like(kind.writers, -1)) for kind in found]
    for ranks in _worlds((), nobody):
        if may_cut(len(ranks), nobody) and (trials := explain(ranks, nobody)):
            # The boxes speak for a mesh, the writers against it: they are kept, to be told.
            return [_reread(trial, found) for trial in trials] if seen else trials
    return []


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


@dataclass(frozen=True)
class _Weighed:
    """A trial, the axes along which it takes ranks to hold different keys, and how far it is believed.

    `peers` is how many meshes part an axis of the first, if this is one of them; else 1.
    """

    belief: float
    trial: Trial
    keys: tuple[Keyed, ...]
    replayed: Replayed
    peers: int
    same_as_first: bool


def _weighed(
    trials: Sequence[Trial], tensors: Sequence[Pieces], seen: Sequence[int], objects: int
) -> Iterator[_Weighed]:
    """Each trial, and each with ranks that hold different keys where copies were thought of."""
    nbytes = np.array([t.nbytes for t in tensors], np.int64)
    names = [t.name for t in tensors]
    same = [i for i, trial in enumerate(trials) if i and _holds_the_same(trial, trials[0])]
    finer = [i for i in same if not _in_vain(trials[i])]
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
        keys = keyed(trial, names)
        odds = max((one.odds for one in keys), default=1.0)
        if keys:
            yield _Weighed(belief * (1 - 0.5 / odds), trial, keys, shared, peers, i in finer)
        yield _Weighed(belief if rate == 1.0 else belief / odds, trial, (), shared, peers, i in finer)


def _holds_the_same(trial: Trial, first: Trial) -> bool:
    """Whether no rank holds anything else than in the first trial: no checkpoint can tell the two apart."""
    return np.array_equal(first.grid.ranks, trial.grid.ranks) and trial.holds_as(first)


def _in_vain(trial: Trial) -> bool:
    """Whether axes are parted only to be joined again, for some tensor or in nothing but copies."""
    copies = [not use.cuts for use in evidence.uses(trial)]
    joined = any(option.flattened for _, option, _ in trial.parts())
    return joined or any(a and b for a, b in pairwise(copies))


def _evidence(weighed: _Weighed) -> float:
    """How far a mesh can be believed: the more that is as it would have it, the more."""
    cut = [one for one in weighed.trial.fits if one.kind.cut]
    known = sum(int((one.kind.writers >= 0).sum()) for one in cut)
    right = known - sum(int(one.wrong.sum()) for one in cut)
    if weighed.keys:
        numbered = sum(n for one in weighed.keys for n in one.slots.values())
        known, right = known + numbered, right + numbered
    elif not known:
        known, right = weighed.replayed.judged, max(weighed.replayed.busy, weighed.replayed.lowest)
    return (right + 1) / (known + 2)


def _candidate(
    weighed: _Weighed, share: float, tensors: Sequence[Pieces], found: Sequence[Kind]
) -> Candidate:
    trial, keys = weighed.trial, weighed.keys
    names, reasons = evidence.axis_names(trial, keys)
    ranks = tuple(trial.grid.ranks.tolist())
    mesh = Mesh(trial.grid.shape, names, ranks)
    alone = {row: (one.axis, at) for one in keys for row, at in one.at.items()}
    layouts: dict[str, Layout] = {}
    for kind, option, chosen in trial.parts():
        made: dict[tuple[int, int], Layout] = {}
        for row in (kind.rows[t] for t in chosen.tolist()):
            part = alone.get(row, (-1, -1))
            if part not in made:
                made[part] = _layout(mesh, option, *part)
            layouts[tensors[row].name] = made[part]
    why = [*evidence.cut_lines(trial), *evidence.writer_lines(trial)]
    why += evidence.keyed_lines(keys) if keys else evidence.copy_lines(weighed.replayed)
    if weighed.same_as_first:
        why.append(
            "Every rank holds what it holds on the mesh of fewer axes: no checkpoint tells them apart."
        )
    against = tuple(_against(trial, tensors, found))
    return Candidate(mesh, layouts, share * _evidence(weighed), (*why, *reasons), against)


def _layout(mesh: Mesh, option: Option, axis: int, at: int) -> Layout:
    """The option on the mesh, or on that part of it that stands at `at` of `axis`."""
    groups = [g for g in option.groups if g != (axis,)]
    placements = tuple(p for g, p in zip(option.groups, option.placements, strict=True) if g != (axis,))
    ranks = np.array(mesh.rank_list).reshape(mesh.shape)
    if len(groups) < len(option.groups):
        ranks = ranks.take([at], axis=axis)
    if not groups:
        return Layout(Mesh((1,), (mesh.axes[axis],), tuple(ranks.ravel().tolist())), (Replicate(),))
    shape = tuple(int(np.prod([mesh.shape[a] for a in g])) for g in groups)
    names = tuple("_".join(mesh.axes[a] for a in g) for g in groups)
    return Layout(Mesh(shape, names, tuple(ranks.ravel().tolist())), placements)


def _against(trial: Trial, tensors: Sequence[Pieces], found: Sequence[Kind]) -> Iterator[Contradiction]:
    """What the trial does not explain, the first of it."""
    left = _MOST_AGAINST
    for kind in found:
        for row in kind.rows if not kind.regular else ():
            if left > 0:
                left -= 1
                yield Contradiction(
                    tensors[row].name, None, -1, "its pieces make no grid: a hole or an overlap"
                )
    for one in trial.fits:
        for t in np.flatnonzero(one.wrong):
            option, writers = one.options[int(one.choice[t])], one.kind.writers[t]
            places = trial.grid.places(writers)
            bad = np.flatnonzero((writers >= 0) & ((places < 0) | (option.hold[places] != one.kind.cell)))
            for box in bad[: max(left, 0)].tolist():
                holders = trial.grid.ranks[option.hold == one.kind.cell[box]].tolist()
                why = f"written by rank {writers[box]}, held by {evidence.ranks_in_words(holders)}"
                yield Contradiction(
                    tensors[one.kind.rows[int(t)]].name, one.kind.boxes[box], int(writers[box]), why
                )
            left -= len(bad)


def _untold(
    candidates: Sequence[Candidate], more: int, seen: Sequence[int], found: Sequence[Kind]
) -> tuple[str, ...]:
    """What nothing in a checkpoint can tell, as far as it matters here."""
    said = []
    if not found:
        return ("There is no tensor.",)
    if more > 0:
        said.append(f"{more} more meshes explain it too.")
    if not any(k.cut for k in found):
        said.append(
            "Nothing is cut: one process, or any number of ranks that each held all or gathered it first."
            if len(seen) < 2
            else "Nothing is cut: copies on every rank, or different keys on each."
        )
    elif "replicate" not in candidates[0].mesh.axes and "dp" not in candidates[0].mesh.axes:
        said.append("Copies on further ranks, of which none wrote, would leave no trace.")
    return tuple(said)
