"""Names that changed by a rule: a wrapper round the model, another separator, a part more or less.

Rules are voted for by all keys at once: two keys speak for a rule if it makes one the other and
their shapes agree. It reads no bytes and knows no meaning of a name but the wrappers'.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ckptlab.plan.diagnose.case import Case
from ckptlab.plan.diagnose.families import Family, Words, families
from ckptlab.plan.diagnose.finding import Finding, Rule, number
from ckptlab.plan.diagnose.words import CONTAINERS, WRAPPERS

_LONGEST = 3
"""Parts of a name that a rule may take away, add or exchange."""

_CROWD = 64
"""Pairs of families that one context may suggest: more of them say nothing."""

_MANY = 4000
"""Families above which only the beginnings of names are looked at."""

_WRAPPED = re.compile(rf"(?<![^.])(?:{'|'.join(WRAPPERS)})\.")
_NOT_A_NAME = {code: "." for code in range(128) if not chr(code).isalnum()}
_SEPARATORS: tuple[tuple[str, str, str], ...] = (
    ("a slash", r"/", "."),
    ("brackets round a number", r"\[(\d+)\]", r".\1"),
    ("a colon", r":", "."),
    ("a double underscore", r"__", "."),
    ("an underscore round a number", r"_(\d+)(?=_|$)_?", r".\1."),
)


def wrappers(case: Case) -> None:
    """Pair names that are the same without the parts that wrappers put between."""
    if not any(_WRAPPED.search(key) for keys in (case.open, case.free) for key in keys):
        return
    bare: dict[str, list[str]] = defaultdict(list)
    for key in case.free:
        bare[_bare(key)].append(key)
    taken: dict[str, dict[str, str]] = {"checkpoint": {}, "target": {}}
    for wanted in list(case.open):
        those = bare.get(_bare(wanted), ())
        # Where several have this name without their wrappers, the shortest is the least wrapped.
        for stored in sorted((key for key in those if key in case.free), key=len):
            side = "checkpoint" if _wraps(stored) - _wraps(wanted) else "target"
            taken[side][wanted] = stored
            case.pair(wanted, stored)
            break
    for side, pairs in taken.items():
        if pairs:
            case.found.append(_wrapped(case, side, pairs))
    if taken["checkpoint"]:
        case.free.update({key: _bare(key) for key in case.free})


def _wrapped(case: Case, side: str, pairs: Mapping[str, str]) -> Finding:
    keys = pairs.values() if side == "checkpoint" else pairs.keys()
    other = "target" if side == "checkpoint" else "checkpoint"
    seen = {word for key in keys for word in _wraps(key)}
    words = [word for word in WRAPPERS if word in seen]
    made = " and ".join(WRAPPERS[word] for word in words)
    fit = sum(case.fits(*pair) for pair in pairs.items())
    cause = f"the {side}'s names have {' and '.join(map(repr, words))} in them, from {made}"
    rules: tuple[Rule, ...] = ()
    if side == "checkpoint":
        rules = ((rf"(?<![^.])(?:{'|'.join(map(re.escape, words))})\.", ""),)
    elif len(words) == 1 and all(key.startswith(f"{words[0]}.") for key in keys):
        rules = ((r"^", f"{words[0]}."),)
    return Finding(
        "wrapper",
        tuple(pairs),
        cause,
        0.99 if fit else 0.9,
        f"without them {number(len(pairs), 'name')} of the {side} are names of the {other}, "
        f"and {fit:,} agree in shape",
        f"Save the state of the bare module, or load with the names changed. Here the {side} is wrapped.",
        nbytes=case.nbytes(pairs),
        pairs=dict(pairs),
        rules=rules,
    )


def _wraps(key: str) -> set[str]:
    return {part for part in key.split(".") if part in WRAPPERS}


def _bare(key: str) -> str:
    return ".".join(part for part in key.split(".") if part not in WRAPPERS)


def separators(case: Case) -> None:
    """Pair names that differ only in what stands between their parts."""
    plain: dict[str, list[str]] = defaultdict(list)
    for key, name in case.free.items():
        plain[_plain(name)].append(key)
    pairs: dict[str, str] = {}
    for wanted in list(case.open):
        those = plain.get(_plain(wanted), ())
        if len(those) == 1 and those[0] in case.free:
            pairs[wanted] = those[0]
            case.pair(wanted, those[0])
    if not pairs:
        return
    text = "\n".join(pairs.values())
    seen = [(label, (old, new)) for label, old, new in _SEPARATORS if re.search(old, text)]
    wanted, stored = next(iter(pairs.items()))
    case.found.append(
        Finding(
            "separator",
            tuple(pairs),
            f"the parts of a name are set apart otherwise: {stored} is {wanted} in the target",
            0.97 if len(pairs) > 1 else 0.9,
            f"read letter by letter {number(len(pairs), 'name')} agree"
            + (f"; the checkpoint has {' and '.join(label for label, _ in seen)}" if seen else ""),
            "Load with the names changed.",
            nbytes=case.nbytes(pairs),
            pairs=pairs,
            rules=tuple(rule for _, rule in seen),
        )
    )


def _plain(name: str) -> str:
    plain = name.translate(_NOT_A_NAME)
    while ".." in plain:
        plain = plain.replace("..", ".")
    return plain.strip(".")


@dataclass(frozen=True)
class Change:
    """A run of parts that stands in the checkpoint's names, and what stands there in the target's."""

    old: Words
    new: Words
    first: bool
    """Whether it is where names begin."""

    @property
    def known(self) -> bool:
        """Whether it only adds or takes away what people put round a model."""
        one, other = sorted((self.old, self.new), key=len)
        return not one and all(part in CONTAINERS for part in other)

    def rules(self) -> tuple[Rule, ...]:
        """What a transform would be given, if a rule can do it."""
        old = r"\.".join(r"\d+" if part == "#" else re.escape(part) for part in self.old)
        new = "".join(f"{part}." for part in self.new)
        if self.first:
            return ((rf"^{old}\." if old else "^", new),)
        return ((rf"(?<![^.]){old}\.", new),) if old else ()

    def said(self, example: str = "") -> str:
        """The change in words; `example` is a name that it leads to."""
        old, new = (".".join(parts) for parts in (self.old, self.new))
        where = "before" if self.first else "in"
        if not new:
            if example.startswith(f"{old}."):
                return f"{old!r} stands twice before the checkpoint's names, once before the target's"
            return f"the checkpoint has {old!r} {where} its names, the target has not"
        if not old:
            return f"the target has {new!r} {where} its names, the checkpoint has not"
        return f"where the checkpoint's names have {old!r}, the target's have {new!r}"


@dataclass(frozen=True, eq=False)
class Vote:
    """Two families that a change makes one: which keys become which, and how many agree in shape."""

    stored: Family
    wanted: Family
    pairs: Mapping[str, str]
    fit: int


def votes(case: Case) -> None:
    """Pair names to which parts were added, from which some were taken, or whose beginning was exchanged."""
    _vote_for_all(case, exchange=False)


def exchanges(case: Case) -> None:
    """Pair names of which any parts were exchanged."""
    _vote_for_all(case, exchange=True)


def _vote_for_all(case: Case, exchange: bool) -> None:
    """Pair names by the change that most keys speak for, again and again until none is left."""
    ballots = _ballots(case, exchange)
    while ballots:
        change = max(ballots, key=lambda it: (_weight(it, ballots[it]), -len(it.old) - len(it.new), it.first))
        chosen = ballots.pop(change)
        if not _weight(change, chosen):
            return
        pairs: dict[str, str] = {}
        for vote in chosen:
            for wanted, stored in vote.pairs.items():
                if wanted in case.open and stored in case.free:
                    pairs[wanted] = stored
                    case.pair(wanted, stored)
        if pairs:
            case.found.append(_elected(case, change, chosen, pairs, ballots))
            for pattern, new_name in change.rules():
                case.free.update({key: re.sub(pattern, new_name, name) for key, name in case.free.items()})
        ballots = {it: left for it, those in ballots.items() if (left := _alive(case, those))}


def _weight(change: Change, those: Iterable[Vote]) -> float:
    """Keys that speak for a change; those that agree in name alone count little."""
    fit = sum(vote.fit for vote in those)
    named = sum(len(vote.pairs) for vote in those)
    # Where nothing agrees in shape, only a beginning that is added or taken away is likely.
    return fit + (named / 100 if change.first and not (change.old and change.new) else 0)


def _alive(case: Case, those: Iterable[Vote]) -> list[Vote]:
    """Those votes whose keys have not found another."""
    left = []
    for vote in those:
        pairs = {w: s for w, s in vote.pairs.items() if w in case.open and s in case.free}
        if pairs:
            fit = vote.fit if len(pairs) == len(vote.pairs) else sum(case.fits(*it) for it in pairs.items())
            left.append(Vote(vote.stored, vote.wanted, pairs, fit))
    return left


def _elected(
    case: Case,
    change: Change,
    chosen: Iterable[Vote],
    pairs: Mapping[str, str],
    others: Mapping[Change, Iterable[Vote]],
) -> Finding:
    fit = sum(case.fits(*pair) for pair in pairs.items())
    kinds = len({vote.wanted.words for vote in chosen})
    rivals = [it for it, those in others.items() if _rival(those, pairs, fit)]
    # A hundred layers say no more of a word that was exchanged than one does.
    voices = kinds if change.old and change.new else fit
    sure = max(0.3, (1 - 0.5 ** (voices + 3 * change.known)) * (fit / len(pairs)))
    if not fit:
        sure = 0.6 if change.known else 0.4
    why = f"it makes {number(len(pairs), 'name')} agree, {fit:,} of them in shape too"
    if rivals:
        sure, why = min(sure, 0.5), f"{why}; but {rivals[0].said()} explains them as well"
    return Finding(
        "prefix" if change.first else "name",
        tuple(pairs),
        change.said(next(iter(pairs))),
        round(min(sure, 0.99), 2),
        why,
        "Load with the names changed, or build the target's state under the same names.",
        nbytes=case.nbytes(pairs),
        pairs=dict(pairs),
        rules=change.rules(),
    )


def _rival(those: Iterable[Vote], pairs: Mapping[str, str], fit: int) -> bool:
    """Whether votes for another change give as many of these keys another partner that fits."""
    wins = sum(vote.fit for vote in those if all(pairs.get(w, s) != s for w, s in vote.pairs.items()))
    return wins >= max(1, fit)


def _ballots(case: Case, exchange: bool) -> dict[Change, list[Vote]]:
    stored = families((name, key) for key, name in case.free.items())
    wanted = families((key, key) for key in case.open)
    every = len(stored) + len(wanted) <= _MANY
    contexts: dict[tuple[Words, Words], list[tuple[Family, Words]]] = defaultdict(list)
    for family in stored.values():
        for context, middle in _cuts(family.words, every):
            contexts[context].append((family, middle))
    asked: dict[tuple[Words, Words], list[tuple[Family, Words]]] = defaultdict(list)
    for family in wanted.values():
        for context, middle in _cuts(family.words, every):
            if context in contexts:
                asked[context].append((family, middle))
    found: dict[Change, list[Vote]] = defaultdict(list)
    for (before, after), new in asked.items():
        old = contexts[before, after]
        if len(old) * len(new) > _CROWD:
            continue
        for theirs, a in old:
            for ours, b in new:
                if _minimal(a, b) and (exchange or not (a and b) or (not before and len(after) > 1)):
                    vote = _vote(case, theirs, ours, len(before), a, b)
                    if vote is not None:
                        found[Change(a, b, not before)].append(vote)
    return found


def _cuts(words: Words, every: bool) -> Iterator[tuple[tuple[Words, Words], Words]]:
    """Each way to take a run of parts out of a name, the last part left where it is."""
    last = len(words) - 1
    for start in range(last + 1 if every else 1):
        for stop in range(start, min(start + _LONGEST, last) + 1):
            yield (words[:start], words[stop:]), words[start:stop]


def _minimal(old: Words, new: Words) -> bool:
    """Whether nothing at the ends is the same, and the target has no number that the checkpoint lacks."""
    if not old or not new:
        return bool(old or new) and "#" not in new
    return old[0] != new[0] and old[-1] != new[-1] and "#" not in new


def _vote(case: Case, stored: Family, wanted: Family, start: int, old: Words, new: Words) -> Vote | None:
    """The keys that the change pairs; None if it makes two of the checkpoint's the same."""
    low = stored.words[:start].count("#")
    high = low + old.count("#")
    members: dict[tuple[str, ...], str] = {}
    for index, key in stored.members.items():
        if members.setdefault(index[:low] + index[high:], key) != key:
            return None
    pairs = {key: members[index] for index, key in wanted.members.items() if index in members}
    return Vote(stored, wanted, pairs, sum(case.fits(*it) for it in pairs.items())) if pairs else None
