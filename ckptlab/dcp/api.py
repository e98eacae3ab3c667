"""`torch.distributed.checkpoint.api`: the exception, and every failure told as that one.

The exception is torch's own, so that one `except` catches what either raises. Torch's is a
`BaseException` that `except Exception` misses; what is raised here is a `CheckpointError` at once.
It knows nothing of what failed but what the error says.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException

from ckptlab.dcp.torchs import rest_of
from ckptlab.engine.ranks import Failure
from ckptlab.errors import CheckpointError, PathError, RankError
from ckptlab.plan.check import Mismatch

__all__ = ["CheckpointException", "CheckpointFailedError", "StorageError", "told_as_stock"]

Wrapped = tuple[BaseException, traceback.StackSummary]
__getattr__ = rest_of(__name__)


class CheckpointFailedError(CheckpointError, CheckpointException):
    """A save or a load failed: torch's exception, and a `CheckpointError` at once.

    `failures` maps each rank that failed to its error and where that was raised; `problems` are
    those of the ckptlab error behind it, which is the `__cause__`.
    """

    def __init__(
        self, msg: str, failures: dict[int, Wrapped], problems: Iterable[object] = (), told: bool = False
    ) -> None:
        super().__init__(msg, problems)
        # Pickled and made anew from these.
        self.args = (msg, failures, self.problems, told)
        self._failures = failures
        self._msg, self._told = msg, told

    def __str__(self) -> str:
        if not self._told:
            return CheckpointException.__str__(self)
        words = [
            f"[rank {rank}] {type(error).__name__}: {error}"
            for rank, (error, _) in self._failures.items()
            if str(error) not in self._msg
        ]
        return "\n".join([self._msg, *words])


class StorageError(CheckpointError, RuntimeError):
    """Nobody knows where to save or load: no path was given, or one that no storage understands."""


@contextmanager
def told_as_stock() -> Iterator[None]:
    """Whatever fails within is raised as a `CheckpointFailedError`, with the error itself as its cause."""
    try:
        yield
    except CheckpointFailedError:
        raise
    except (CheckpointException, Exception) as error:
        raise as_stock(error) from error


def as_stock(error: BaseException) -> CheckpointFailedError:
    """The `CheckpointFailedError` that tells of an error in our words and in torch's."""
    if isinstance(error, CheckpointFailedError):
        return error
    if isinstance(error, CheckpointException):
        return CheckpointFailedError(str(error.args[0]), dict(error.failures))
    problems = error.problems if isinstance(error, CheckpointError) else ()
    return CheckpointFailedError(str(error), _failures(error), problems, told=True)


def _failures(error: BaseException) -> dict[int, Wrapped]:
    no_trace = traceback.StackSummary()
    if isinstance(error, RankError):
        told = {p.rank: RuntimeError(p.error) for p in error.problems if isinstance(p, Failure)}
        if told:
            return {rank: (failure, no_trace) for rank, failure in told.items()}
    rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
    return {rank: (_in_torchs_words(error), traceback.extract_tb(error.__traceback__))}


def _in_torchs_words(error: BaseException) -> BaseException:
    """What torch's planner or writer raises for the same thing; the error itself if it has no such."""
    if isinstance(error, PathError) and "overwrite" in str(error):
        return RuntimeError("Checkpoint already exists and self.overwrite=False.")
    found = [p for p in getattr(error, "problems", ()) if isinstance(p, Mismatch)]
    words = "; ".join(_WORDS[m.kind].format(m=m) for m in found if m.kind in _WORDS)
    if not words:
        return error
    return RuntimeError(words) if found[0].kind == "missing" else ValueError(words)


_WORDS: Mapping[str, str] = {
    "missing": "Missing key in checkpoint state_dict: {m.fqn}.",
    "shape": "Size mismatch between saved torch.Size({m.stored}) and current: torch.Size({m.wanted})"
    " for {m.fqn}",
    "type": "Invalid checkpoint metadata for {m.fqn}, expected {m.wanted} but found {m.stored}",
}
