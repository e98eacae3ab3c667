"""How ckptlab can fail, as types that a caller can catch.

Every error a user can cause derives from `CheckpointError`, which is an
`Exception`. The message carries the values at fault and what to do;
`.problems` carries the same as data. This module knows nothing else of ckptlab.
"""

from __future__ import annotations

from collections.abc import Iterable


class CheckpointError(Exception):
    """Something about a checkpoint, a target or a run is not as it must be.

    `problems` holds one record for each thing that is wrong (it may be empty).
    """

    def __init__(self, message: str, problems: Iterable[object] = ()) -> None:
        super().__init__(message)
        self.problems: tuple[object, ...] = tuple(problems)


class PathError(CheckpointError):
    """The path holds no checkpoint, or one that must not be written over."""


class CorruptError(CheckpointError):
    """A file of the checkpoint is missing, cut short or damaged."""


class UnsafeError(CheckpointError):
    """A pickle asks for a name outside the allow-list; nothing of it was run."""


class LayoutError(CheckpointError, ValueError):
    """A mesh, a placement or a shape does not make sense, alone or together."""


class SliceError(CheckpointError, IndexError):
    """A stored tensor has no such elements, or cannot be indexed in this way."""


class MismatchError(CheckpointError):
    """Checkpoint and target do not fit; `problems` names every mismatch."""


class RankError(CheckpointError):
    """A rank failed; every rank raises this same error, naming it."""

    def __init__(
        self, message: str, rank: int = -1, phase: str = "", problems: Iterable[object] = ()
    ) -> None:
        super().__init__(message, problems)
        self.rank = rank
        self.phase = phase


class LostError(RankError):
    """A rank died, or answers no more: `rank`, the first of those that are gone."""


class CancelledError(CheckpointError):
    """The user stopped the run."""
