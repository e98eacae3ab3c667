"""A diagnosis while it is made: which keys of both sides have found each other, and which have not.

It pairs names and keeps count; what a pair means, the modules that look for causes know.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ckptlab.plan.diagnose.finding import Finding
from ckptlab.plan.diagnose.side import Side


@dataclass(eq=False)
class Case:
    """Both sides, and what was found so far.

    `pairs` has the checkpoint's key for the target's. `open` are keys of the target that have found none,
    `free` those of the checkpoint that none has found, each with its name as far as rules have changed it.
    """

    stored: Side
    wanted: Side
    pairs: dict[str, str] = field(default_factory=dict)
    open: dict[str, None] = field(default_factory=dict)
    free: dict[str, str] = field(default_factory=dict)
    found: list[Finding] = field(default_factory=list)

    @classmethod
    def of(cls, stored: Side, wanted: Side) -> Case:
        """The two, with the keys paired that are called alike."""
        same = {key: key for key in wanted.keys if key in stored}
        open_ = dict.fromkeys(key for key in wanted.keys if key not in same)
        return cls(stored, wanted, same, open_, {key: key for key in stored.keys if key not in same})

    def pair(self, wanted: str, stored: str) -> None:
        """These two are one."""
        self.pairs[wanted] = stored
        self.open.pop(wanted, None)
        self.free.pop(stored, None)

    def settle(self, wanted: Iterable[str] = (), stored: Iterable[str] = ()) -> None:
        """A finding tells of these keys already."""
        for key in wanted:
            self.open.pop(key, None)
        for key in stored:
            self.free.pop(key, None)

    def fits(self, wanted: str, stored: str) -> bool:
        """Whether two are tensors of one shape, or both objects."""
        return self.wanted.shape(wanted) == self.stored.shape(stored)

    def nbytes(self, wanted: Iterable[str]) -> int:
        """Bytes of some tensors of the target."""
        return self.wanted.nbytes(wanted)
