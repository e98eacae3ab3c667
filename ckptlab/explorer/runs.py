"""Runs side by side: what each loaded onto what, how long it took, and how it came out.

Plain data: no torch, no drawing, no processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ckptlab.errors import CancelledError, CheckpointError
from ckptlab.explorer.failure import Failed, failed
from ckptlab.explorer.table import Column, Line
from ckptlab.explorer.timeline import Lane, Timeline
from ckptlab.explorer.traffic import Ran, verdict
from ckptlab.metadata import Metadata, human_bytes
from ckptlab.plan.forecast import Forecast


@dataclass(frozen=True, eq=False)
class Asked:
    """A run as it was asked for: the target as typed, where its ranks are, and what was foretold."""

    number: int
    target: str
    place: str
    foretold: Forecast


@dataclass(frozen=True, eq=False)
class Run:
    """One run as it ended: `verdict` in a word or two, `said` in full, or why it failed.

    `seconds` are from when its ranks were up to when the last was heard of.
    """

    asked: Asked
    seconds: float
    verdict: str
    said: str
    good: bool
    ran: tuple[Ran, ...]
    lanes: tuple[Lane, ...]
    failure: Failed | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of elements that all its ranks read."""
        return sum(ran.nbytes for ran in self.ran)

    @property
    def peak(self) -> int:
        """The most memory that a rank took above its target's own; -1 if nobody knows."""
        return max((lane.peak for lane in self.lanes), default=-1)


def came_out(asked: Asked, told: Timeline, elements: int, wrong: Sequence[str]) -> Run:
    """A run whose ranks all ended well; `elements` were compared, and the tensors `wrong` differ."""
    read = sum(ran.nbytes for ran in told.ran)
    good = not wrong and read == asked.foretold.total
    short = "equal" if good else "NOT EQUAL" if wrong else "equal, not as foretold"
    said = f"{verdict(asked.foretold, read, elements, wrong)} {told.seconds:.2f} s with the comparison."
    return Run(asked, told.seconds, short, said, good, told.ran, told.lanes)


def broke_off(asked: Asked, told: Timeline, error: CheckpointError, metadata: Metadata) -> Run:
    """A run that an error ended, or a person."""
    if isinstance(error, CancelledError):
        said = "Cancelled; the ranks have been ended."
        return Run(asked, told.seconds, "cancelled", said, False, told.ran, told.lanes)
    failure = failed(error, metadata, told.lanes)
    short = failure.title.partition(";")[0].partition(",")[0].lower()
    return Run(asked, told.seconds, short, failure.title, False, told.ran, told.lanes, failure)


@dataclass(frozen=True, eq=False)
class Runs:
    """A table of runs, the latest first; line `chosen` is the run that is shown."""

    runs: Sequence[Run]
    chosen: int = -1

    columns = (
        Column("run", wide=2.0, least=130),
        Column("verdict", wide=1.2, least=80),
        Column("seconds", number=True, least=60),
        Column("read", number=True, least=70),
        Column("ranks", wide=1.2, least=110),
        Column("memory", number=True, least=70),
        Column("foretold", number=True, least=70),
    )

    @property
    def caption(self) -> str:
        """What is below the table."""
        return "Memory: the most that a rank took above its target's own." if self.runs else ""

    def __len__(self) -> int:
        return len(self.runs)

    def lines(self, first: int, count: int) -> list[Line]:
        """At most `count` lines from `first` on."""
        shown = range(first, min(first + count, len(self.runs)))
        return [Line(_cells(self.runs[i]), chosen=i == self.chosen, hint=self.runs[i].said) for i in shown]

    def records(self) -> Iterator[Sequence[object]]:
        """All of it for programs; bytes and seconds as numbers."""
        yield ("run", "target", "place", "ranks", "seconds", "read", "foretold", "memory", "verdict")
        for run in self.runs:
            asked, memory = run.asked, run.peak if run.peak >= 0 else ""
            place = (asked.number, asked.target, asked.place, len(run.ran))
            yield (*place, run.seconds, run.nbytes, asked.foretold.total, memory, run.verdict)


def _cells(run: Run) -> tuple[str, ...]:
    return (
        f"{run.asked.number}. {run.asked.target}",
        run.verdict,
        f"{run.seconds:.2f}",
        human_bytes(run.nbytes),
        f"{len(run.ran)} on {run.asked.place}",
        human_bytes(run.peak) if run.peak >= 0 else "",
        human_bytes(run.asked.foretold.total),
    )
