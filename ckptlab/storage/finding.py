"""What verifying a checkpoint can find, as records.

It knows no file and no format.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Severity = Literal["damage", "doubt", "note"]
"""Values are lost or wrong; they may be; nothing is wrong, but somebody may want to know."""

What = Literal[
    "unfinished", "metadata", "missing", "short", "crc", "wrapping", "mixed", "overlap", "hole", "bytes",
    "stale", "time",
]  # fmt: skip

_SHOWN = 3


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    `file` is the file's name and `keys` are the keys that it concerns, where it concerns any; `detail` says
    what is so, with the values at fault, `remedy` what to do.
    """

    severity: Severity
    what: What
    detail: str
    remedy: str
    file: str = ""
    keys: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.severity:6} {self.what}: {self.detail}\n{' ' * 7}{self.remedy}"


def count(n: int, noun: str) -> str:
    """`1 chunk`, `2 chunks`, `1,024 chunks`."""
    return f"{n:,} {noun}{'s' * (n != 1)}"


def named(keys: Sequence[str]) -> str:
    """The first of some keys in words: `'a', 'b', 'c' and 9 more`."""
    shown = ", ".join(map(repr, keys[:_SHOWN]))
    return shown + (f" and {len(keys) - _SHOWN:,} more" if len(keys) > _SHOWN else "")
