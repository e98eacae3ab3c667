"""What an optimizer keeps: its state of each parameter, by name or by number, and its param_groups.

It knows how torch and DCP name these keys; it reads no bytes and no object.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from ckptlab.plan.diagnose.case import Case
from ckptlab.plan.diagnose.finding import Finding, Kind, number, shortened, staying
from ckptlab.plan.diagnose.leaving import leaving
from ckptlab.plan.diagnose.side import Shape, Side
from ckptlab.plan.diagnose.words import STATES, optimizer_of
from ckptlab.plan.transform import Part, Transform

_STATE = re.compile(r"((?:.*?\.)?)state\.(.+)\.([^.]+)")
_GROUP = re.compile(r"((?:.*?\.)?)param_groups\.(.+)\.([^.]+)")

State = dict[str, dict[str, str]]
"""The keys of an optimizer's state, by parameter, then by what they are."""


@dataclass(eq=False)
class Book:
    """What one optimizer of a side has: its state, and the keys of its groups, by group, then by option."""

    state: State = field(default_factory=dict)
    groups: State = field(default_factory=dict)

    @property
    def numbered(self) -> bool:
        """Whether parameters have numbers instead of names."""
        return bool(self.state) and all(name.isdigit() for name in self.state)

    @property
    def kept(self) -> frozenset[str]:
        """What it keeps of its parameters."""
        return frozenset(what for state in self.state.values() for what in state)


def books(keys: Iterable[str]) -> dict[str, Book]:
    """Every optimizer among some keys, by what its keys begin with.

    >>> books(["optim.state.w.exp_avg", "optim.param_groups.0.lr"])["optim."].kept
    frozenset({'exp_avg'})
    """
    found: dict[str, Book] = defaultdict(Book)
    for key in keys:
        if key.rpartition(".")[2] in STATES and (state := _STATE.fullmatch(key)):
            found[state[1]].state.setdefault(state[2], {})[state[3]] = key
        elif "param_groups." in key and (group := _GROUP.fullmatch(key)):
            found[group[1]].groups.setdefault(group[2], {})[group[3]] = key
    return dict(found)


@lru_cache(maxsize=4)
def _books(side: Side) -> dict[str, Book]:
    return books(side.keys)


def _both(case: Case) -> list[tuple[str, Book, Book]]:
    """The optimizers of both sides that are one: by their names, or if each side has one more."""
    ours, theirs = _books(case.wanted), _books(case.stored)
    found = [(root, ours[root], theirs[root]) for root in ours if root in theirs]
    left, right = [root for root in ours if root not in theirs], [root for root in theirs if root not in ours]
    return found + ([(left[0], ours[left[0]], theirs[right[0]])] if len(left) == len(right) == 1 else [])


def numbers(case: Case) -> None:
    """Pair state that is kept by number with state that is kept by name."""
    for root, wanted, stored in _both(case):
        if not wanted.state or not stored.state or wanted.numbered == stored.numbered:
            continue
        by_number = "checkpoint" if stored.numbered else "target"
        ours = _ordered(case.wanted, wanted)
        theirs = _ordered(case.stored, stored)
        order, sure = _matched([shape for _, shape in ours], [shape for _, shape in theirs])
        pairs = {
            key: theirs[j][0][what]
            for i, j in order
            for what, key in ours[i][0].items()
            if what in theirs[j][0]
        }
        for key, from_ in pairs.items():
            case.pair(key, from_)
        # The parameters of a group are named in the same way; those of the target are right already.
        own = [g["params"] for g in wanted.groups.values() if "params" in g]
        parts = {key: (Part(from_),) for key, from_ in pairs.items()} | _group_parts(case, wanted, stored)
        other = "names" if by_number == "checkpoint" else "numbers"
        case.found.append(
            Finding(
                "index",
                tuple(pairs) or tuple(key for state, _ in ours for key in state.values()),
                f"the {by_number} keeps optimizer state by a parameter's number, the other side by its name",
                sure,
                f"{number(len(order), 'parameter')} of {len(ours)} agree in shape in the order of "
                f"{root}state",
                f"Load each by the target's {other}, in the order in which the optimizer was given them.",
                remedy=Transform(parts=parts, leave=leaving(case.wanted, own)) if pairs else None,
                nbytes=case.nbytes(pairs),
            )
        )
        case.settle(parts, [key for group in stored.groups.values() for key in group.values()])


def _ordered(side: Side, book: Book) -> list[tuple[dict[str, str], tuple[Shape | None, ...]]]:
    """The state of each parameter in order, and the shapes of what is as large as it."""
    names = sorted(book.state, key=int) if book.numbered else list(book.state)
    return [
        (
            book.state[name],
            tuple(side.shape(key) for what, key in sorted(book.state[name].items()) if what != "step"),
        )
        for name in names
    ]


def _matched(
    ours: list[tuple[Shape | None, ...]], theirs: list[tuple[Shape | None, ...]]
) -> tuple[list[tuple[int, int]], float]:
    """Which parameter is which: in order, all of them; or each the next one of its shape."""
    if ours == theirs:
        return [(i, i) for i in range(len(ours))], 0.95 if len(set(ours)) > 1 or len(ours) == 1 else 0.85
    found, at = [], 0
    for i, shapes in enumerate(ours):
        j = next((j for j in range(at, len(theirs)) if theirs[j] == shapes), -1)
        if j >= 0:
            found.append((i, j))
            at = j + 1
    return found, 0.5


def _group_parts(case: Case, wanted: Book, stored: Book) -> dict[str, tuple[Part, ...]]:
    """Options by parameter from the one group that there is."""
    if len(stored.groups) != 1:
        return {}
    (options,) = stored.groups.values()
    return {
        key: (Part(options[option]),)
        for group in wanted.groups.values()
        for option, key in group.items()
        if key in case.open and option in options and option != "params"
    }


def states(case: Case) -> None:
    """What is left of optimizer state: another optimizer, or parameters that have none."""
    for root, wanted, stored in _both(case):
        if not stored.state or not wanted.state:
            _none(case, root, wanted, stored)
            continue
        paired = frozenset(
            what for state in wanted.state.values() for what, key in state.items() if key in case.pairs
        )
        new = wanted.kept - paired
        if new - {"step"}:
            _another(case, wanted, stored, new)
        _without(case, wanted)
        _beyond(case, stored)


def _none(case: Case, root: str, wanted: Book, stored: Book) -> None:
    """The target's optimizer has not kept anything yet, and the checkpoint's had."""
    keys = tuple(key for state in stored.state.values() for key in state.values() if key in case.free)
    if keys and wanted.groups:
        _lazy(
            case,
            keys,
            f"the target's optimizer ({root.rstrip('.') or 'optimizer'}) has no state yet",
            "an optimizer makes its state at the first step: a load brings none of it, and says nothing",
            "Take its state with get_optimizer_state_dict, which makes it, before you load.",
        )


def _another(case: Case, wanted: Book, stored: Book, new: frozenset[str]) -> None:
    keys = [key for state in wanted.state.values() for what, key in state.items() if what in new]
    common = (wanted.kept & stored.kept) - {"step"}
    if not common:
        # A step count without its averages would only mislead.
        keys = [key for state in wanted.state.values() for key in state.values()]
    was, is_ = optimizer_of(stored.kept), optimizer_of(wanted.kept)
    unused = [key for state in stored.state.values() for key in state.values() if key in case.free]
    case.settle(keys, unused)
    case.found.append(
        Finding(
            "optimizer",
            tuple(keys),
            f"the checkpoint's optimizer is {was}, the target's {is_}",
            0.95 if not common else 0.85,
            f"the one keeps {_listed(stored.kept)}, the other {_listed(wanted.kept)}",
            "Train on with the same optimizer, or let this one begin afresh.",
            cost=f"the optimizer begins afresh with {_listed(new)}",
            remedy=Transform(leave=leaving(case.wanted, keys)),
            nbytes=case.nbytes(keys),
        )
    )


def _listed(words: Iterable[str]) -> str:
    return ", ".join(sorted(words))


def _without(case: Case, wanted: Book) -> None:
    """Parameters of which the checkpoint keeps nothing, though it does of others."""
    absent = {end for key in case.open if key.rpartition(".")[2] not in STATES for end in _ends(key)}
    bare = {
        name: list(state.values())
        for name, state in wanted.state.items()
        # Of a parameter that is not there itself, no state is missed.
        if name not in absent and all(key in case.open for key in state.values())
    }
    for frozen in (True, False):
        names = [name for name in bare if (name in case.wanted.frozen) is frozen]
        keys = [key for name in names for key in bare[name]]
        if not keys:
            continue
        kind: Kind = "frozen" if frozen else "lazy"
        why = "the target's own are frozen" if frozen else "it has state of every other parameter"
        case.settle(keys)
        case.found.append(
            Finding(
                kind,
                tuple(keys),
                f"the checkpoint has no optimizer state of {number(len(names), 'parameter')}, which were "
                f"frozen or got no gradient: {shortened(names)}",
                0.9,
                f"state is made at a parameter's first step, so that ranks may differ in it; {why}",
                "Leave them as they are made: state of a parameter that no step has changed is all zeros.",
                cost=staying(len(keys), "key", "as the target has them"),
                remedy=Transform(leave=leaving(case.wanted, keys)),
                nbytes=case.nbytes(keys),
            )
        )


def _ends(key: str) -> Iterator[str]:
    """All names that a key may have below something."""
    parts = key.split(".")
    return (".".join(parts[n:]) for n in range(len(parts)))


def _beyond(case: Case, stored: Book) -> None:
    """Parameters of which only the checkpoint keeps something."""
    keys = tuple(key for state in stored.state.values() for key in state.values() if key in case.free)
    names = [name for name, state in stored.state.items() if any(key in case.free for key in state.values())]
    if keys:
        _lazy(
            case,
            keys,
            f"the target's optimizer has no state of {shortened(names, 1)}",
            "it is of other parameters, they are frozen now, or it has made no step yet; a load brings none",
            "If they are trained on, take the state with get_optimizer_state_dict, which makes it.",
        )


def _lazy(case: Case, keys: tuple[str, ...], cause: str, why: str, advice: str) -> None:
    case.settle(stored=keys)
    nbytes = case.stored.nbytes(keys)
    case.found.append(Finding("lazy", keys, cause, 0.8, why, advice, side="checkpoint", nbytes=nbytes))


def groups(case: Case) -> None:
    """What is left of param_groups."""
    ours, theirs = _books(case.wanted), _books(case.stored)
    for root, wanted, stored in _both(case):
        for option, keys in _options(wanted, case.open).items():
            there = bool(stored.groups)
            first: Kind = "initial_lr" if option == "initial_lr" else "param_groups"
            if there:
                _left(
                    case,
                    first,
                    keys,
                    f"the checkpoint's param_groups have no {option!r}",
                    _WHY.get(option, _OLD),
                )
        if wanted.groups and not stored.groups and stored.state:
            _left(
                case,
                "param_groups",
                _keys(wanted.groups, case.open),
                f"the checkpoint has optimizer state, but no {root}param_groups",
                _LOST,
            )
        initial = _options(stored, case.free).get("initial_lr", [])
        if initial and wanted.groups:
            case.settle(stored=initial)
            case.found.append(
                Finding(
                    "initial_lr",
                    tuple(initial),
                    "the target's param_groups have no 'initial_lr', so a load leaves it in the checkpoint",
                    0.9,
                    _WHY["initial_lr"],
                    "Make the scheduler before you take the optimizer's state, or set it in each group.",
                    side="checkpoint",
                )
            )
    # A group that is in one object is no key of its own, and so in no book.
    for key in [
        key for key in case.open if key.rpartition(".")[2] == "param_groups" and key in case.wanted.objects
    ]:
        root = key.removesuffix("param_groups")
        if root in theirs and not theirs[root].groups and root in ours:
            _left(case, "param_groups", [key], f"the checkpoint has optimizer state, but no {key}", _LOST)


_LOST = "a load that is not strict leaves learning rates as they are, and says nothing"
_OLD = "it may be an option that is newer than the checkpoint"
_WHY = {"initial_lr": "a scheduler sets it when it is made, and needs it to go on"}


def _options(book: Book, among: Mapping[str, object]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for group in book.groups.values():
        for option, key in group.items():
            if key in among:
                found[option].append(key)
    return found


def _keys(state: State, among: Mapping[str, object]) -> list[str]:
    return [key for group in state.values() for key in group.values() if key in among]


def _left(case: Case, kind: Kind, keys: list[str], cause: str, why: str) -> None:
    if not keys:
        return
    case.settle(keys)
    case.found.append(
        Finding(
            kind,
            tuple(keys),
            cause,
            0.95,
            why,
            "Set them by hand, or leave them as the target's optimizer was made.",
            cost=staying(len(keys), "option", "as the target has them"),
            remedy=Transform(leave=leaving(case.wanted, keys)),
        )
    )
