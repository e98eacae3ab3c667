"""Keys that differ in their numbers only, as one: a hundred thousand keys are a few dozen families.

It knows names alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ckptlab.plan.diagnose.words import concepts

Index = tuple[str, ...]
Words = tuple[str, ...]

_NUMBER = re.compile(r"(?<![^.])[0-9]+(?![^.])")


@dataclass(frozen=True, eq=False)
class Family:
    """Some keys: `words` are the parts of their names with a `#` for each number, `members` keys by these."""

    words: Words
    members: dict[Index, str]


def families(names: Iterable[tuple[str, str]]) -> dict[Words, Family]:
    """Keys by their families; of each key its name and the key itself.

    >>> found = families([("layers.0.w", "a"), ("layers.1.w", "b")])
    >>> found[("layers", "#", "w")].members
    {('0',): 'a', ('1',): 'b'}
    """
    members: dict[str, dict[Index, str]] = {}
    for name, key in names:
        members.setdefault(_NUMBER.sub("#", name), {}).setdefault(tuple(_NUMBER.findall(name)), key)
    return {(words := tuple(text.split("."))): Family(words, those) for text, those in members.items()}


def meanings(names: Iterable[tuple[str, str]]) -> dict[Words, Family]:
    """Families by what their names mean; those that mean the same are left out."""
    found: dict[Words, Family] = {}
    twice: set[Words] = set()
    for words, family in families(names).items():
        meant = concepts(words)
        if found.setdefault(meant, family) is not family:
            twice.add(meant)
    return {meant: family for meant, family in found.items() if meant not in twice}
