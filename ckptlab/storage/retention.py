"""Which checkpoints under a root stay and which go: the last k, and every n-th.

It removes whole directories of DCP checkpoints and touches nothing else. It knows no contents of
tensors and nobody who saves.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ckptlab.errors import CheckpointError, CorruptError, PathError
from ckptlab.metadata import human_bytes
from ckptlab.storage.dcp import METADATA_FILE, read_metadata
from ckptlab.storage.files import Files
from ckptlab.storage.opened import Checkpoint
from ckptlab.storage.sidecar import SIDECAR_PREFIX
from ckptlab.storage.where import files_at

_NUMBER = re.compile(r"\d+")
_DATA = ".distcp"
_OWN = (f"{METADATA_FILE}.", SIDECAR_PREFIX)


@dataclass(frozen=True, repr=False)
class PruneReport:
    """What `prune` did, or would do; names in the order of their steps.

    `last` are the whole checkpoints kept as the last ones, `every` those kept for their step alone,
    `removed` those that went, unfinished ones too; `unfinished` are those that are not whole and
    stayed, with the reason, and `left` what may be a checkpoint but is not for us to judge, with the
    reason. `freed` are the bytes of the files that were removed.
    """

    root: str
    last: tuple[str, ...]
    every: tuple[str, ...]
    removed: tuple[str, ...]
    unfinished: Mapping[str, str]
    left: Mapping[str, str]
    freed: int
    dry_run: bool

    @property
    def kept(self) -> tuple[str, ...]:
        """All checkpoints that stay and were looked for."""
        return (*self.every, *self.last)

    def __repr__(self) -> str:
        verb = "would remove" if self.dry_run else "removed"
        gone, stay = len(self.removed), len(self.kept)
        lines = [f"{self.root}: {verb} {gone} ({human_bytes(self.freed)}), {stay} kept"]
        for title, names in (("last", self.last), ("every", self.every), (verb, self.removed)):
            if names:
                lines.append(f"  {title}: {', '.join(names)}")
        lines += [f"  unfinished, still there: {name}, {why}" for name, why in self.unfinished.items()]
        lines += [f"  left alone: {name}, {why}" for name, why in self.left.items()]
        return "\n".join(lines)


def prune(
    root: str | os.PathLike[str],
    *,
    keep_last: int,
    keep_every: int | None = None,
    remove_unfinished: bool = False,
    dry_run: bool = False,
    **storage_options: Any,
) -> PruneReport:
    """Remove all DCP checkpoints under `root` but the last `keep_last` and every `keep_every`-th.

    A checkpoint's step is the last number in the name of its directory (`step-1000`, `epoch=3-step=50`);
    `keep_every=1000` keeps the steps that 1000 divides. Only whole checkpoints count: those with a
    readable `.metadata` and all the bytes that it speaks of. Others stay, unless `remove_unfinished`
    removes those older than the newest whole one; newer ones may still be being saved, so they always
    stay. A directory that holds a directory or a link stays, and so does a link.

    Call it in one process, not on every rank. Killed at any moment, it leaves at least the `keep_last`
    whole checkpoints, or as many as there were, and nothing that looks whole but is not. `root` may be a
    URL, for which fsspec takes `storage_options`. With `dry_run` nothing is removed. Raises `PathError`
    for a root that does not exist, is a checkpoint itself or cannot be read or written, and
    `CheckpointError` for numbers below 1.
    """
    _check_numbers(keep_last, keep_every)
    files = files_at(root, **storage_options)
    found, left = _steps(files)
    plan = _plan(files, found, keep_last, keep_every, remove_unfinished)
    freed = 0
    for name in plan.remove:
        below = files.folder(name)
        freed += sum(below.sizes().values())
        if not dry_run:
            _remove(below)
    return PruneReport(
        files.root,
        tuple(plan.last),
        tuple(plan.every),
        tuple(plan.remove),
        plan.unfinished,
        {**left, **plan.left},
        freed,
        dry_run,
    )


def _check_numbers(keep_last: int, keep_every: int | None) -> None:
    for name, value in (("keep_last", keep_last), ("keep_every", keep_every)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise CheckpointError(f"{name} is {value!r}; it must be a whole number, at least 1", [value])


def _steps(files: Files) -> tuple[list[tuple[int, str]], dict[str, str]]:
    """The folders that have a step in their name, by step, then by name; why others like them are left."""
    entries = files.entries()
    if not entries:
        raise PathError(f"{files.root} does not exist, or is empty", [files.root])
    if METADATA_FILE in entries:
        raise PathError(
            f"{files.root} is a checkpoint itself; name the directory in which checkpoints are", [files.root]
        )
    numbers = {name: _NUMBER.findall(name) for name in entries}
    found = [(int(n[-1]), name) for name, n in numbers.items() if n and entries[name] == "folder"]
    left = {name: "a link" for name, n in numbers.items() if n and entries[name] == "other"}
    return sorted(found), left


@dataclass
class _Plan:
    """What is to be done with each folder; lists in the order of the steps."""

    last: list[str] = field(default_factory=list)
    every: list[str] = field(default_factory=list)
    remove: list[str] = field(default_factory=list)
    unfinished: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)


def _plan(
    files: Files,
    found: Sequence[tuple[int, str]],
    keep_last: int,
    keep_every: int | None,
    remove_unfinished: bool,
) -> _Plan:
    plan = _Plan()
    for step, name in reversed(found):
        stays = keep_every is not None and step % keep_every == 0
        if stays and len(plan.last) == keep_last and not remove_unfinished:
            # Whether it is whole changes nothing, and finding out may be much to read.
            plan.every.insert(0, name)
            continue
        why, ours = _judge(files.folder(name))
        if why and not ours:
            plan.left[name] = why
        elif why and remove_unfinished and plan.last:
            plan.remove.insert(0, name)
        elif why:
            plan.unfinished[name] = why
        elif len(plan.last) < keep_last:
            plan.last.insert(0, name)
        else:
            (plan.every if stays else plan.remove).insert(0, name)
    return plan


def _judge(files: Files) -> tuple[str, bool]:
    """Why a folder is no whole checkpoint ("" if it is one), and whether it was meant to be one."""
    entries = files.entries()
    other = next((name for name, kind in entries.items() if kind != "file"), None)
    if other is not None:
        return f"it holds {other}, which is no plain file", False
    if METADATA_FILE not in entries:
        if any(name.endswith(_DATA) for name in entries) or all(name.startswith(_OWN) for name in entries):
            return f"{len(entries)} files but no {METADATA_FILE}" if entries else "empty", True
        return "no DCP checkpoint", False
    where = f"{files.root}/{METADATA_FILE}"
    try:
        metadata = read_metadata(files.read(METADATA_FILE, 0, files.size(METADATA_FILE)), where)
        problems = Checkpoint(files.root, "dcp", metadata, files).check_files()
    except CorruptError as error:
        return str(error), True
    except PathError:
        raise
    except CheckpointError as error:
        # It may well be whole for the one who wrote it.
        return str(error), False
    return "; ".join(map(str, problems)), True


def _remove(files: Files) -> None:
    """Remove a checkpoint: first what makes it whole, last what shows that there was one."""
    names = sorted(files.names(), key=lambda name: (name != METADATA_FILE, name.endswith(_DATA), name))
    try:
        for name in names:
            files.remove(name)
        files.unmake()
    except OSError as error:
        raise PathError(f"{files.root}: cannot be removed: {error}", [files.root]) from error
