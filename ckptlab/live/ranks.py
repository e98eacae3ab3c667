"""The interface of live ranks: what a driver asks of them, what an op is given on each.

Knows neither processes nor clusters nor torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, Self, TypeVar

R = TypeVar("R")
"""What an op returns."""

Progress = Callable[[int, object], None]
"""Called in the driver as `progress(rank, what)` for each thing that a rank tells."""


@dataclass(frozen=True, slots=True)
class Seat:
    """One rank's place: of the `world`, and of the `local_world` ranks that share its machine.

    `gpus` are those that they take in turn; 0 if each has one of its own.
    """

    rank: int
    world: int
    local_rank: int
    local_world: int
    device: Literal["cpu", "cuda"]
    backend: str
    gpus: int = 0

    @property
    def own_device(self) -> str:
        """This rank's device, as torch names it."""
        gpu = self.local_rank % self.gpus if self.gpus else self.local_rank
        return f"cuda:{gpu}" if self.device == "cuda" else "cpu"


@dataclass(frozen=True, slots=True)
class Context:
    """What an op sees of its rank; the default process group is up before the op is called.

    `device` is such as "cpu" or "cuda:0", `backend` the group's ("gloo", "nccl").
    `tell(what)` sends something picklable to the driver's `progress`; it does not wait.
    """

    rank: int
    world: int
    device: str
    backend: str
    tell: Callable[[object], None]


class Ranks(Protocol):
    """`world` ranks that run importable functions, one call on all of them at a time."""

    world: int
    device: str

    def run(
        self,
        op: Callable[..., R],
        *args: object,
        deadline: float | None = 60.0,
        progress: Progress | None = None,
    ) -> list[R]:
        """Call `op(context, *args)` on every rank; return one result a rank, in the order of ranks.

        `op`, its arguments and its results must be picklable by name, so `op` lives in a module.
        `deadline` is in seconds and counts from when the ranks are up; None waits for ever.
        Raises `RankError` naming the rank that failed, died or hung, `CancelledError` after
        `cancel()`, and any `CheckpointError` that the op itself raised, as it was. After a failure
        the next run finds fresh ranks.
        """
        ...

    def cancel(self) -> None:
        """End the run in progress, from any thread; without one, do nothing."""
        ...

    def close(self) -> None:
        """End the ranks."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...
