"""Is a checkpoint whole? Everything that is damaged, doubtful or left over, found at once.

Reads every byte of it, changes nothing and runs nothing. It knows no torch, no rank of this
process and no plan.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from textwrap import indent

from ckptlab.errors import CheckpointError, CorruptError, PathError, UnsafeError
from ckptlab.events import Progress, Trace, silent
from ckptlab.metadata import human_bytes
from ckptlab.storage.checkpoint import Checkpoint, open_checkpoint
from ckptlab.storage.cover import pieces
from ckptlab.storage.dcp import METADATA_FILE, read_metadata
from ckptlab.storage.examine import Examination
from ckptlab.storage.finding import Finding, Severity, count
from ckptlab.storage.sidecar import sidecars
from ckptlab.storage.where import files_at


@dataclass(frozen=True, repr=False)
class Verified:
    """What was found, the worst first, and what was looked at.

    `nbytes` bytes of `chunks` chunks and `objects` objects were read; for `unchecked` of these nothing is
    stored that their bytes could be compared with.
    """

    path: str
    format: str
    findings: tuple[Finding, ...]
    files: int = 0
    chunks: int = 0
    objects: int = 0
    nbytes: int = 0
    unchecked: int = 0
    seconds: float = 0.0

    @property
    def whole(self) -> bool:
        """Nothing is damaged, though something may be doubtful."""
        return not self.of("damage")

    def of(self, severity: Severity) -> tuple[Finding, ...]:
        """The findings of this severity."""
        return tuple(finding for finding in self.findings if finding.severity == severity)

    @property
    def damaged_keys(self) -> tuple[str, ...]:
        """Every key that some damage concerns."""
        return tuple(dict.fromkeys(key for finding in self.of("damage") for key in finding.keys))

    def __repr__(self) -> str:
        path = f"{self.path} ({self.format})" if self.format else self.path
        keys = f", {count(len(self.damaged_keys), 'key')} concerned" if self.damaged_keys else ""
        damage = f"DAMAGED: {count(len(self.of('damage')), 'finding')}{keys}"
        lines = [f"{path} is {'whole' if self.whole else damage}"]
        if self.files:
            seen = [count(self.files, "file"), count(self.chunks, "chunk"), count(self.objects, "object")]
            lines.append(f"  read {', '.join(seen)}, {human_bytes(self.nbytes)}, in {self.seconds:.2f} s")
        if self.unchecked:
            lines.append(
                f"  no crc is stored for {self.unchecked:,} of them: they are there, no more is known"
            )
        told = (indent(str(finding), "  ") for finding in self.findings)
        return "\n".join([*lines, *told])


def verify(
    checkpoint: Checkpoint | str | os.PathLike[str], *, progress: Progress = silent, threads: int = 2
) -> Verified:
    """Look at all of a checkpoint, by `threads` threads: files, places, shapes, dtypes and every stored crc.

    Damage is reported, not raised; only a path at which there is no checkpoint is a `PathError`.
    `progress` is told the bytes that were read.
    """
    began = time.perf_counter()
    opened = checkpoint if isinstance(checkpoint, Checkpoint) else _opened(checkpoint)
    if isinstance(opened, Finding):
        assert not isinstance(checkpoint, Checkpoint)
        return Verified(os.fspath(checkpoint), "", (opened,), seconds=time.perf_counter() - began)
    found = pieces(opened.metadata)
    total = sum(piece.length for piece in found)
    trace = Trace(0, progress)
    with trace.phase("verify", total):
        looked = Examination(opened, found, trace)
        findings = list(looked.findings(max(1, threads)))
    order = {"damage": 0, "doubt": 1, "note": 2}
    return Verified(
        opened.path,
        opened.format,
        tuple(sorted(findings, key=lambda finding: order[finding.severity])),
        len({piece.file for piece in found}),
        sum(piece.box is not None for piece in found),
        len(opened.metadata.objects),
        total,
        looked.unchecked,
        time.perf_counter() - began,
    )


def _opened(path: str | os.PathLike[str]) -> Checkpoint | Finding:
    """The checkpoint at a path; or why it cannot be opened, if it is one that is damaged."""
    try:
        return open_checkpoint(path)
    except CorruptError as error:
        return Finding("damage", "metadata", str(error), "Restore it from a copy.")
    except UnsafeError as error:
        return Finding("damage", "metadata", str(error), "Give it to no unpickler; ask where it came from.")
    except PathError as error:
        if remedy := _unfinished(path):
            return Finding("damage", "unfinished", str(error), remedy, METADATA_FILE)
        raise


def _unfinished(path: str | os.PathLike[str]) -> str:
    """What to do about a directory with data files and no `.metadata`; "" if it is no such directory."""
    files = files_at(path)
    names = files.names()
    if METADATA_FILE in names or not (sidecars(names) or any(name.endswith(".distcp") for name in names)):
        return ""
    beside = f"{METADATA_FILE}.tmp"
    if beside in names:
        try:
            read_metadata(files.read(beside, 0, files.size(beside)), beside)
        except CheckpointError:
            return f"{beside} is damaged; load an older checkpoint."
        return f"{beside} is whole: rename it to {METADATA_FILE}, then verify again."
    return "Load an older checkpoint; without its metadata nobody knows what these files hold."
