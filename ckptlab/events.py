"""What happens in a run, as it happens: phases, bytes, seconds.

An `Event` is a plain record that can cross a process boundary. A `Trace` is what
one rank keeps while it works. This module knows nothing else of ckptlab.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

Phase = Literal["start", "metadata", "plan", "read", "copy", "write", "commit", "verify", "done"]


@dataclass(frozen=True, slots=True)
class Event:
    """One step of one rank: `done` of `total` bytes of a phase, `seconds` after the run began.

    `about` is the key of the tensor that was moved last, "" if none was.
    """

    rank: int
    phase: Phase
    done: int
    total: int
    seconds: float
    about: str = ""


Progress = Callable[[Event], None]


def silent(event: Event) -> None:
    """A `Progress` that tells nobody."""


@dataclass
class Trace:
    """The running account of one rank; tells `progress` at most every `every` seconds within a phase.

    What `progress` raises is kept as `trouble`, to be raised by `check` where all ranks can agree on it:
    raised at once, it would leave the others waiting for this one.
    """

    rank: int = 0
    progress: Progress = silent
    every: float = 0.05
    seconds: dict[Phase, float] = field(default_factory=dict)
    trouble: Exception | None = None
    _began: float = field(default_factory=time.perf_counter)
    _told: float = 0.0
    _now: Phase = "start"
    _troubled: Phase = "start"
    _done: int = 0
    _total: int = 0

    @property
    def now(self) -> Phase:
        """The phase that the rank is in."""
        return self._now

    @contextmanager
    def phase(self, name: Phase, total: int = 0) -> Iterator[None]:
        """Time a phase that will move `total` bytes, and tell its begin and its end."""
        self._now, self._done, self._total = name, 0, total
        self._tell()
        began = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
        self._done = max(self._done, total)
        self._tell()

    def moved(self, nbytes: int, about: Callable[[], str] = str) -> None:
        """Account for `nbytes` more of the current phase; `about` is asked for their key if that is told."""
        self._done += nbytes
        if time.perf_counter() - self._told >= self.every:
            self._tell(about())

    def check(self) -> None:
        """Raise what `progress` raised, if it did; the phase is then the one in which that was."""
        if self.trouble is not None:
            self._now = self._troubled
            raise self.trouble

    def _tell(self, about: str = "") -> None:
        self._told = time.perf_counter()
        event = Event(self.rank, self._now, self._done, self._total, self._told - self._began, about)
        try:
            self.progress(event)
        except Exception as error:
            if self.trouble is None:
                self.trouble, self._troubled = error, self._now
