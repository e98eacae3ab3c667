"""Keys as few patterns, for a transform to leave them as they are or to drop them.

It knows names alone.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from fnmatch import translate

from ckptlab.plan.diagnose.side import Side

_TRIED = 200
"""Patterns that are tried on all keys; beyond that keys are named one by one."""


def leaving(side: Side, keys: Iterable[str]) -> tuple[str, ...]:
    """Patterns that mean these keys of a side, and no other of it.

    >>> from ckptlab.metadata import Tensor
    >>> side = Side({name: Tensor(name, "float32", ()) for name in ("a.0.w", "a.1.w", "a.1.b")})
    >>> leaving(side, ["a.0.w", "a.1.w"])
    ('a.*.w',)
    >>> leaving(side, ["a.0.w"])
    ('a.0.w',)
    """
    wished = dict.fromkeys(keys)
    if len(wished) < 2:
        return tuple(map(literal, wished))
    among, all_ = _beginnings(wished), _beginnings(side.keys)
    found: dict[str, None] = {}
    alike: dict[str, list[str]] = defaultdict(list)
    for key in wished:
        whole = next((p for p in _prefixes(key) if among[p] == all_[p] > 1), None)
        if whole is not None:
            found[literal(whole) + ".*"] = None
        else:
            alike[_numberless(key)].append(key)
    for pattern, those in alike.items():
        few = len(those) > 1 and len(alike) <= _TRIED and _only(pattern, side, wished)
        found |= dict.fromkeys([pattern] if few else map(literal, those))
    return tuple(found)


def _prefixes(key: str) -> list[str]:
    """What a key begins with, part by part, the shortest first."""
    parts = key.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts))]


def _beginnings(keys: Iterable[str]) -> Counter[str]:
    """How many keys begin with each prefix."""
    return Counter(prefix for key in keys for prefix in _prefixes(key))


def _numberless(key: str) -> str:
    return ".".join("*" if part.isdigit() else literal(part) for part in key.split("."))


def _only(pattern: str, side: Side, wished: Mapping[str, None]) -> bool:
    """Whether a pattern means none but these."""
    fits = re.compile(translate(pattern)).match
    return all(key in wished for key in side.keys if fits(key))


def literal(key: str) -> str:
    """A key as a pattern that means it alone.

    >>> literal("list[0]")
    'list[[]0]'
    """
    return "".join(f"[{c}]" if c in "*?[" else c for c in key)
