"""The account of one run: who has answered, when it is over, and who is to blame.

Both engines feed it; it knows neither processes nor clusters, and reads no clock but the time since
a failure was heard.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

from ckptlab.errors import CheckpointError, RankError
from ckptlab.events import Event
from ckptlab.live.ranks import Progress
from ckptlab.live.wire import Done, Failure, Message, Told

GRACE = 0.3
"""Seconds that a failure waits for the others: a neighbour's complaint often outruns the cause."""

_ECHO = re.compile(
    r"connection.{0,20}(reset|closed|refused)|broken pipe|got 0 bytes|timed? ?out|"
    r"ncclRemoteError|ncclSystemError|remote process exited",
    re.IGNORECASE,
)


class Roll:
    """What each of `world` ranks has answered so far."""

    def __init__(self, world: int, progress: Progress | None = None) -> None:
        self.world = world
        self._progress = progress
        self._values: dict[int, object] = {}
        self._failures: dict[int, Failure] = {}
        self._phases: dict[int, str] = {}
        self._first_failure = float("inf")

    def hear(self, rank: int, message: Message) -> None:
        """Enter a message, and pass a told thing on."""
        match message:
            case Told(what):
                if isinstance(what, Event):
                    self._phases[rank] = what.phase
                if self._progress is not None:
                    self._progress(rank, what)
            case Done(value):
                self._values[rank] = value
            case Failure():
                self._failures.setdefault(rank, message)
                self._first_failure = min(self._first_failure, time.monotonic())

    @property
    def silent(self) -> list[int]:
        """The ranks that have not answered."""
        return [r for r in range(self.world) if r not in self._values and r not in self._failures]

    @property
    def over(self) -> bool:
        """Whether nothing that is still to come could change the outcome."""
        return not self.silent or any(f.died for f in self._failures.values()) or self.patience <= 0

    @property
    def patience(self) -> float:
        """Seconds that the run waits on after its first failure; endless without one."""
        return self._first_failure + GRACE - time.monotonic()

    @property
    def in_step(self) -> bool:
        """Whether all ranks agreed on the outcome, so that their process group is fit for another run."""
        if self.silent:
            return False
        errors = [f.error for f in self._failures.values()]
        return not errors or (
            len(errors) == self.world and None not in errors and len({(type(e), str(e)) for e in errors}) == 1
        )

    def results(self) -> list[object]:
        """One value a rank, in order; raises the verdict if a rank failed."""
        if self._failures:
            raise self._verdict()
        return [self._values[rank] for rank in range(self.world)]

    def _verdict(self) -> CheckpointError:
        rank, culprit = min(self._failures.items(), key=lambda item: _guilt(item[1]))
        if culprit.error is not None:
            return culprit.error
        phase = self._phases.get(rank, "")
        same = [r for r, failure in self._failures.items() if failure.what == culprit.what]
        place = f" in phase {phase!r}" if phase else ""
        verb = "died" if culprit.died else "failed"
        traces = [culprit.trace, *(failure.trace for failure in self._failures.values())]
        return RankError(
            f"{name_ranks(same, self.world)} {verb}{place}: {culprit.what}",
            rank,
            phase,
            dict.fromkeys(trace for trace in traces if trace),
        )

    def overdue(self, deadline: float, stacks: dict[int, str]) -> RankError:
        """The error of a run past its deadline (seconds), from the stacks of the ranks still in it.

        Ranks at the same place are told together, the fewest first: most of them wait in a
        collective for the one that does not come.
        """
        places: dict[str, list[int]] = {}
        for rank, stack in sorted(stacks.items()):
            places.setdefault(stack, []).append(rank)
        groups = sorted(places.items(), key=lambda group: (_waits_for_others(group[0]), len(group[1])))
        told = "\n".join(f"{name_ranks(ranks, self.world)} at:\n{stack}" for stack, ranks in groups)
        busy = [rank for rank, stack in stacks.items() if not _waits_for_others(stack)]
        guilty = busy[0] if len(busy) == 1 else -1
        silent = self.silent
        who = "no rank" if len(silent) == self.world > 1 else f"all but {name_ranks(silent, self.world)}"
        blame = f"; rank {guilty} is the one not waiting for others" if guilty >= 0 < len(stacks) - 1 else ""
        return RankError(
            f"{who} answered within {deadline:g} s{blame}. Most recent call first:\n{told}",
            guilty,
            self._phases.get(guilty, ""),
            [stacks[rank] for rank in sorted(stacks)],
        )


def _guilt(failure: Failure) -> int:
    """0 a death, 1 a process that aborted itself, 2 an error of its own, 3 the echo of a neighbour's end."""
    if failure.died:
        return int("SIGABRT" in failure.what)
    return 3 if _ECHO.search(failure.what) else 2


def _waits_for_others(stack: str) -> bool:
    """Whether the innermost frame of a stack is inside torch.distributed."""
    first = stack.lstrip().partition("\n")[0].replace("\\", "/")
    return "torch/distributed/" in first


def name_ranks(ranks: Sequence[int], world: int) -> str:
    """`rank 2`, `ranks 0, 1, 3`, `every rank`."""
    if len(ranks) == world > 1:
        return "every rank"
    return f"rank{'s' * (len(ranks) != 1)} {', '.join(map(str, sorted(ranks)))}"
