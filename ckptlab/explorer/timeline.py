"""A live run as it goes: what each rank told, put in order for the bars and the timeline.

Fed with events from another thread than the one that draws. Plain data: no torch, no
drawing, no processes.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field, replace

from ckptlab.events import Event
from ckptlab.explorer.traffic import Ran
from ckptlab.metadata import human_bytes


@dataclass
class Timeline:
    """What `world` ranks told so far. `hear` may be called from any thread."""

    world: int
    _ran: dict[int, Ran] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._ran = {rank: Ran(rank, "start", 0, 0.0) for rank in range(self.world)}

    def hear(self, event: Event) -> None:
        """Take in one event."""
        with self._lock:
            now = self._ran[event.rank]
            nbytes = event.done if event.phase == "read" else now.nbytes
            self._ran[event.rank] = replace(now, phase=event.phase, nbytes=nbytes, seconds=event.seconds)

    def end(self, rank: int, nbytes: int, seconds: float, equal: bool) -> None:
        """Take in a rank's own account at its end."""
        with self._lock:
            self._ran[rank] = Ran(rank, "done", nbytes, seconds, equal)

    def said(self, total: int) -> str:
        """All ranks in a line: how many are in each phase, and the bytes read of `total`."""
        ran = self.ran
        phases = Counter(r.phase for r in ran)
        where = ", ".join(f"{n} in {phase}" for phase, n in phases.items())
        return f"{where}; read {human_bytes(sum(r.nbytes for r in ran))} of {human_bytes(total)}"

    @property
    def ran(self) -> tuple[Ran, ...]:
        """Every rank as it stands."""
        with self._lock:
            return tuple(self._ran[rank] for rank in range(self.world))
