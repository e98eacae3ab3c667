"""Runs side by side: what each loaded onto what, how long it took, and how it came out.

Plain data: no torch, no drawing, no processes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ckptlab.errors import CancelledError, CheckpointError, LayoutError
from ckptlab.explorer.failure import Failed, failed
from ckptlab.explorer.scene import NEUTRAL, Fact, Panel, Tree, marks, words
from ckptlab.explorer.timeline import Lane, Timeline
from ckptlab.explorer.traffic import Ran, verdict
from ckptlab.layout import Mesh
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


def runs_panel(runs: Sequence[Run], chosen: int = -1) -> Panel:
    """A line a run, the latest first; `chosen` is the line that is shown."""
    n = len(runs)
    facts = (
        words("ranks", [f"{len(run.ran)} on {run.asked.place}" for run in runs]),
        Fact("read", "bytes", np.array([run.nbytes for run in runs], np.int64)),
        Fact("foretold", "bytes", np.array([run.asked.foretold.total for run in runs], np.int64)),
        words("peak memory", [human_bytes(run.peak) if run.peak >= 0 else "" for run in runs]),
        words("seconds", [f"{run.seconds:.2f}" for run in runs]),
        words("verdict", [run.verdict for run in runs]),
    )
    drawn = marks(
        [(0, i, 1, 1) for i in range(n)],
        [NEUTRAL] * n,
        [0] * n,
        [()] * n,
        [f"{run.asked.number}. {run.asked.target}" for run in runs],
        facts,
    )
    tree = Tree(np.zeros(n, np.int16), np.zeros(n, np.uint8), chosen)
    return Panel("runs", "rows", "", "", 1, max(1, n), drawn, tree=tree)


def resized(mesh: Mesh, world: int) -> str:
    """A mesh of the same axes for `world` ranks, as it is typed: the last axis grows or shrinks.

    Raises `LayoutError` if the other axes do not divide them.
    """
    *others, _ = mesh.shape
    rest = math.prod(others)
    if world < 1 or world % rest:
        axes = " x ".join(f"{axis}={n}" for axis, n in zip(mesh.axes, others, strict=False))
        raise LayoutError(f"{world} ranks are no multiple of {rest}, which {axes} takes", [world])
    shape = (*others, world // rest)
    return ", ".join(f"{axis}={n}" for axis, n in zip(mesh.axes, shape, strict=True))
