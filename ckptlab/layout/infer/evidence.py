"""A mesh in words: names for its axes, and what speaks for it, in short sentences.

It judges nothing: which mesh is believed is decided in `infer`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ckptlab.layout.infer.keyed import Keyed
from ckptlab.layout.infer.replay import Replayed
from ckptlab.layout.infer.trial import Trial
from ckptlab.layout.placement import Replicate, StridedShard

_MOST = 6
"""So many ways in which tensors are cut are told one by one."""


@dataclass(frozen=True)
class Use:
    """What an axis does, in tensors: copies of scalars apart, `cuts` by dim, `strided` of those."""

    copies: int
    cuts: Counter[int]
    strided: int


def uses(trial: Trial) -> tuple[Use, ...]:
    """What each axis of the mesh does to tensors that have elements to cut."""
    found = []
    for axis in range(len(trial.grid.shape)):
        copies, strided, cuts = 0, 0, Counter[int]()
        for kind, option, chosen in trial.parts():
            if not all(kind.shape):
                continue
            placement = option.by_axis[axis]
            if isinstance(placement, Replicate):
                copies += len(chosen) * bool(kind.shape)
            else:
                cuts[placement.dim] += len(chosen)
                strided += len(chosen) * isinstance(placement, StridedShard)
        found.append(Use(copies, cuts, strided))
    return tuple(found)


def axis_names(trial: Trial, keys: Sequence[Keyed]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """A name for each axis, and why, one sentence for each that one can say."""
    what = {one.axis: one.name for one in keys}
    names, why = [], []
    used = uses(trial)
    strided = any(use.strided for use in used)
    for axis, use in enumerate(used):
        name, reason = (what[axis], "") if axis in what else _name(use, strided)
        if trial.grid.shape == (1,):
            name = "rank"
        names.append(name)
        if reason:
            why.append(f"{name}: {reason}.")
    if "tp" in names and "fsdp" not in names:
        names = ["dp" if name == "replicate" else name for name in names]
    letters = iter("abcdefgh")
    many = Counter(names)
    return tuple(name if many[name] == 1 else next(letters) for name in names), tuple(
        line for line in why if many[line.partition(":")[0]] == 1
    )


def _name(use: Use, strided: bool) -> tuple[str, str]:
    """The name of an axis by its use; `strided`: some axis of this mesh cuts what another cut before."""
    cut = use.cuts.total()
    if not cut:
        return "replicate", ""
    if use.strided:
        return "fsdp", "it cuts again what a later axis cut, as FSDP2 does over TP"
    if len(use.cuts) > 1:
        dims = " and ".join(f"dim {d} of {n}" for d, n in sorted(use.cuts.items()))
        return "tp", f"it cuts {dims}, as TP does by columns and rows"
    (dim,) = use.cuts
    if dim == 0 and use.copies * 10 <= cut and not strided:
        told = f"it cuts dim 0 of {_of(cut, cut + use.copies)}, as FSDP does"
        return "fsdp", f"{told}; TP by rows of all of these would look the same"
    if dim:
        reason = f"it cuts dim {dim}; FSDP cuts dim 0 unless told otherwise"
    elif strided:
        reason = "it cut first what the other axis cuts again"
    else:
        reason = f"it leaves {_tensors(use.copies)} whole; FSDP would cut them too"
    return "tp", reason


def cut_lines(trial: Trial) -> list[str]:
    """How tensors are cut, the most common way first, and who wrote the pieces."""
    ways: Counter[tuple[tuple[int, int], ...]] = Counter()
    for kind, _, chosen in trial.parts():
        ways[tuple((d, n) for d, n in enumerate(kind.counts) if n > 1)] += len(chosen)
    total, whole = ways.total(), ways.pop((), 0)
    lines = [
        f"{_of(n, total).capitalize()} {_are(n)} cut into {_parts(pieces)}."
        for pieces, n in ways.most_common()
    ]
    if len(lines) > _MOST:
        lines = [*lines[:_MOST], f"{len(lines) - _MOST} more ways to cut, told by the layouts."]
    if whole:
        lines.append(f"{_of(whole, total).capitalize()} {_are(whole)} whole.")
    return lines


def writer_lines(trial: Trial) -> list[str]:
    """Who wrote what: an example, and how much of all agrees with the mesh."""
    cut = [one for one in trial.fits if one.kind.cut]
    known = sum(int((one.kind.writers >= 0).sum()) for one in cut)
    if not known:
        return ["No file name tells who wrote a piece: only the boxes speak."] if cut else []
    lines = []
    best = max(cut, key=lambda one: len(one.kind.pairs))
    writers: dict[int, list[int]] = {}
    agree = replace(best.kind, writers=best.kind.writers[best.wrong == 0])
    for cell, writer in agree.pairs.tolist():
        writers.setdefault(cell, []).append(writer)
    if writers and all(len(ranks) == 1 for ranks in writers.values()):
        ranks = [writers[cell][0] for cell in sorted(writers)]
        if ranks == list(range(len(ranks))):
            lines.append(f"Ranks 0 to {len(ranks) - 1} wrote pieces 0 to {len(ranks) - 1}, in this order.")
        else:
            lines.append(f"Pieces 0 to {len(ranks) - 1} were written by ranks {_listed(ranks)}.")
    elif writers:
        told = [f"piece {cell} by {ranks_in_words(ranks)}" for cell, ranks in sorted(writers.items())[:3]]
        lines.append(
            f"Several ranks wrote the same piece, each of other tensors: {', '.join(told)}"
            f"{' ...' if len(writers) > 3 else ''}."
        )
    wrong = sum(int(one.wrong.sum()) for one in cut)
    lines.append(
        f"{known - wrong:,} of {known:,} pieces were written by a rank that holds them on this mesh."
    )
    return lines


def copy_lines(replayed: Replayed) -> list[str]:
    """Whether copies were shared out as stock DCP does it."""
    n = replayed.judged
    if not n:
        return []
    if replayed.lowest == n:
        return [f"Of ranks that hold the same, the lowest wrote, {n:,} times of {n:,}."]
    return [
        f"Of ranks that hold the same, the one with least to write was chosen {replayed.busy:,} times of "
        f"{n:,}, as stock DCP chooses."
    ]


def keyed_lines(keys: Sequence[Keyed]) -> list[str]:
    """Why ranks are thought to hold different keys."""
    lines = []
    for one in keys:
        slot, n = max(one.slots.items(), key=lambda item: item[1])
        lines.append(
            f"{one.name}: who wrote follows the number in {slot!r} ({_tensors(n)}); "
            "ranks along it hold different keys, not copies."
        )
    return lines


def ranks_in_words(ranks: Sequence[int]) -> str:
    """`rank 0`, `ranks 0, 2`, the first of many."""
    return f"rank{'s' * (len(ranks) != 1)} {_listed(ranks)}"


def _parts(pieces: Sequence[tuple[int, int]]) -> str:
    return " and ".join(f"{n} along dim {dim}" for dim, n in pieces)


def _listed(ranks: Sequence[int], most: int = 8) -> str:
    return ", ".join(map(str, ranks[:most])) + (" ..." if len(ranks) > most else "")


def _of(n: int, total: int) -> str:
    return f"{'all' if n == total > 1 else f'{n:,} of'} {_tensors(total)}"


def _are(n: int) -> str:
    return "is" if n == 1 else "are"


def _tensors(n: int) -> str:
    return f"{n:,} tensor{'s' * (n != 1)}"
