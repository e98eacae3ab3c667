"""One thing that keeps a checkpoint from loading as it should: its cause, how sure that is, what mends it.

Plain values. How they are found, the other modules of this package know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ckptlab.plan.transform import Transform

Kind = Literal[
    "nothing", "wrapper", "prefix", "separator", "name", "dialect", "guess",
    "transposed", "square", "flat", "reshaped", "scalar", "padded", "size",
    "fused", "split", "stacked", "unstacked", "tied",
    "widened", "narrowed", "number", "scaled",
    "index", "optimizer", "lazy", "frozen", "param_groups", "initial_lr",
    "missing", "unexpected", "layers", "anew", "object", "list", "extra_state",
]  # fmt: skip
"""What a finding is of, in one word."""

SURE = 0.9
"""From here on a remedy that costs nothing is taken unasked."""

Rule = tuple[str, str]
"""A regular expression and its replacement, as `Transform.rename` has them."""


@dataclass(frozen=True, eq=False)
class Finding:
    """One cause, and all keys that it concerns.

    `keys` are the target's, or the checkpoint's if `side` says so. `sure` is from 0 to 1, and `why` says
    what speaks for it. `remedy` is what a load would be given (None: there is no transform that mends it),
    `cost` what that would lose or leave out ("": nothing), and `advice` what to do, in words. `nbytes` are
    those of the keys' tensors. `pairs` has the checkpoint's key for each of the target's that has got
    another name, `rules` what gives most of them that name; `order` is when it was found.
    """

    kind: Kind
    keys: tuple[str, ...]
    cause: str
    sure: float
    why: str
    advice: str = ""
    cost: str = ""
    remedy: Transform | None = None
    side: Literal["target", "checkpoint"] = "target"
    nbytes: int = 0
    pairs: Mapping[str, str] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    order: int = 0

    @property
    def applied(self) -> bool:
        """Whether its remedy is taken unasked: it is sure, and costs nothing."""
        return self.remedy is not None and self.sure >= SURE and not self.cost

    def __repr__(self) -> str:
        return f"Finding({self.kind}, {shortened(self.keys)}: {self.cause})"


def shortened(keys: Sequence[str], most: int = 2) -> str:
    """Some keys, and how many more there are.

    >>> shortened(["a", "b", "c", "d"])
    'a, b and 2 more'
    """
    shown = ", ".join(keys[:most])
    return f"{shown} and {len(keys) - most:,} more" if len(keys) > most else shown


def number(n: int, noun: str) -> str:
    """`1 key`, `300 keys`.

    >>> number(300, "key")
    '300 keys'
    """
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def staying(n: int, noun: str, where: str) -> str:
    """`1 key stays there`, `300 keys stay there`.

    >>> staying(1, "key", "there")
    '1 key stays there'
    """
    return f"{number(n, noun)} {'stays' if n == 1 else 'stay'} {where}"
