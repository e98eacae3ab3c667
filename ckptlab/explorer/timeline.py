"""A live run as it goes: what each rank told, put in order for the bars and the timeline.

Fed with events from another thread than the one that draws. Plain data: no torch, no
drawing, no processes.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ckptlab.events import Event, Phase
from ckptlab.explorer.scene import FILLED, HATCHED, NEUTRAL, Key, Mark, Note, Panel, collect
from ckptlab.explorer.ticks import ticks
from ckptlab.explorer.traffic import Ran
from ckptlab.metadata import human_bytes

WIDE, ROW, THICK = 8.0, 1.0, 0.56

_STYLES: dict[Phase, int] = {"read": FILLED, "copy": FILLED, "verify": HATCHED}
"""How a phase is drawn, in its rank's colour; any other is neutral."""

_NAMES: dict[Phase, str] = {
    "start": "make the target",
    "read": "read into the target",
    "commit": "hand over",
    "verify": "compare bit for bit",
}
"""What happens in a phase, where its name does not say it."""

KEYS = (
    Key("filled: read", 0, FILLED),
    Key("hatched: compare", 0, HATCHED),
    Key("grey: all else", NEUTRAL, FILLED),
)
"""The legend of the timeline."""


@dataclass(frozen=True)
class Span:
    """A phase of one rank, from `start` to `stop` in seconds since the run began; `done` bytes of `total`."""

    phase: Phase
    start: float
    stop: float
    done: int
    total: int


@dataclass(frozen=True)
class Lane:
    """What one rank did so far, phase by phase.

    `peak` is the most memory in bytes that its load took above the target's own (-1: not known, or not
    yet), `device_peak` the same of its GPU; `about` is the key that it told of last.
    """

    rank: int
    spans: tuple[Span, ...] = ()
    peak: int = -1
    device_peak: int = 0
    over: bool = False
    about: str = ""


@dataclass
class Timeline:
    """What `world` ranks told so far. `hear` may be called from any thread."""

    world: int
    _ran: dict[int, Ran] = field(default_factory=dict)
    _lanes: dict[int, Lane] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._ran = {rank: Ran(rank, "start", 0, 0.0) for rank in range(self.world)}
        self._lanes = {rank: Lane(rank) for rank in range(self.world)}

    def hear(self, event: Event) -> None:
        """Take in one event."""
        with self._lock:
            now = self._ran[event.rank]
            nbytes = event.done if event.phase == "read" else now.nbytes
            self._ran[event.rank] = replace(now, phase=event.phase, nbytes=nbytes, seconds=event.seconds)
            lane = self._lanes[event.rank]
            self._lanes[event.rank] = replace(
                lane, spans=_grown(lane.spans, event), about=event.about or lane.about
            )

    def end(
        self, rank: int, nbytes: int, seconds: float, equal: bool, peak: int = -1, device_peak: int = 0
    ) -> None:
        """Take in a rank's own account at its end."""
        with self._lock:
            self._ran[rank] = Ran(rank, "done", nbytes, seconds, equal)
            self._lanes[rank] = replace(self._lanes[rank], peak=peak, device_peak=device_peak, over=True)

    def said(self, total: int) -> str:
        """All ranks in a line: how many are in each phase, and the bytes read of `total`."""
        ran = self.ran
        phases = Counter(r.phase for r in ran)
        where = ", ".join(f"{n} in {phase}" for phase, n in phases.items())
        return f"{where}; read {human_bytes(sum(r.nbytes for r in ran))} of {human_bytes(total)}"

    @property
    def seconds(self) -> float:
        """How long the run took until it was last heard of."""
        return max((lane.spans[-1].stop for lane in self.lanes if lane.spans), default=0.0)

    @property
    def ran(self) -> tuple[Ran, ...]:
        """Every rank as it stands."""
        with self._lock:
            return tuple(self._ran[rank] for rank in range(self.world))

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """What every rank did, phase by phase."""
        with self._lock:
            return tuple(self._lanes[rank] for rank in range(self.world))


def _grown(spans: tuple[Span, ...], event: Event) -> tuple[Span, ...]:
    """The spans with what an event adds: it goes on with the last phase, or begins another."""
    if spans and spans[-1].phase == event.phase:
        *before, last = spans
        return (*before, replace(last, stop=event.seconds, done=event.done, total=event.total))
    if spans and spans[-1].phase == "start":
        # Nobody tells its end: it is where the next phase begins.
        *before, last = spans
        spans = (*before, replace(last, stop=event.seconds))
    if event.phase == "done":
        return spans
    return (*spans, Span(event.phase, event.seconds, event.seconds, event.done, event.total))


def timeline_panel(lanes: Sequence[Lane], name: str = "timeline") -> Panel:
    """A row a rank: its phases one after the other, true to scale; between them it waits for others."""
    end = max((span.stop for lane in lanes for span in lane.spans), default=0.0) or 1.0
    drawn, notes = [], []
    for row, lane in enumerate(lanes):
        top = row * ROW
        for span in lane.spans:
            x, wide = WIDE * span.start / end, WIDE * (span.stop - span.start) / end
            drawn.append(
                Mark(
                    (x, top, wide, THICK),
                    (lane.rank,),
                    lane.rank if span.phase in _STYLES else NEUTRAL,
                    _STYLES.get(span.phase, FILLED),
                    "target" if span.phase == "start" else span.phase,
                    _facts(lane, span),
                )
            )
        notes.append(Note(-0.1, top + THICK / 2, f"rank {lane.rank}", "end"))
        notes.append(Note(WIDE + 0.1, top + THICK / 2, _memory(lane), "start"))
    high = len(lanes) * ROW
    notes += [Note(WIDE * tick / end, high + 0.1, f"{tick:g} s") for tick in ticks(0.0, end)]
    return Panel(name, "bars", "When", _caption(lanes), WIDE, high, collect(drawn), tuple(notes))


def _facts(lane: Lane, span: Span) -> dict[str, str]:
    facts = {
        "rank": str(lane.rank),
        "phase": _NAMES.get(span.phase, span.phase),
        "took": _seconds(span.stop - span.start),
        "from": _seconds(span.start),
        "to": _seconds(span.stop),
    }
    if span.total:
        facts["bytes"] = f"{human_bytes(span.done)} of {human_bytes(span.total)}"
    return facts


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _memory(lane: Lane) -> str:
    """The peak of memory, once it is known."""
    if not lane.over:
        return lane.spans[-1].phase if lane.spans else "waits"
    host = f"+{human_bytes(lane.peak)}" if lane.peak >= 0 else "memory not known"
    return f"{host}, GPU +{human_bytes(lane.device_peak)}" if lane.device_peak else host


def _caption(lanes: Sequence[Lane]) -> str:
    told = "Phases of each rank, true to scale; where nothing is drawn it waits for the others."
    if any(lane.over for lane in lanes):
        told += " At the right: the most memory that the load took, above the target's own."
    return told
