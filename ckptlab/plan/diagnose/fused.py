"""Tensors that are one here and several there: fused, stacked, tied.

Names are compared by what they mean (`words.concepts`), and every claim is checked by shapes. It
reads no bytes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from ckptlab.plan.diagnose.case import Case
from ckptlab.plan.diagnose.families import Family, Words, families, meanings
from ckptlab.plan.diagnose.finding import Finding, Kind, number
from ckptlab.plan.diagnose.side import Shape
from ckptlab.plan.diagnose.words import FUSED, WOVEN, concepts
from ckptlab.plan.transform import Part, Ranges, Transform

Parts = dict[str, tuple[Part, ...]]

_MATRIX = 2
_EXPERTS = 2
"""Of so many at least one tensor is stacked."""


def fused(case: Case) -> None:
    """Join and cut tensors as `FUSED` tells."""
    stored = meanings((name, key) for key, name in case.free.items() if key in case.stored.tensors)
    wanted = meanings((key, key) for key in case.open if key in case.wanted.tensors)
    ways: tuple[tuple[Kind, dict[Words, Family], dict[Words, Family]], ...]
    ways = (("fused", wanted, stored), ("split", stored, wanted))
    for kind, whole, pieces in ways:
        found: dict[tuple[str, bool], Parts] = defaultdict(dict)
        for meant, family in whole.items():
            for word, several in _pieces(meant, pieces):
                woven = not WOVEN.isdisjoint(family.words)
                found[word, woven] |= _cut(case, family, several, kind == "fused")
        for (word, woven), parts in found.items():
            if parts:
                case.found.append(_told(case, kind, word, woven, parts))


def _pieces(meant: Words, others: Mapping[Words, Family]) -> Iterator[tuple[str, list[Family]]]:
    """For a fused name, all that was fused, if it is there."""
    for at, word in enumerate(meant):
        names = [(*meant[:at], piece, *meant[at + 1 :]) for piece in FUSED.get(word, ())]
        if names and all(name in others for name in names):
            yield word, [others[name] for name in names]


def _cut(case: Case, family: Family, several: Sequence[Family], into: bool) -> Parts:
    """The parts by which one tensor is filled from several, or several from one."""
    ones, many = (case.wanted, case.stored) if into else (case.stored, case.wanted)
    parts: Parts = {}
    for index, key in family.members.items():
        keys = [other.members.get(index, "") for other in several]
        if not all(keys):
            continue
        ranges = _along(ones.tensors[key].shape, [many.tensors[piece].shape for piece in keys])
        if ranges and into:
            parts[key] = tuple(Part(piece, into=r) for piece, r in zip(keys, ranges, strict=True))
            case.settle([key], keys)
        elif ranges:
            parts |= {piece: (Part(key, stored=r),) for piece, r in zip(keys, ranges, strict=True)}
            case.settle(keys, [key])
    return parts


def _along(whole: Shape, shapes: Sequence[Shape]) -> list[Ranges]:
    """Where each of some tensors stands in the whole if they are laid one behind the other; empty if none."""
    for dim in range(len(whole)):
        alike = all(
            len(s) == len(whole) and s[:dim] + s[dim + 1 :] == whole[:dim] + whole[dim + 1 :] for s in shapes
        )
        if alike and sum(s[dim] for s in shapes) == whole[dim]:
            found, start = [], 0
            for s in shapes:
                ranges = [(0, n) for n in whole]
                ranges[dim] = (start, start := start + s[dim])
                found.append(tuple(ranges))
            return found
    return []


def _told(case: Case, kind: Kind, word: str, woven: bool, parts: Parts) -> Finding:
    pieces = ", ".join(FUSED[word])
    one, several = ("target", "checkpoint") if kind == "fused" else ("checkpoint", "target")
    why = f"the names mean it, and the sizes of {pieces} add up for {number(len(parts), 'key')}"
    if woven:
        why += "; but in many codes such rows go head by head, which sizes cannot tell"
    return Finding(
        kind,
        tuple(parts),
        f"the {one} has {pieces} as one tensor, the {several} has each by itself",
        0.4 if woven else 0.93,
        why,
        "Load each part into its rows." if kind == "fused" else "Load the rows of each part.",
        remedy=Transform(parts=parts),
        nbytes=case.nbytes(parts),
    )


def stacked(case: Case) -> None:
    """Experts (or layers) that are one tensor each here, and one for all of them there."""
    stored = families((name, key) for key, name in case.free.items() if key in case.stored.tensors)
    wanted = families((key, key) for key in case.open if key in case.wanted.tensors)
    for single, pile, kind in ((stored, wanted, "stacked"), (wanted, stored, "unstacked")):
        by_meaning = {_nameless(family.words): family for family in pile.values()}
        for family in list(single.values()):
            for at, word in enumerate(family.words):
                rest = family.words[:at] + family.words[at + 1 :]
                other = by_meaning.get(_nameless(rest)) if word == "#" else None
                if other is not None:
                    _stack(case, family, other, family.words[:at].count("#"), kind == "stacked")


def _nameless(words: Words) -> Words:
    meant = concepts(words)
    return meant[:-1] if meant and meant[-1] == "weight" else meant


def _stack(case: Case, single: Family, pile: Family, at: int, into: bool) -> None:
    ones, piles = (case.stored, case.wanted) if into else (case.wanted, case.stored)
    parts: Parts = {}
    for index, key in pile.members.items():
        count, *inner = piles.tensors[key].shape or (0,)
        keys = [single.members.get((*index[:at], str(i), *index[at:]), "") for i in range(count)]
        if count < _EXPERTS or not all(keys) or any(ones.shape(one) != tuple(inner) for one in keys):
            continue
        ranges = [((i, i + 1), *((0, n) for n in inner)) for i in range(count)]
        if into:
            parts[key] = tuple(Part(one, into=r) for one, r in zip(keys, ranges, strict=True))
            case.settle([key], keys)
        else:
            parts |= {one: (Part(key, stored=r),) for one, r in zip(keys, ranges, strict=True)}
            case.settle(keys, [key])
    if parts:
        name = ".".join(single.words)
        case.found.append(
            Finding(
                "stacked" if into else "unstacked",
                tuple(parts),
                f"the {'target' if into else 'checkpoint'} has one tensor for all {name}, a plane for each",
                0.92,
                f"the names mean it, and the shapes of {number(len(parts), 'key')} agree",
                "Load each into its plane." if into else "Load the plane of each.",
                remedy=Transform(parts=parts),
                nbytes=case.nbytes(parts),
            )
        )


def tied(case: Case) -> None:
    """Tensors that share their memory, and were saved once: the embedding and the head."""
    known: Parts = {}
    for key in list(case.open):
        twin = case.wanted.tied.get(key)
        source = next((t for t in (twin, *_twins(case, twin)) if t in case.pairs), None)
        if source is not None and case.wanted.shape(key) == case.wanted.shape(source):
            known[key] = (Part(case.pairs[source]),)
    likely: Parts = {key: (Part(stored),) for key, stored in _partners(case) if key not in known}
    for parts, sure, why in (
        (known, 0.99, "in the target they are one memory"),
        (likely, 0.7, "both are a word's row each, of one shape, and only one was saved"),
    ):
        if not parts:
            continue
        key, (part, *_) = next(iter(parts.items()))
        case.settle(parts)
        case.found.append(
            Finding(
                "tied",
                tuple(parts),
                f"{key} is tied to {part.fqn}, and was saved once, under that name",
                sure,
                why,
                "Load both from the one tensor.",
                remedy=Transform(parts=parts),
                nbytes=case.nbytes(parts),
            )
        )


def _twins(case: Case, first: str | None) -> list[str]:
    """The others that share this one's memory."""
    return [key for key, one in case.wanted.tied.items() if first is not None and one == first]


def _partners(case: Case) -> Iterator[tuple[str, str]]:
    """For a head that is missing the stored embedding, or the other way round."""
    ends = [key for key in case.open if len(case.wanted.shape(key) or ()) == _MATRIX]
    asked = {m: f for m, f in meanings((k, k) for k in ends).items() if "embed" in m or "head" in m}
    if not asked:
        return
    stored = meanings((key, key) for key, it in case.stored.tensors.items() if len(it.shape) == _MATRIX)
    for meant, family in asked.items():
        for one, other in (("head", "embed"), ("embed", "head")):
            name = tuple(other if word == one else word for word in meant)
            if name == meant or name not in stored:
                continue
            for index, key in family.members.items():
                theirs = stored[name].members.get(index)
                if theirs is not None and case.fits(key, theirs):
                    yield key, theirs
