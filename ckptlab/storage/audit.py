"""What would run if somebody unpickled this checkpoint? Every pickle in it is judged, none is run.

Pickles are `.metadata`, the wrapping of every chunk and object, files that `torch.save` or `pickle`
wrote, and what is nested in these. It knows no torch, and nothing of what elements are.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from ckptlab.errors import CheckpointError, PathError
from ckptlab.events import Progress, Trace, silent
from ckptlab.storage.archive import Read
from ckptlab.storage.cover import Piece, pieces
from ckptlab.storage.dcp import METADATA_FILE, read_metadata
from ckptlab.storage.files import Files
from ckptlab.storage.finding import count
from ckptlab.storage.harmless import METADATA
from ckptlab.storage.judge import ZIP, Judge, Refused
from ckptlab.storage.sound import archives
from ckptlab.storage.where import files_at, is_url, parted

_DATA = ".distcp"
_PICKLED = (".pt", ".pth", ".ckpt", ".pkl", ".pickle")
"""Suffixes of files that are given to an unpickler, whatever they begin with."""

_BATCH = 64

Job = Callable[[], Iterator[Refused]]


@dataclass(frozen=True, repr=False)
class Audit:
    """What was refused, the worst first, and how much was looked at: `pickles` in `files` files."""

    path: str
    refused: tuple[Refused, ...]
    pickles: int = 0
    files: int = 0
    seconds: float = 0.0

    @property
    def clean(self) -> bool:
        """Whether every pickle asks for harmless names only."""
        return not self.refused

    def __repr__(self) -> str:
        dangers = sum(refused.severity == "danger" for refused in self.refused)
        verdict = "nothing in it asks for more than tensors and plain values"
        if self.refused:
            verdict = f"REFUSED: {count(len(self.refused), 'pickle')}"
            verdict += f", {dangers:,} of them to run something" if dangers else ""
        if not self.pickles and self.clean:
            verdict = "there is no pickle in it"
        seen = f"  looked at {count(self.pickles, 'pickle')} in {count(self.files, 'file')}, ran none"
        lines = [f"{self.path}: {verdict}", f"{seen}, in {self.seconds:.2f} s"]
        return "\n".join([*lines, *(f"  {refused}" for refused in self.refused)])


def audit(path: str | os.PathLike[str], *, progress: Progress = silent, threads: int = 2) -> Audit:
    """Judge every pickle in a file, or in a directory and all below it, by the names that it asks for.

    A pickle may ask for tensors and plain values, or it is refused: `danger` where it is known what its names
    can do, `unknown` where not. What cannot be followed to its end is refused, too. `progress` is told how
    many bytes were passed; no elements are read but of tensors of bytes that begin as a pickle does.
    `PathError` where nothing is.
    """
    began = time.perf_counter()
    work = _Work(Judge(), Trace(progress=progress))
    jobs = list(work.jobs(path))
    with work.trace.phase("verify", sum(nbytes for nbytes, _ in jobs)):
        refused = work.run(jobs, max(1, threads))
    work.trace.check()
    return Audit(
        os.fspath(path),
        tuple(_together(refused)),
        work.judge.pickles,
        work.files,
        time.perf_counter() - began,
    )


def _together(refused: Sequence[Refused]) -> Iterator[Refused]:
    """Those of one file that say the same as one; dangers first."""
    same: dict[tuple[str, str, str], list[Refused]] = {}
    for each in refused:
        same.setdefault((each.severity, each.file, each.detail), []).append(each)
    for _, group in sorted(same.items(), key=lambda item: item[0][0]):
        yield replace(group[0], places=tuple(place for each in group for place in each.places))


@dataclass
class _Work:
    """One audit: what there is to look at, as jobs of so many bytes each."""

    judge: Judge
    trace: Trace
    files: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def jobs(self, path: str | os.PathLike[str]) -> Iterator[tuple[int, Job]]:
        """Everything at a path."""
        files = files_at(path)
        parent, name = parted(files.root)
        around = files_at(parent)
        if files.entries() if is_url(files.root) else Path(files.root).is_dir():
            yield from self._folder(files, "")
        elif name in around.names():
            yield from self._file(around, name, "")
        else:
            raise PathError(f"{os.fspath(path)} does not exist, or is empty", [path])

    def run(self, jobs: Sequence[tuple[int, Job]], threads: int) -> list[Refused]:
        """What is refused, by so many threads."""

        def done(job: tuple[int, Job]) -> list[Refused]:
            self.trace.check()
            found = list(job[1]())
            with self._lock:
                self.trace.moved(job[0])
            return found

        pool = ThreadPoolExecutor(threads, "ckptlab-audit")
        try:
            return [refused for found in pool.map(done, jobs) for refused in found]
        finally:
            # Ctrl-C must not wait for what has not begun.
            pool.shutdown(cancel_futures=True)

    def _folder(self, files: Files, below: str) -> Iterator[tuple[int, Job]]:
        """All that is in a folder and below it; what links lead to is not."""
        entries = files.entries()
        known: Collection[str] = ()
        if METADATA_FILE in entries:
            known, jobs = self._checkpoint(files, below)
            yield from jobs
        for name, kind in entries.items():
            if kind == "folder":
                yield from self._folder(files.folder(name), f"{below}{name}/")
            elif kind == "file" and name not in known:
                yield from self._file(files, name, below)

    def _file(self, files: Files, name: str, below: str) -> Iterator[tuple[int, Job]]:
        self.files += 1
        size, shown = files.size(name), f"{below}{name}"

        def read(at: int, n: int) -> bytes:
            return files.read(name, at, n)

        def look() -> Iterator[Refused]:
            if name.endswith(_DATA):
                # Of a save that nobody knows the places of.
                for start, end in archives(read, size):
                    yield from self.judge.stream(_from(read, start), end - start, shown, f"at byte {start}")
            elif size and (_like_a_pickle(read(0, min(size, 4))) or name.endswith(_PICKLED)):
                strict = name.endswith(_PICKLED)
                yield from self.judge.stream(read, size, shown, "", strict)

        yield size, look

    def _checkpoint(self, files: Files, below: str) -> tuple[Collection[str], list[tuple[int, Job]]]:
        """A `.metadata` and the data files that it tells of: what lies in each place. And their names."""
        data, shown = files.read(METADATA_FILE, 0, files.size(METADATA_FILE)), f"{below}{METADATA_FILE}"
        try:
            metadata = read_metadata(data, shown)
        except CheckpointError as error:
            self.files += 1
            return (METADATA_FILE,), [(len(data), partial(self._unread, data, shown, error))]
        jobs: list[tuple[int, Job]] = [(len(data), partial(self.judge.metadata, data, shown))]
        listed, names = files.sizes(), metadata.files
        there = [p for p in pieces(metadata) if p.end <= listed.get(names[p.file], 0)]
        known = {METADATA_FILE, *(name for name in names if name in listed)}
        self.files += len(known)
        for i in range(0, len(there), _BATCH):
            batch = there[i : i + _BATCH]
            jobs.append((sum(p.length for p in batch), partial(self._pieces, files, names, batch, below)))
        return known, jobs

    def _unread(self, data: bytes, shown: str, error: CheckpointError) -> Iterator[Refused]:
        """A `.metadata` that cannot be read, so that nobody knows where pickles are."""
        found = [*self.judge.pickle(data, shown, "", METADATA, outside=False)]
        yield from found
        if not found:
            why = str(error).removeprefix(f"{shown}: ")
            detail = f"cannot be read, so not every pickle behind it was found: {why}"
            yield Refused("unknown", shown, detail, ("",))

    def _pieces(
        self, files: Files, names: Sequence[str], batch: Sequence[Piece], below: str
    ) -> Iterator[Refused]:
        for piece in batch:
            name = names[piece.file]
            read = _from(partial(files.read, name), piece.start)
            shown, place = f"{below}{name}", str(piece).partition(", bytes")[0]
            if piece.box is None:
                yield from self.judge.stream(read, piece.length, shown, place)
            else:
                shape = piece.box.shape
                yield from self.judge.tensor(read, piece.length, piece.dtype, shape, shown, place)


def _from(read: Read, start: int) -> Read:
    return lambda at, n: read(start + at, n)


def _like_a_pickle(head: bytes) -> bool:
    return head == ZIP or head[:1] == b"\x80"
