"""A run that failed, put in order for a reader: rank, phase, tensor, file, the cause and what to do.

Made from the error alone and from what the checkpoint says of itself. Plain data: no torch,
no drawing, no processes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from ckptlab.errors import CheckpointError, LayoutError, LostError, MismatchError, RankError, UnsafeError
from ckptlab.explorer.timeline import Lane
from ckptlab.metadata import Metadata, human_bytes

_QUOTED = re.compile(r"'([^']+)'")
_PREFIX = re.compile(r"^(?:every rank|ranks? [\d, ]+) (?:failed|died)[^:]*: ")

_LISTED = 4
"""Lines of a list that stand on the card itself."""

_BY_WORDS: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("killed by SIGKILL",),
        "Press Run: new ranks are started. If nobody killed it, memory ran out: take a target that holds "
        "less a rank, or fewer ranks on this machine.",
    ),
    (
        ("killed by", "exit status", "answers no more"),
        "Press Run: new ranks are started. What the rank wrote before it died is in the server's log.",
    ),
    (
        ("answered within",),
        "See below where each rank stands: most wait in a collective for the one that does not come. "
        "Where storage is slow, give it more seconds.",
    ),
    (("is missing", "No such file"), "Copy the file here again, or load another checkpoint."),
    (
        ("ends at byte", "has only"),
        "It was cut off while it was written or copied: copy it here again, or load another checkpoint.",
    ),
    (
        ("damaged", "crc"),
        "Restore the file from a copy, or load another checkpoint; `ckptlab verify` lists all the damage.",
    ),
    (("the save did not finish",), "Load an older checkpoint; `ckptlab verify` says what is left of this."),
    (("out of memory",), "Take a target that holds less a rank, or run on the CPU."),
)
"""What to do, by words of the cause; the first that fits."""

_BY_TYPE: tuple[tuple[type[CheckpointError], str], ...] = (
    (MismatchError, "Give the target what the checkpoint has, as listed."),
    (UnsafeError, "Nothing of it was run. Ask where the file came from."),
    (LayoutError, "Change the target, or where its ranks run."),
)


@dataclass(frozen=True)
class Failed:
    """What is known of a failure, in words, "" for what is not; `more` is all else: stacks, tracebacks."""

    title: str
    rank: str
    phase: str
    tensor: str
    file: str
    cause: str
    remedy: str
    more: str = ""

    def facts(self) -> list[tuple[str, str]]:
        """What is known, each with its label."""
        rows = [
            ("rank", self.rank),
            ("phase", self.phase),
            ("tensor", self.tensor),
            ("file", self.file),
            ("cause", self.cause),
            ("what to do", self.remedy),
        ]
        return [(label, said) for label, said in rows if said]


def failed(error: CheckpointError, metadata: Metadata, lanes: Sequence[Lane] = ()) -> Failed:
    """Put an error in order; `lanes` is what ranks had told when it came."""
    first, _, rest = str(error).partition("\n")
    rank = error.rank if isinstance(error, RankError) else -1
    phase = error.phase if isinstance(error, RankError) and error.phase else _last_phase(lanes, rank)
    listed = rest if rest.startswith("  ") and not isinstance(error, RankError) else ""
    told = listed or _begun(first, rest)
    cause = "\n".join(filter(None, [_PREFIX.sub("", first), told]))
    return Failed(
        _title(error, rank),
        str(rank) if rank >= 0 else "" if isinstance(error, RankError) else "every rank",
        phase + _so_far(lanes, rank, phase),
        _tensor(str(error), metadata) or _keys(error, metadata) or _told_last(lanes, rank),
        _file(str(error), metadata),
        cause,
        _remedy(error, cause),
        "" if listed else "\n".join(filter(None, [rest, *_traces(error, rest)])),
    )


def _begun(first: str, rest: str) -> str:
    """The first lines of a list that is announced by a colon; a traceback is none."""
    if not first.endswith(":"):
        return ""
    lines = list(takewhile(lambda line: line.startswith("  "), rest.splitlines()))
    more = f"\n  and {len(lines) - _LISTED} more" if len(lines) > _LISTED else ""
    return "\n".join(lines[:_LISTED]) + more


def _title(error: CheckpointError, rank: int) -> str:
    if not isinstance(error, RankError):
        return "The load failed, on every rank alike"
    who = f"Rank {rank}" if rank >= 0 else "A rank"
    if "killed by" in str(error) or isinstance(error, LostError) or " died" in str(error):
        return f"{who} died; every other rank was stopped"
    if "answered within" in str(error):
        return f"{who} hangs; every rank was stopped" if rank >= 0 else "Ranks hang; every rank was stopped"
    return f"{who} failed; every other rank was stopped"


def _last_phase(lanes: Sequence[Lane], rank: int) -> str:
    """The phase in which this rank was last heard of, or any if all ranks failed."""
    last = [lane.spans[-1].phase for lane in lanes if lane.spans and rank in (-1, lane.rank)]
    return last[0] if last else ""


def _so_far(lanes: Sequence[Lane], rank: int, phase: str) -> str:
    for lane in lanes:
        span = lane.spans[-1] if lane.spans else None
        if lane.rank == rank and span and span.phase == phase and span.total:
            return f", {human_bytes(span.done)} of {human_bytes(span.total)} done"
    return ""


def _told_last(lanes: Sequence[Lane], rank: int) -> str:
    """The tensor of which a rank was heard that can say no more: it died at this one or not long after."""
    about = next((lane.about for lane in lanes if lane.rank == rank), "")
    return f"{about} was the last that it told of" if about else ""


def _tensor(text: str, metadata: Metadata) -> str:
    quoted: list[str] = _QUOTED.findall(text)
    return next((name for name in quoted if name in metadata.rows), "")


def _keys(error: CheckpointError, metadata: Metadata) -> str:
    """Keys among the problems of an error that names none in its words."""
    keys = [key for key in error.problems if isinstance(key, str) and key in metadata.rows]
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return ", ".join(keys[:3]) + more


def _file(text: str, metadata: Metadata) -> str:
    named = [name for name in (*metadata.files, ".metadata") if name in text]
    # A short name may be a part of a longer one.
    return max(named, key=len, default="")


def _traces(error: CheckpointError, said: str) -> list[str]:
    """Tracebacks and stacks among the problems, that are not said already."""
    found = [getattr(problem, "where", problem) for problem in error.problems]
    return [text for text in found if isinstance(text, str) and "\n" in text and text.strip() not in said]


def _remedy(error: CheckpointError, cause: str) -> str:
    for signs, remedy in _BY_WORDS:
        if any(sign in cause for sign in signs):
            return remedy
    return next((remedy for kind, remedy in _BY_TYPE if isinstance(error, kind)), "See below for its origin.")
