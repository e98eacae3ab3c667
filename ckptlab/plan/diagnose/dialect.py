"""The same tensor under the names of two families of codes; and what only shapes can pair.

Words decide where they are known (`words.concepts`), shapes where nothing else is left. It reads
no bytes.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from ckptlab.plan.diagnose.case import Case
from ckptlab.plan.diagnose.families import Family, Words, families, meanings
from ckptlab.plan.diagnose.finding import Finding, Rule, number
from ckptlab.plan.diagnose.side import Shape, Side
from ckptlab.plan.diagnose.words import ROTATED

_CLEAR = 3
"""So many kinds of tensors must agree before a dialect is sure."""

_FEW = 8
"""Kinds of tensors of one shape beyond which their order says nothing."""


def dialects(case: Case) -> None:
    """Pair names that mean the same."""
    stored = meanings((name, key) for key, name in case.free.items())
    plain: _Found = ({}, [])
    rotated: _Found = ({}, [])
    for meant, ours in meanings((key, key) for key in case.open).items():
        theirs = stored.get(meant)
        if theirs is None:
            continue
        pairs = {
            key: theirs.members[index]
            for index, key in ours.members.items()
            if index in theirs.members and case.fits(key, theirs.members[index])
        }
        if pairs:
            found, rules = rotated if _rotated(theirs.words, ours.words) else plain
            found |= pairs
            rules.append(_rule(theirs.words, ours.words))
    for wanted, from_ in {**plain[0], **rotated[0]}.items():
        case.pair(wanted, from_)
    if plain[0]:
        case.found.append(_told(case, *plain))
    if rotated[0]:
        case.found.append(_turned(case, *rotated))


_Found = tuple[dict[str, str], list[Rule]]
"""Pairs, and the rules that make them."""


def _told(case: Case, pairs: Mapping[str, str], rules: Sequence[Rule]) -> Finding:
    wanted, stored = next(iter(pairs.items()))
    kinds = len(rules)
    return Finding(
        "dialect",
        tuple(pairs),
        f"the names are of another code: {stored} is {wanted} in the target",
        0.95 if kinds >= _CLEAR else 0.8,
        f"{number(kinds, 'kind')} of tensors mean the same word by word, and agree in shape",
        "Load with the names changed.",
        nbytes=case.nbytes(pairs),
        pairs=pairs,
        rules=tuple(rules),
    )


def _turned(case: Case, pairs: Mapping[str, str], rules: Sequence[Rule]) -> Finding:
    wanted, stored = next(iter(pairs.items()))
    return Finding(
        "dialect",
        tuple(pairs),
        f"{stored} is {wanted} by name, but such models order the rows of q and k differently",
        0.5,
        "Hugging Face's q_proj and k_proj have the rows of each head in another order than wq and wk, for "
        "their rotary embeddings; shapes cannot tell whether this writer kept it",
        "Take this remedy only if both sides order the rows alike; else convert with the model's own script.",
        cost="where the order differs, attention is wrong and no load fails",
        nbytes=case.nbytes(pairs),
        pairs=pairs,
        rules=tuple(rules),
    )


def _rotated(stored: Words, wanted: Words) -> bool:
    first, second = ROTATED
    one, other = set(stored), set(wanted)
    return bool((one & first and other & second) or (one & second and other & first))


def _rule(theirs: Words, ours: Words) -> Rule:
    r"""A pattern for a name with any numbers, and the other name with the same.

    >>> print(*_rule(("layers", "#", "wq"), ("h", "#", "q")))
    ^layers\.(\d+)\.wq$ h.\1.q
    """
    pattern = r"\.".join(r"(\d+)" if part == "#" else re.escape(part) for part in theirs)
    group, new = 0, []
    for part in ours:
        group += part == "#"
        new.append(rf"\{group}" if part == "#" else part)
    return f"^{pattern}$", ".".join(new)


def guesses(case: Case) -> None:
    """Pair what is left where shapes leave one choice; where they leave several, by order, as an offer."""
    stored = _by_shapes(case.stored, [(name, key) for key, name in case.free.items()])
    wanted = _by_shapes(case.wanted, [(key, key) for key in case.open])
    for signature, ours in wanted.items():
        theirs = stored.get(signature, [])
        if len(theirs) != len(ours) or len(ours) > _FEW:
            continue
        alone = len(ours) == 1
        pairs: dict[str, str] = {}
        rules: list[Rule] = []
        for one, other in zip(theirs, ours, strict=True):
            pairs |= {key: one.members[index] for index, key in other.members.items()}
            rules.append(_rule(one.words, other.words))
        for key, from_ in pairs.items():
            case.pair(key, from_)
        kept, given = next(iter(pairs.items()))
        case.found.append(
            Finding(
                "guess",
                tuple(pairs),
                f"by its shape {given} may be {kept} in the target",
                0.75 if alone and len(pairs) > 1 else 0.6 if alone else 0.3,
                f"of what is left on both sides {'only it has' if alone else f'{len(ours)} kinds have'} "
                f"this shape{'' if alone else '; they are paired in their order'}",
                "Look whether they are the same thing.",
                nbytes=case.nbytes(pairs),
                pairs=pairs,
                rules=tuple(rules),
            )
        )


_Signature = tuple[tuple[tuple[str, ...], Shape], ...]


def _by_shapes(side: Side, names: Sequence[tuple[str, str]]) -> dict[_Signature, list[Family]]:
    """Families of tensors by their numbers and shapes."""
    found: dict[_Signature, list[Family]] = defaultdict(list)
    for family in families((name, key) for name, key in names if key in side.tensors).values():
        signature = tuple(sorted((index, side.tensors[key].shape) for index, key in family.members.items()))
        found[signature].append(family)
    return found
