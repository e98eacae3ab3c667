"""From the pieces that tensors were stored in, and who wrote each, back to the mesh that saved them.

Stock DCP records neither mesh nor placements. Every mesh of the ranks is tried; those that
explain all pieces are weighed, and each is handed back, best first, with what speaks for and
against it. It knows no file and no format.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from ckptlab.layout.box import Box
from ckptlab.layout.infer import evidence
from ckptlab.layout.infer.effort import Heard
from ckptlab.layout.infer.fit import Option
from ckptlab.layout.infer.groups import groups
from ckptlab.layout.infer.keyed import follow
from ckptlab.layout.infer.pieces import Kind, Pieces, kinds
from ckptlab.layout.infer.search import search
from ckptlab.layout.infer.trial import Trial
from ckptlab.layout.infer.weigh import Weighed, support, weigh
from ckptlab.layout.layout import Layout
from ckptlab.layout.mesh import Mesh
from ckptlab.layout.placement import Replicate

_LEAST = 0.01
"""What is believed less than so much of all is not handed back."""

_SHORT = "Not looked further: of very many meshes that were tried, none explains it all."

_MOST_AGAINST = 100
"""So many contradictions are named."""


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
    hold has a layout on a part of the mesh; one that no placements explain has none. `against` names the
    first hundred contradictions.
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


def infer(
    tensors: Sequence[Pieces],
    ranks: Sequence[int] = (),
    objects: int = 0,
    most: int = 4,
    heard: Heard | None = None,
) -> Inference:
    """The meshes and placements that explain how these tensors were stored.

    `tensors` stand in the order of the state that was saved, as far as it is known; `ranks` are
    ranks that took part for certain, even if they wrote no tensor; `objects` is how many
    other values were saved, which stock counts when it shares out copies. At most `most` candidates.
    A search that finds nothing ends when it has tried very much, and says so; `heard(tried, of)` is called
    meanwhile, and what it raises ends it, too.

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
    looked = search(seen, regular, heard)
    weighed = sorted(weigh(looked.trials, tensors, seen, objects), key=lambda one: -one.belief)
    total = sum(one.belief for one in weighed)
    weighed = [one for one in weighed if one.belief * one.peers >= _LEAST * total]
    odds, grouped = _apart(tensors, regular, seen, heard)
    share = odds / (odds + total)
    weighed = weighed if 1 - share >= _LEAST else []
    candidates = (
        *(replace(one, certainty=one.certainty * share) for one in grouped),
        *(_candidate(one, (1 - share) * one.belief / total, tensors, found) for one in weighed[:most]),
    )
    untold = _untold(candidates, len(weighed) - most, seen, regular)
    return Inference(candidates, (*untold, _SHORT) if looked.cut_short else untold)


def _apart(
    tensors: Sequence[Pieces], found: Sequence[Kind], seen: Sequence[int], heard: Heard | None
) -> tuple[float, tuple[Candidate, ...]]:
    """Ranks in groups of several sizes, with a mesh each, if names say so; with the odds against chance."""
    parted = groups(found, seen)
    if len({len(ranks) for ranks in parted}) < 2:
        return 0.0, ()
    group = {rank: i for i, ranks in enumerate(sorted(parted)) for rank in ranks}
    at = {row: group[int(t.writers[0])] for row, t in enumerate(tensors) if len(t.writers)}
    keys = follow([t.name for t in tensors], at, {row for row in at if tensors[row].shape}, len(parted), 0)
    if keys is None:
        return 0.0, ()
    layouts: dict[str, Layout] = {}
    why = list(evidence.keyed_lines([keys]))
    for i, ranks in enumerate(sorted(parted)):
        own = infer([t for row, t in enumerate(tensors) if at.get(row) == i], ranks, most=1, heard=heard).best
        if own.against or set(own.mesh.rank_list) != set(ranks):
            return 0.0, ()
        layouts |= own.layouts
        why.append(f"{own.mesh!r} of {evidence.ranks_in_words(ranks)} shares no tensor with the others.")
    sure = (len(keys.at) + 1) / (len(keys.at) + 2)
    mesh = Mesh((len(seen),), ("rank",), tuple(seen))
    return keys.odds, (Candidate(mesh, layouts, sure, tuple(why)),)


def _candidate(weighed: Weighed, share: float, tensors: Sequence[Pieces], found: Sequence[Kind]) -> Candidate:
    trial, keys = weighed.trial, weighed.keys
    names, reasons = evidence.axis_names(trial, keys)
    mesh = Mesh(trial.grid.shape, names, tuple(trial.grid.ranks.tolist()))
    by_row: dict[int, Layout] = {}
    for kind, option, chosen in trial.parts():
        made: dict[tuple[tuple[int, int], ...], Layout] = {}
        for row in (kind.rows[t] for t in chosen.tolist()):
            alone = tuple((one.axis, one.at[row]) for one in keys if row in one.at)
            if alone not in made:
                made[alone] = _layout(mesh, option, dict(alone))
            by_row[row] = made[alone]
    layouts = {tensors[row].name: by_row[row] for row in sorted(by_row)}
    why = [*evidence.cut_lines(trial), *evidence.writer_lines(trial)]
    why += evidence.keyed_lines(keys) if keys else evidence.copy_lines(weighed.replayed)
    if weighed.same_as_first:
        why.append(
            "Every rank holds what it holds on the mesh of fewer axes: no checkpoint tells them apart."
        )
    against = tuple(islice(_against(trial, tensors, found), _MOST_AGAINST))
    return Candidate(mesh, layouts, share * support(weighed, found), (*why, *reasons), against)


def _layout(mesh: Mesh, option: Option, alone: Mapping[int, int]) -> Layout:
    """The option on the mesh, or on that part of it that stands at these coordinates, by axis."""
    ways = [
        (group, placement)
        for group, placement in zip(option.groups, option.placements, strict=True)
        if len(group) > 1 or group[0] not in alone
    ]
    ranks = np.array(mesh.rank_list).reshape(mesh.shape)
    for group in option.groups:
        if len(group) == 1 and group[0] in alone:
            ranks = ranks.take([alone[group[0]]], axis=group[0])
    if not ways:
        return Layout(Mesh((1,), (mesh.axes[0],), tuple(ranks.ravel().tolist())), (Replicate(),))
    shape = tuple(math.prod(mesh.shape[a] for a in group) for group, _ in ways)
    names = tuple("_".join(mesh.axes[a] for a in group) for group, _ in ways)
    return Layout(Mesh(shape, names, tuple(ranks.ravel().tolist())), tuple(p for _, p in ways))


def _against(trial: Trial, tensors: Sequence[Pieces], found: Sequence[Kind]) -> Iterator[Contradiction]:
    """What the trial does not explain."""
    whole = [
        *(("its pieces make no grid: a hole or an overlap", kind.rows) for kind in found if not kind.regular),
        *(("no placements on this mesh make its pieces", kind.rows) for kind in trial.odd),
        *(("ranks left empty are not listed, as others are", rows) for rows in trial.unlisted),
    ]
    for why, rows in whole:
        for row in rows:
            yield Contradiction(tensors[row].name, None, -1, why)
    for one in trial.fits:
        for t in np.flatnonzero(one.wrong):
            option, writers = one.options[int(one.choice[t])], one.kind.writers[t]
            places = trial.grid.places(writers)
            name = tensors[one.kind.rows[int(t)]].name
            bad = (writers >= 0) & ((places < 0) | (option.hold[places] != one.kind.cell))
            for box in np.flatnonzero(bad).tolist():
                holders = trial.grid.ranks[option.hold == one.kind.cell[box]].tolist()
                why = f"written by rank {writers[box]}, held by {evidence.ranks_in_words(holders)}"
                yield Contradiction(name, one.kind.boxes[box], int(writers[box]), why)


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
