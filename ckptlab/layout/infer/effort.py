"""How much an inference may try before it says that it looked no further.

Counted, not timed: the same question has the same answer on every machine. It knows no mesh.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Heard = Callable[[int, int], object]
"""Is told how much was tried, and how much may be; what it raises ends the search."""

_EACH = 5000
"""What a way to place a tensor costs besides its ranks, in ranks."""

_TOLD = 1 << 22
"""What is tried between two words of it."""


class SpentError(Exception):
    """All was tried that may be. Never leaves `infer`."""


@dataclass
class Effort:
    """What was `spent` of `most`, about in ranks that were given a piece; `heard` is told now and then."""

    most: int
    heard: Heard | None = None
    spent: int = 0
    _told: int = 0

    def place(self, ranks: int) -> None:
        """Count one way to place a tensor on so many ranks; `SpentError` if that was the last."""
        self.spent += ranks + _EACH
        if self.heard is not None and self.spent - self._told >= _TOLD:
            self._told = self.spent
            self.heard(min(self.spent, self.most), self.most)
        if self.spent > self.most:
            raise SpentError
