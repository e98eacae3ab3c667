"""A load transform: how a checkpoint's tensors become a target's, as a value to print, edit and save.

It says nothing of ranks, chunks or bytes, and whether it fits a checkpoint and a target is asked of
`plan.bind`. It opens no file but its own.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from ckptlab.errors import LayoutError
from ckptlab.plan.part import Part, Ranges, frozen, human_ranges

__all__ = ["POLICIES", "Part", "Policy", "Ranges", "Transform", "human_ranges"]

Policy = Literal["exact", "widen", "narrow"]
"""Which conversions of dtype a load may make: none, those that lose nothing, or any."""

POLICIES: tuple[Policy, ...] = get_args(Policy)
"""From the strictest to the one that allows most."""

_FORMAT = "ckptlab_transform"
_VERSION = 1


@dataclass(frozen=True)
class Transform:
    r"""What becomes of a checkpoint's keys and elements on their way into a target.

    For each key of the target, the first of these that applies:

    1. `parts` has the key: its parts fill it. They may not overlap. One part that is a name alone is a
       rename of one key; two targets with the same part are tied weights that were stored once.
    2. A pattern of `leave` means it: it stays as it is, on purpose.
    3. The key of the checkpoint that gets this name: `rename` holds pairs of a regular expression and its
       replacement, applied to each of the checkpoint's keys, each in turn (as `re.sub`).

    A target that its parts do not fill is refused, unless a pattern of `leave` means it, too: then the rest
    of it stays as it is. Keys of the checkpoint that a pattern of `drop` means go nowhere by name,
    and are not told of as unexpected; parts for a key that no rank's target has are. `dtype` is what the
    load may convert.

    Patterns are as file names have them (`head.*`): of the target's keys in `leave`, of the checkpoint's in
    `drop`. Raises `LayoutError` that lists every wrong entry.

    >>> mend = Transform(rename=((r"^module\.", ""),), leave=("head.*",))
    >>> print(mend | Transform(parts={"w": (Part("v", dims=(1, 0)),)}))
    Transform
      rename  '^module\\.' -> ''
      parts   w
                v, dims (1, 0)
      leave   head.*
    """

    rename: tuple[tuple[str, str], ...] = ()
    parts: Mapping[str, tuple[Part, ...]] = field(default_factory=dict)
    leave: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    dtype: Policy = "exact"

    def __post_init__(self) -> None:
        for name in ("rename", "leave", "drop"):
            object.__setattr__(self, name, frozen(getattr(self, name)))
        if isinstance(self.parts, Mapping):
            parts = {fqn: (it,) if isinstance(it, Part) else frozen(it) for fqn, it in self.parts.items()}
            object.__setattr__(self, "parts", parts)
        _refuse("this transform", self.problems())

    def problems(self) -> list[str]:
        """All that is wrong with it, whatever the checkpoint and the target: an entry a line."""
        found = _wrong_renames(self.rename) + _wrong_parts(self.parts)
        for name in ("leave", "drop"):
            patterns = getattr(self, name)
            if not isinstance(patterns, tuple):
                found.append(f"{name} is {patterns!r}, not a list of patterns")
                continue
            found += [f"{name}: {it!r} is no pattern" for it in patterns if not isinstance(it, str) or not it]
        if self.dtype not in POLICIES:
            found.append(f"dtype is {self.dtype!r}, not one of {', '.join(POLICIES)}")
        return found

    def __or__(self, other: Transform) -> Transform:
        """Both: the renames of `other` after those of this one, and whichever dtype policy allows more.

        Raises `LayoutError` if both have parts for a target, and they differ.
        """
        both = [fqn for fqn, parts in self.parts.items() if other.parts.get(fqn, parts) != parts]
        _refuse("two transforms", [f"both have parts for {fqn!r}, which differ" for fqn in both])
        return Transform(
            tuple(dict.fromkeys((*self.rename, *other.rename))),
            {**self.parts, **other.parts},
            tuple(dict.fromkeys((*self.leave, *other.leave))),
            tuple(dict.fromkeys((*self.drop, *other.drop))),
            max(self.dtype, other.dtype, key=POLICIES.index),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a file, as JSON that people can read and edit."""
        Path(path).write_text(self.to_json() + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Transform:
        """The transform that `save` wrote, or a person. `LayoutError` lists every entry that is wrong."""
        return cls.from_json(Path(path).read_text(encoding="utf-8"), os.fspath(path))

    def to_json(self) -> str:
        """What `save` writes: only what is not as it would be anyway."""
        parts = {fqn: [_plain_part(part) for part in parts] for fqn, parts in self.parts.items()}
        values = {"rename": self.rename, "parts": parts, "leave": self.leave, "drop": self.drop}
        given = {name: value for name, value in values.items() if value}
        if self.dtype != "exact":
            given["dtype"] = self.dtype
        return _spread({_FORMAT: _VERSION, **given})

    @classmethod
    def from_json(cls, text: str, where: str = "this text") -> Transform:
        """What `to_json` told; `where` names it in errors, which are `LayoutError`s."""
        try:
            found = json.loads(text)
        except json.JSONDecodeError as error:
            raise LayoutError(f"{where} is no JSON: {error}", [error]) from None
        if not isinstance(found, dict) or found.get(_FORMAT) != _VERSION:
            raise LayoutError(f'{where} is no transform: it lacks "{_FORMAT}": {_VERSION}', [found])
        values = {name: value for name, value in found.items() if name != _FORMAT}
        known = {it.name for it in fields(cls)}
        problems = [f"{name!r} is unknown; it may be {_some(known)}" for name in values if name not in known]
        parts = values.get("parts", {})
        if isinstance(parts, dict):
            values["parts"] = {fqn: _read_parts(fqn, it, problems) for fqn, it in parts.items()}
        draft = object.__new__(cls)
        for it in fields(cls):
            default = {} if it.name == "parts" else it.default
            object.__setattr__(draft, it.name, frozen(values.get(it.name, default)))
        _refuse(where, problems + draft.problems())
        return cls(**{name: value for name, value in values.items() if name in known})

    def __str__(self) -> str:
        lines = ["Transform"]
        lines += _lines("rename", [f"{old!r} -> {new!r}" for old, new in self.rename])
        lines += _lines(
            "parts", [s for fqn, it in self.parts.items() for s in (fqn, *(f"  {p}" for p in it))]
        )
        lines += _lines("leave", self.leave) + _lines("drop", self.drop)
        if self.dtype != "exact":
            lines += _lines("dtype", [self.dtype])
        return "\n".join(lines) if len(lines) > 1 else "Transform (nothing changes)"


def _lines(name: str, rows: Iterable[str]) -> list[str]:
    """Rows under one heading, which stands before the first."""
    return [f"  {'' if i else name:7} {row}" for i, row in enumerate(rows)]


def _wrong_renames(rename: object) -> list[str]:
    if not isinstance(rename, tuple):
        return [f"rename is {rename!r}, not a list of pairs of a pattern and its replacement"]
    found = []
    for pair in rename:
        if not (isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(it, str) for it in pair)):
            found.append(f"rename: {pair!r} is not a pair of a pattern and its replacement")
            continue
        try:
            re.sub(*pair, "")
            # A replacement is looked at only where its pattern is found.
            re.sub(f"{pair[0]}|", pair[1], "")
        except (re.error, IndexError) as error:
            found.append(f"rename: {pair[0]!r} -> {pair[1]!r}: {error}")
    return found


def _wrong_parts(parts: object) -> list[str]:
    if not isinstance(parts, Mapping):
        return [f"parts is {parts!r}, not parts by target key"]
    found = []
    for fqn, those in parts.items():
        if not isinstance(fqn, str) or not fqn:
            found.append(f"parts: {fqn!r} is no key of a target")
        if not isinstance(those, tuple) or not those:
            found.append(f"parts of {fqn!r}: {those!r} is not one part or more")
            continue
        for part in those:
            wrong = part.problems() if isinstance(part, Part) else [f"{part!r} is no part"]
            found += [f"parts of {fqn!r}: {it}" for it in wrong]
    return found


def _read_parts(fqn: str, value: object, problems: list[str]) -> tuple[Part, ...]:
    """Parts as a file has them; what is not known goes to `problems`."""
    rows = value if isinstance(value, list) else [value]
    known, found = {it.name for it in fields(Part)}, []
    for row in rows:
        if isinstance(row, str):
            found.append(Part(row))
        elif isinstance(row, dict):
            unknown = [name for name in row if name not in known]
            problems += [f"parts of {fqn!r}: {it!r} is unknown; it may be {_some(known)}" for it in unknown]
            found.append(Part(**{"fqn": "", **{name: it for name, it in row.items() if name in known}}))
        else:
            problems.append(f"parts of {fqn!r}: {row!r} is no part")
    return tuple(found)


def _plain_part(part: Part) -> object:
    """A part as a file has it: its name if that is all."""
    given = {it.name: getattr(part, it.name) for it in fields(part)}
    return part.fqn if part.whole else {name: value for name, value in given.items() if value is not None}


def _spread(value: Mapping[str, Any]) -> str:
    """JSON with one entry a line, however long it is: what people edit and compare line by line."""
    rows = []
    for name, it in value.items():
        if isinstance(it, Mapping):
            inner = [f"    {_text(key)}: {_inner(parts)}" for key, parts in it.items()]
            rows.append(f"  {_text(name)}: {{\n" + ",\n".join(inner) + "\n  }")
        elif isinstance(it, tuple):
            rows.append(f"  {_text(name)}: [\n" + ",\n".join(f"    {_text(row)}" for row in it) + "\n  ]")
        else:
            rows.append(f"  {_text(name)}: {_text(it)}")
    return "{\n" + ",\n".join(rows) + "\n}"


def _inner(parts: list[object]) -> str:
    if len(parts) == 1:
        return f"[{_text(parts[0])}]"
    return "[\n" + ",\n".join(f"      {_text(part)}" for part in parts) + "\n    ]"


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _some(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _refuse(where: str, problems: list[str]) -> None:
    """One `LayoutError` that lists all problems, if there are any."""
    if not problems:
        return
    count = f"{len(problems)} wrong entries" if len(problems) > 1 else "a wrong entry"
    lines = "\n".join(f"  {problem}" for problem in problems)
    raise LayoutError(f"{where}: {count}:\n{lines}", problems)
