"""Which keys a load is about, and what they are called there.

It looks at names alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from ckptlab.errors import LayoutError, MismatchError
from ckptlab.metadata import Keys, Metadata, meant, near

V = TypeVar("V")

LEFT_OUT = "\0"
"""How the name of a stored tensor begins that the target shall not have."""

Rename = Mapping[str, str] | Sequence[tuple[str, str]] | Callable[[str], str | None]
"""The target's key for a checkpoint's: by name, by regular expressions, or by a function (None drops it)."""


def selected(keys: Iterable[str], which: Keys | None) -> list[str]:
    """Those of `keys` that are meant; all if `which` is None.

    Raises `MismatchError` for a key or a pattern that means none.

    >>> selected(["model.w", "model.b", "optim.lr"], "model.*")
    ['model.w', 'model.b']
    """
    every = list(keys)
    if which is None:
        return every
    found, wrong = meant(every, which)
    if wrong:
        raise MismatchError(
            f"the target has no key {wrong[0]!r}{near(wrong[0], every)}; nothing was loaded", wrong
        )
    return found


def new_names(metadata: Metadata, rename: Rename) -> dict[str, str | None]:
    """What the target calls each key of the checkpoint; None for those that it shall not have.

    A mapping gives names one by one; pairs of a regular expression and its replacement are applied
    each in turn (as `re.sub`); a function is asked for each key. Raises `LayoutError` if two keys get
    one name, or if a mapping names a key that is not there.
    """
    every = [*metadata.rows, *metadata.objects]
    known = set(every)
    if isinstance(rename, Mapping) and (unknown := [key for key in rename if key not in known]):
        raise LayoutError(
            f"rename: the checkpoint has no key {unknown[0]!r}{near(unknown[0], every)}", unknown
        )
    names = {key: _name(key, rename) for key in every}
    owner: dict[str, str] = {}
    for key, name in names.items():
        if name is not None and owner.setdefault(name, key) != key:
            raise LayoutError(
                f"rename gives {owner[name]!r} and {key!r} the same name {name!r}", [owner[name], key]
            )
    return names


def renamed(metadata: Metadata, names: Mapping[str, str | None]) -> Metadata:
    """The same under other names; a key whose name is None gets one that begins with `LEFT_OUT`.

    >>> from ckptlab.layout import Layout
    >>> from ckptlab.metadata import Tensor
    >>> from ckptlab.plan.metadata_of import metadata_of
    >>> saved = metadata_of([Tensor("model.w", "float32", (4,))], Layout.parse("2", "Shard(0)"))
    >>> list(renamed(saved, new_names(saved, [(r"^model\\.", "")])).rows)
    ['w']
    """
    # The chunks of a tensor keep their rows, so the tensor stays too.
    others = [names[fqn] or LEFT_OUT + fqn for fqn in metadata.tensors.names]
    return replace(
        metadata,
        tensors=metadata.tensors.under(others),
        objects=under(names, metadata.objects),
        paths={},
        layouts=under(names, metadata.layouts),
    )


def under(names: Mapping[str, str | None], values: Mapping[str, V]) -> dict[str, V]:
    """Values by their new names; those without one are left out."""
    return {name: value for key, value in values.items() if (name := names[key]) is not None}


def _name(key: str, rename: Rename) -> str | None:
    if isinstance(rename, Mapping):
        return rename.get(key, key)
    if callable(rename):
        return rename(key)
    for pattern, replacement in rename:
        key = re.sub(pattern, replacement, key)
    return key
