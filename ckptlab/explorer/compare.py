"""Two checkpoints compared, whatever formats and shardings they have: every key, every element.

Read as a stream, a tile a side at a time. It changes nothing and runs nothing. No torch, no rank and
no drawing.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from ckptlab.errors import CheckpointError
from ckptlab.events import Progress, Trace, silent
from ckptlab.explorer.compare_objects import compare_objects
from ckptlab.explorer.compare_result import Change, Comparison, Held, Side
from ckptlab.explorer.compare_tiles import Tolerance, measure
from ckptlab.metadata import Keys, meant, near
from ckptlab.storage import Checkpoint, open_checkpoint

Rename = Mapping[str, str] | Callable[[str], str]
"""What a key of a is called in b: names by name, a key that is not there keeps its own; or a function."""

Cut = frozenset[tuple[int, ...]]
"""Boxes, each as its offset and its shape."""

_SHOWN = 5


def compare(
    a: str | os.PathLike[str] | Checkpoint,
    b: str | os.PathLike[str] | Checkpoint,
    *,
    keys: Keys | None = None,
    rename: Rename | None = None,
    values: bool = True,
    rtol: float | None = None,
    atol: float | None = None,
    threads: int = 2,
    progress: Progress = silent,
) -> Comparison:
    """Compare two checkpoints: keys, shapes, dtypes, every element, objects, boxes; True if they are equal.

    Each byte is read once on each side, by `threads` threads with 4 MiB a side each, and every chunk is
    checked against its stored crc on the way. `keys` narrows it (names as they are in a, or in b if only b
    has them), `rename` says what keys of a are called in b, `values=False` reads no elements.

    Elements are equal if their bits are: NaN is equal to a NaN of the same bits, and 0.0 is not -0.0. Given
    `rtol` or `atol`, those count as equal for which `|b - a| <= atol + rtol * |a|`, and two NaN. Where dtypes
    differ, numbers are compared in a common wider dtype, and the key is different all the same, but if a
    tolerance was given that its values keep.

    What `progress` raises ends it, and is raised here. `PathError` where there is no checkpoint,
    `CheckpointError` for keys that neither has. What cannot be read is told, not raised.
    """
    began = time.perf_counter()
    opened = (_opened(a), _opened(b))
    tolerance = None if rtol is None and atol is None else Tolerance(rtol or 0.0, atol or 0.0)
    work = _Work(*opened, tolerance, values, Trace(progress=progress))
    changes = list(work.paired(keys, rename))
    total = sum(work.cost(change) for change in changes)
    with work.trace.phase("read", total):
        found = work.run(changes, max(1, threads))
    work.trace.check()
    one, other = map(_side, opened)
    return Comparison(one, other, tuple(found), tolerance, total, time.perf_counter() - began)


def _opened(which: str | os.PathLike[str] | Checkpoint) -> Checkpoint:
    return which if isinstance(which, Checkpoint) else open_checkpoint(which)


def _side(checkpoint: Checkpoint) -> Side:
    metadata = checkpoint.metadata
    held = np.zeros(len(metadata.files), np.int64)
    np.add.at(held, metadata.chunks.file, metadata.chunks.length)
    for extent in metadata.objects.values():
        held[extent.file] += extent.length
    files = {name: n for name, n in zip(metadata.files, held.tolist(), strict=True) if n}
    return Side(
        checkpoint.path,
        checkpoint.format,
        len(metadata.tensors),
        len(metadata.objects),
        len(metadata.chunks),
        metadata.nbytes,
        files,
    )


@dataclass
class _Work:
    """One comparison: keys are paired by what the metadata says, then each pair is looked at."""

    a: Checkpoint
    b: Checkpoint
    tolerance: Tolerance | None
    values: bool
    trace: Trace
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _cuts: dict[tuple[bytes, ...], Cut] = field(default_factory=dict)

    def paired(self, keys: Keys | None, rename: Rename | None) -> Iterator[Change]:
        """Every key with what is known of it before any element is read."""
        named = _renamed(self.a, rename)
        left = [key for key in self.b if key not in set(named.values())]
        if keys is not None:
            named, left = _narrowed(named, left, keys, (self.a.path, self.b.path))
        for key, other in named.items():
            yield self._pair(self._held(self.a, key), self._held(self.b, other) if other in self.b else None)
        for key in left:
            yield Change("only b", None, self._held(self.b, key))

    def _pair(self, a: Held, b: Held | None) -> Change:
        if b is None:
            return Change("only a", a, None)
        objects = (a.dtype == "object", b.dtype == "object")
        if any(objects):
            return Change("unread" if all(objects) else "kind", a, b)
        if a.shape != b.shape:
            return Change("shape", a, b, why=_turned(a.shape, b.shape))
        mine, theirs = self._cut(self.a, a.key), self._cut(self.b, b.key)
        kept = len(mine) if mine is theirs else len(mine & theirs)
        return Change("dtype" if a.dtype != b.dtype else "unread", a, b, kept=kept)

    def _held(self, side: Checkpoint, key: str) -> Held:
        metadata = side.metadata
        if key in metadata.objects:
            return Held(key, "object", nbytes=metadata.objects[key].length)
        tensor = metadata.tensor(key)
        return Held(key, tensor.dtype, tensor.shape, len(self._cut(side, key)), tensor.nbytes)

    def _cut(self, side: Checkpoint, key: str) -> Cut:
        """The different boxes with elements that a tensor is cut into."""
        boxes = side.metadata.boxes(side.metadata.rows[key])
        # Tensors that are cut alike, of which there are many, are looked at once.
        known = (boxes.offsets.tobytes(), boxes.shapes.tobytes())
        if known not in self._cuts:
            there = boxes.take(boxes.numel > 0)
            self._cuts[known] = frozenset(map(tuple, np.hstack([there.offsets, there.shapes]).tolist()))
        return self._cuts[known]

    def cost(self, change: Change) -> int:
        """Bytes of elements that will be read for it."""
        if not self.values or change.a is None or change.b is None or change.state not in ("unread", "dtype"):
            return 0
        return change.a.nbytes + change.b.nbytes if change.a.dtype != "object" else 0

    def run(self, changes: list[Change], threads: int) -> list[Change]:
        """Each pair looked at, in the order in which they came."""
        if not self.values:
            return changes
        self._expect(changes)
        pool = ThreadPoolExecutor(threads, "ckptlab-compare")
        try:
            return list(pool.map(self._looked_at, changes))
        finally:
            # Who stops it must not wait for what has not begun.
            pool.shutdown(cancel_futures=True)

    def _looked_at(self, change: Change) -> Change:
        self.trace.check()
        if change.a is None or change.b is None or change.state not in ("unread", "dtype"):
            return change
        names = (change.a.key, change.b.key)
        if change.a.dtype == "object":
            state, why = compare_objects(self.a, self.b, names)
            return replace(change, state=state, why=why)
        try:
            seen = measure(self.a, self.b, names, self.tolerance, self._moved)
        except CheckpointError as error:
            self.trace.check()
            return replace(change, state="unknown", why=str(error).splitlines()[0])
        change = replace(change, measured=seen)
        if not seen.beyond and (seen.different or change.state == "dtype"):
            return replace(change, state="close") if self.tolerance else change
        if change.state == "dtype":
            return change
        return replace(change, state="values" if seen.different else "equal")

    def _moved(self, nbytes: int) -> None:
        with self._lock:
            self.trace.moved(nbytes)
            self.trace.check()

    def _expect(self, changes: list[Change]) -> None:
        """Say which extents of far files will be read, so that small neighbours come together."""
        for checkpoint, held in ((self.a, [c.a for c in changes]), (self.b, [c.b for c in changes])):
            if checkpoint.files.mapped:
                continue
            metadata = checkpoint.metadata
            wanted = np.zeros(len(metadata.chunks), bool)
            for each in held:
                if each is not None and each.dtype != "object":
                    wanted[metadata.chunk_rows(metadata.rows[each.key])] = True
            for file, name in enumerate(metadata.files):
                rows = np.flatnonzero(wanted & (metadata.chunks.file == file))
                checkpoint.files.expect(name, metadata.chunks.start[rows], metadata.chunks.length[rows])


def _turned(a: tuple[int, ...], b: tuple[int, ...]) -> str:
    return "one may be the transpose of the other" if a == b[::-1] else ""


def _renamed(a: Checkpoint, rename: Rename | None) -> dict[str, str]:
    """What each key of a is called in b; `CheckpointError` if two are called the same."""
    if rename is None:
        return {key: key for key in a}
    name = rename if callable(rename) else partial(_by_name, rename)
    named = {key: name(key) for key in a}
    back: dict[str, str] = {}
    for key, other in named.items():
        if back.setdefault(other, key) != key:
            raise CheckpointError(f"both {back[other]!r} and {key!r} are renamed to {other!r}", [key])
    return named


def _by_name(names: Mapping[str, str], key: str) -> str:
    return names.get(key, key)


def _narrowed(
    named: dict[str, str], left: list[str], keys: Keys, paths: tuple[str, str]
) -> tuple[dict[str, str], list[str]]:
    """Those that are meant; `CheckpointError` for what neither checkpoint has."""
    every = list(dict.fromkeys([*named, *left]))
    chosen, missing = meant(every, keys)
    if missing:
        words = [f"{key!r}{near(key, every)}" for key in missing[:_SHOWN]]
        raise CheckpointError(f"neither {paths[0]} nor {paths[1]} has {'; nor '.join(words)}", missing)
    found = set(chosen)
    return {key: there for key, there in named.items() if key in found}, [k for k in left if k in found]
