"""Verifying at work: every file, every place and every byte of an opened checkpoint, looked at once.

What it makes of them are findings; it changes nothing and runs nothing. It knows no torch, no
rank of this process and no plan.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np

from ckptlab.errors import CheckpointError, CorruptError
from ckptlab.events import Trace
from ckptlab.storage.archive import Read
from ckptlab.storage.cover import Piece, check_boxes, check_bytes, differing, gaps, many
from ckptlab.storage.crc import crc32
from ckptlab.storage.dcp import METADATA_FILE, read_metadata
from ckptlab.storage.files import Files
from ckptlab.storage.finding import Finding, What, count, named
from ckptlab.storage.leftovers import check_names, check_parts, check_times
from ckptlab.storage.local import LocalFiles
from ckptlab.storage.opened import Checkpoint
from ckptlab.storage.sidecar import read_sidecar, sidecar_file
from ckptlab.storage.sound import Crc, Verdict, archives, check_archive, check_tensor

_BLOCK, _MOST = 4 << 20, 64
_MISPLACED = ("wrapping", "other", "alien")
_RESTORE = "Restore the file from a copy; all other keys can be loaded."


@dataclass
class Examination:
    """All that is looked at of the pieces `found`, in the order of files; `unchecked` have no stored crc."""

    checkpoint: Checkpoint
    found: Sequence[Piece]
    trace: Trace
    unchecked: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def files(self) -> Files:
        """Where the bytes are."""
        return self.checkpoint.files

    @property
    def names(self) -> Sequence[str]:
        """The data files."""
        return self.checkpoint.metadata.files

    def findings(self, threads: int) -> Iterator[Finding]:
        """All that is wrong or worth telling, by so many threads."""
        metadata = self.checkpoint.metadata
        listed = self.files.sizes()
        sizes = [listed[name] if name in listed else self._size(name) for name in self.names]
        yield from check_boxes(metadata)
        if self.checkpoint.format == "dcp":
            yield from check_bytes(self.found, self.names)
        yield from self._absent(sizes)
        there = [p for p in self.found if p.end <= (sizes[p.file] or 0) or not p.length]
        match self.checkpoint.format:
            case "dcp":
                wrong = list(self._chunks(there, sizes, threads))
                yield from wrong
                yield from self._between(sizes, {finding.file for finding in wrong})
                yield from self._record()
                yield from check_names(self.files.names(), self.names, metadata.save_id)
                yield from check_times(self._times())
            case "torch":
                yield from self._records(sizes)
            case "safetensors":
                self.unchecked = len(there)
                if self.checkpoint.path.rstrip("/") == self.files.root.rstrip("/"):
                    yield from check_parts(listed, self.names)

    def _size(self, name: str) -> int | None:
        try:
            return self.files.size(name)
        except CorruptError:
            return None

    def _absent(self, sizes: Sequence[int | None]) -> Iterator[Finding]:
        """Files that are not there, or not long enough."""
        behind = (p for p in self.found if p.length and p.end > (sizes[p.file] or 0))
        for file, group in groupby(behind, key=lambda piece: piece.file):
            size, lost = sizes[file], list(group)
            keys = tuple(dict.fromkeys(piece.key for piece in lost))
            held = f"{many(lost)} of {named(keys)}"
            if size is None:
                detail, remedy = f"{self.names[file]} is not there; it holds {held}", "Copy it here again."
                yield Finding("damage", "missing", detail, remedy, self.names[file], keys)
            else:
                detail = f"{self.names[file]} ends at byte {size}, and should at {max(p.end for p in lost)}: "
                remedy = "It was cut off while it was written or copied; copy it here again."
                yield Finding("damage", "short", f"{detail}{held} lost", remedy, self.names[file], keys)

    # ------------------------------------------------------------ DCP: one archive a chunk

    def _chunks(self, there: Sequence[Piece], sizes: Sequence[int | None], threads: int) -> Iterator[Finding]:
        for file, group in groupby(there, key=lambda piece: piece.file):
            places = np.array([(piece.start, piece.length) for piece in group], np.int64)
            self.files.expect(self.names[file], places[:, 0], places[:, 1])
        pool = ThreadPoolExecutor(threads, "ckptlab-verify")
        try:
            told = [both for batch in pool.map(self._verdicts, _batches(there)) for both in batch]
        finally:
            # Ctrl-C must not wait for what has not begun.
            pool.shutdown(cancel_futures=True)
        self.unchecked = sum(verdict.state == "unchecked" for _, verdict in told)
        for file, both in groupby(told, key=lambda both: both[0].file):
            mine = list(both)
            wrong = [(p, v) for p, v in mine if v.state in _MISPLACED]
            if wrong:
                good = [p for p, v in mine if v.state not in _MISPLACED]
                yield from self._misplaced(file, sizes[file] or 0, good, wrong)
            yield from (self._piece("crc", p, v) for p, v in mine if v.state == "crc")

    def _verdicts(self, batch: Sequence[Piece]) -> list[tuple[Piece, Verdict]]:
        told = [(piece, self._verdict(piece)) for piece in batch]
        with self._lock:
            self.trace.moved(sum(piece.length for piece in batch))
        return told

    def _verdict(self, piece: Piece) -> Verdict:
        name = self.names[piece.file]
        try:
            if piece.length <= _BLOCK:
                data = self.files.read(name, piece.start, piece.length)
                return _check(
                    piece, lambda at, n: data[at : at + n], lambda at, n: crc32(memoryview(data)[at : at + n])
                )
            return _check(
                piece,
                lambda at, n: self.files.read(name, piece.start + at, n),
                lambda at, n: self._crc_of(piece.file, piece.start + at, n),
            )
        except CorruptError as error:
            return Verdict("wrapping", str(error))

    def _crc_of(self, file: int, start: int, length: int) -> int:
        crc, block = 0, bytearray(min(length, _BLOCK))
        for at in range(start, start + length, _BLOCK):
            part = memoryview(block)[: min(_BLOCK, start + length - at)]
            self.files.read_into(self.names[file], at, part)
            crc = crc32(part, crc)
        return crc

    def _piece(self, what: What, piece: Piece, verdict: Verdict) -> Finding:
        name = self.names[piece.file]
        remedy = _flipped_back(verdict, piece.start, name) or _RESTORE
        return Finding("damage", what, f"{name}: {piece}: {verdict.why}", remedy, name, (piece.key,))

    def _misplaced(
        self, file: int, size: int, good: Sequence[Piece], wrong: Sequence[tuple[Piece, Verdict]]
    ) -> Iterator[Finding]:
        """What is wrong with the wrapping of chunks, which may all be because the file is another save's."""
        name, keys = self.names[file], tuple(dict.fromkeys(piece.key for piece, _ in wrong))
        known = {(piece.start, piece.end) for piece, _ in wrong}
        strange = [
            place
            for place in archives(lambda at, n: self.files.read(name, at, n), size)
            if place not in known and not _inside(place, good)
        ]
        if not strange and not any(verdict.state == "other" for _, verdict in wrong):
            for piece, verdict in wrong:
                if piece.box is None and verdict.state == "alien":
                    detail = f"{name}: {piece}: no torch.save archive, so there is nothing to check it by"
                    remedy = "Whoever saved it as bytes of its own may know what it is."
                    yield Finding("doubt", "wrapping", detail, remedy, name, (piece.key,))
                else:
                    yield self._piece("wrapping", piece, verdict)
            return
        (first, verdict), n = wrong[0], len(strange)
        seen = f"; {count(n, 'other')} there, the first at byte {strange[0][0]}" if strange else ""
        detail = (
            f"{name} does not hold what {METADATA_FILE} says: {many([p for p, _ in wrong])} of {named(keys)} "
            f"not in place{seen} ({first}: {verdict.why})"
        )
        remedy = (
            "Another save wrote over this file, as stock DCP does in place, and did not finish; load an "
            "older checkpoint, or from this one only keys that lie in other files."
        )
        yield Finding("damage", "mixed", detail, remedy, name, keys)

    def _between(self, sizes: Sequence[int | None], damaged: Collection[str]) -> Iterator[Finding]:
        """Bytes of sound files that belong to nothing, unless they are but padding."""
        for file, start, end in gaps(self.found, sizes):
            name, n = self.names[file], end - start
            if name in damaged or (n <= _BLOCK and self.files.read(name, start, n) == bytes(n)):
                continue
            detail = f"{name}: bytes {start} to {end} belong to no chunk and no object"
            yield Finding("note", "bytes", detail, "No load looks there.", name)

    def _record(self) -> Iterator[Finding]:
        """Whether `.metadata` itself is sound, and the file beside it, and whether both say the same."""
        beside = sidecar_file(self.checkpoint.metadata.save_id)
        try:
            data = self.files.read(METADATA_FILE, 0, self.files.size(METADATA_FILE))
            recorded = read_metadata(data, METADATA_FILE)
        except CheckpointError as error:
            remedy = f"ckptlab opens it by {beside}; nobody else can. Load it and save it again."
            yield Finding("damage", "metadata", str(error), remedy, METADATA_FILE)
            return
        if keys := differing(recorded, self.checkpoint.metadata):
            detail = f"{METADATA_FILE} and {beside} say different things of {named(keys)}"
            remedy = f"Remove {beside} and verify again."
            yield Finding("damage", "metadata", detail, remedy, METADATA_FILE, keys)
        if beside in self.files.names():
            told = self.files.read(beside, 0, self.files.size(beside))
            known = read_sidecar(told, beside, len(data))
            if known is None or not known.sound():
                detail = f"{beside} is damaged, or not of this {METADATA_FILE}: no layout is known"
                remedy = "Nothing else is lost; without it, opening takes longer."
                yield Finding("doubt", "metadata", detail, remedy, beside)
            elif known.record_crc != crc32(data) and not keys:
                detail = f"{METADATA_FILE} was changed after it was saved, though it says the same"
                yield Finding("doubt", "metadata", detail, "Load it and save it again.", METADATA_FILE)

    def _times(self) -> dict[str, float]:
        """When each file was last written, where that is known."""
        if not isinstance(self.files, LocalFiles):
            return {}
        times = {}
        for name in (METADATA_FILE, *self.names):
            try:
                times[name] = Path(self.files.root, name).stat().st_mtime
            except OSError:
                continue
        return times

    # ------------------------------------------------------------ torch.save: one archive in all

    def _records(self, sizes: Sequence[int | None]) -> Iterator[Finding]:
        name, size = self.names[0], sizes[0] or 0
        verdict = check_archive(
            lambda at, n: self.files.read(name, at, n), lambda at, n: self._crc_of(0, at, n), size
        )
        self.trace.moved(size)
        if verdict.state == "unchecked":
            self.unchecked = len(self.found)
        elif verdict.state != "sound":
            what: What = "crc" if verdict.state == "crc" else "wrapping"
            remedy = _flipped_back(verdict, 0, name) or "Restore the file from a copy."
            yield Finding("damage", what, f"{name}: {verdict.why}", remedy, name)


def _flipped_back(verdict: Verdict, start: int, name: str) -> str:
    """What to do if one flipped bit may be all that is wrong; "" if not."""
    if verdict.bit is None:
        return ""
    byte, bit = verdict.bit
    return (
        f"If it is a single flipped bit, then bit {bit} of byte {start + byte} of {name}: flip it back and "
        "verify again. If not, restore the file from a copy; all other keys can be loaded."
    )


def _check(piece: Piece, read: Read, crc: Crc) -> Verdict:
    if piece.box is None:
        return check_archive(read, crc, piece.length)
    return check_tensor(read, crc, piece.length, piece.dtype, piece.box.shape)


def _batches(found: Sequence[Piece]) -> Iterator[Sequence[Piece]]:
    """Pieces one after the other, so many at a time that a thread has something to do."""
    batch: list[Piece] = []
    for piece in found:
        batch.append(piece)
        if piece.length > _BLOCK or len(batch) >= _MOST:
            yield batch
            batch = []
    yield batch


def _inside(place: tuple[int, int], found: Sequence[Piece]) -> bool:
    """Whether a range of bytes lies in one of some pieces, which are in the order of bytes."""
    i = bisect_right(found, place[0], key=lambda piece: piece.start) - 1
    return i >= 0 and place[1] <= found[i].end
