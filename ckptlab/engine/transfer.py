"""The copies: from chunks in files into a rank's own memory.

Only the bytes wanted, straight into the target where its memory allows. Every byte asked of
storage is counted. It makes no plan and talks to no other rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from ckptlab.engine.counts import Counts, Lost, loss
from ckptlab.engine.ferry import brought
from ckptlab.engine.held import HeldTensors
from ckptlab.engine.lookup import FEW, Lookup
from ckptlab.engine.memory import bits_of, finish, memory_of, tensors_of
from ckptlab.events import Trace
from ckptlab.layout import Box
from ckptlab.layout.box import Ints
from ckptlab.metadata import ITEMSIZE, Metadata
from ckptlab.plan.load import LoadPlan, Reads
from ckptlab.plan.spans import cut_one
from ckptlab.plan.widen import widens
from ckptlab.storage.crc import Crcs, crc32, crcs
from ckptlab.storage.files import Files
from ckptlab.storage.opened import Checkpoint
from ckptlab.storage.template import template
from ckptlab.storage.torch_save import Payload, plain

_BLOCK = 1 << 20
_SMALL = 32 << 10
_SEVERAL = 16
_MANY = 64 << 20

Job = partial[Counts]
Way = Callable[[Ints, Payload, Box, Sequence[torch.Tensor]], Counts]
"""How the same box of some chunks is read, of each into its own tensor."""


@dataclass(eq=False)
class Source:
    """Chunks of one checkpoint, ready to be read; use as a context manager.

    With `measure`, `lost` says of each tensor what its conversion to the target's dtype changed.
    """

    checkpoint: Checkpoint
    trace: Trace
    measure: bool = False
    counts: Counts = field(default_factory=Counts)
    lost: dict[str, Lost] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.metadata: Metadata = self.checkpoint.metadata
        self.files: Files = self.checkpoint.files
        self._began = self.files.requests, self.files.fetched
        self._at = Lookup(self.checkpoint, self.counts)
        self.checkpoint.settle()

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *exc: object) -> None:
        self._at.close()

    @property
    def asked(self) -> tuple[int, int]:
        """Ranged reads asked of far files since it began, and the bytes that they brought."""
        return self.files.requests - self._began[0], self.files.fetched - self._began[1]

    def find(self, reads: Reads) -> None:
        """Look at every chunk that will be read, before a byte of the target changes."""
        self._at.find(reads)

    def fill(self, plan: LoadPlan, held: HeldTensors, verify: bool = False, threads: int = 1) -> None:
        """Fill the memory of the tensors that a plan asks for: `held`, in the order of what it was made for.

        A whole chunk is checked against its stored crc, a part of one only to `verify`.
        """
        finish(held.locals)
        # Far files are read one by one, where each has to be waited for.
        most = min(_MANY, int(plan.nbytes.sum()) // (threads * 4)) if self.files.mapped else 0
        # All of them before the first: where big tensors pass through the caches, Python is slow.
        jobs = [job for reads in plan.reads for job in self._jobs(reads, held, verify, most)]
        if not self.files.mapped:
            # What is fetched together is then wanted together, and need not be kept for long.
            jobs.sort(key=lambda job: self._at.place(int(job.args[0][0])))
        if threads == 1:
            for job in jobs:
                self._count(job, job())
            return
        # To hand a job to a thread takes as long as to read 300 KB that are in memory.
        several = max(1, min(_SEVERAL, len(jobs) // (threads * 4))) if self.files.mapped else 1
        batches = [jobs[at : at + several] for at in range(0, len(jobs), several)]
        with ThreadPoolExecutor(threads, "ckptlab-read") as pool:
            for batch, done in zip(
                batches, pool.map(lambda batch: [job() for job in batch], batches), strict=True
            ):
                for job, counts in zip(batch, done, strict=True):
                    self._count(job, counts)

    def _count(self, job: Job, counts: Counts) -> None:
        self.counts.add(counts)
        for chunk, lost in counts.lost.items():
            fqn = self._key(chunk)
            self.lost[fqn] = self.lost[fqn] + lost if fqn in self.lost else lost
        self.trace.moved(counts.nbytes, lambda: self._key(int(np.max(job.args[0]))))

    def _key(self, chunk: int) -> str:
        """The key of a chunk's tensor."""
        return self.metadata.tensors[self._at.row(chunk)].fqn

    def _jobs(self, reads: Reads, held: HeldTensors, verify: bool, most: int) -> Iterator[Job]:
        """Jobs of `most` bytes, but of one tensor at least: what is read in the same way is read together."""
        row = int(reads.rows[0])
        boxes, dtype = self.metadata.boxes(row), self.metadata.tensors[row].dtype
        checked: set[int] = set()
        for i, column in enumerate(reads.chunk.tolist()):
            shape, box = tuple(boxes.shapes[column].tolist()), reads.source_box(i)
            chunks, usual = reads.first + column, self._at.usual(reads, column)
            pieces = held.pieces(reads.asked, int(reads.want[i]), reads.target_box(i))
            check = verify and column not in checked
            checked.add(column)
            alone = partial(self._read_each, check=check)
            step = max(1, most // (box.numel * reads.itemsize))
            if usual.any():
                payload = plain(dtype, shape)
                for way, tensors in self._ways(payload, box, pieces, np.flatnonzero(usual), check).items():
                    for at in range(0, len(tensors), step):
                        some = tensors[at : at + step]
                        yield partial(way or alone, chunks[some], payload, box, [pieces[t] for t in some])
            for tensor in np.flatnonzero(~usual).tolist():
                yield partial(alone, chunks[[tensor]], None, box, [pieces[tensor]])

    def _ways(
        self, payload: Payload, box: Box, into: Sequence[torch.Tensor], usual: Ints, check: bool
    ) -> Mapping[Way | None, list[int]]:
        """Which of the `usual` tensors are best read in which way; None: each alone."""
        run, whole = _run(payload, box), box.shape == payload.shape
        small = len(into) > FEW and box.numel * ITEMSIZE[payload.dtype] <= _SMALL
        if small and run and self.files.mapped and not check and not self.measure:
            return {self._read_small: usual.tolist()}
        ways: dict[Way | None, list[int]] = {}
        for tensor in usual.tolist():
            one, way = into[tensor], None
            if whole:
                # What does not fit has to be copied again, and comes best out of a map, where there is one.
                way = self._read_whole if _fits(one, payload.dtype) or not self.files.mapped else None
            elif not check and run and _fits(one, payload.dtype):
                way = self._read_runs
            elif not check and self.files.mapped and _direct(one, payload.dtype):
                way = self._read_boxes
            ways.setdefault(way, []).append(tensor)
        return ways

    def _read_small(self, chunks: Ints, payload: Payload, box: Box, into: Sequence[torch.Tensor]) -> Counts:
        """Of each chunk a run of bytes, through a piece of memory that holds many of them."""
        rows, dtype = self.metadata.chunks, getattr(torch, payload.dtype)
        nbytes, begin = box.numel * dtype.itemsize, _begin(payload, box)
        step = max(1, _BLOCK // nbytes)
        # One piece of memory, which stays in the cache, and the tensors that it is, for all of them.
        data = np.empty((min(step, len(chunks)), nbytes), np.uint8)
        tensors = tensors_of(data, payload.dtype, box.shape)
        for file in np.unique(rows.file[chunks]).tolist():
            here = np.flatnonzero(rows.file[chunks] == file)
            for first in range(0, len(here), step):
                ones = here[first : first + step]
                some, found = chunks[ones], data[: len(ones)]
                np.copyto(found, self._at.rows_of(file, rows.start[some] + begin, nbytes))
                if nbytes == payload.nbytes:
                    self._compare_all(file, some, payload, crcs(found))
                targets = [into[n] for n in ones.tolist()]
                if targets[0].is_cuda and targets[0].dtype is dtype:
                    # To a GPU they go together, but for those that must be converted first.
                    sources = tensors_of(found, payload.dtype, box.shape, targets[0].device)
                else:
                    sources = tensors[: len(ones)]
                torch._foreach_copy_(targets, sources)
        checked = len(chunks) if nbytes == payload.nbytes else 0
        return Counts(nbytes * len(chunks), len(chunks), 4 * checked, checked)

    def _compare_all(self, file: int, chunks: Ints, payload: Payload, found: Crcs) -> None:
        """Compare the crcs of chunks of one file, wrapped as usual, with those stored with them."""
        at = template(payload.dtype, payload.shape).crc_at
        rows = self._at.rows_of(file, self.metadata.chunks.start[chunks] + at, 4)
        stored = np.ascontiguousarray(rows).view("<u4").ravel()
        for i in np.flatnonzero(found != stored).tolist():
            self._at.compare(int(chunks[i]), int(found[i]), int(stored[i]))

    def _read_whole(self, chunks: Ints, payload: Payload, box: Box, into: Sequence[torch.Tensor]) -> Counts:
        """All elements of each chunk, and behind them the crc that was stored with them."""
        dtype, known = getattr(torch, payload.dtype), template(payload.dtype, payload.shape)
        behind = known.crc_at + 4 - payload.start - payload.nbytes
        targets = [one if _fits(one, payload.dtype) else torch.empty(box.shape, dtype=dtype) for one in into]
        # Where big tensors pass through the caches, Python is slow: little of it between two reads.
        asked = [
            (name, start + payload.start, memory_of(target), memoryview(bytearray(behind)))
            for (name, start), target in zip(map(self._at.place, chunks.tolist()), targets, strict=True)
        ]
        found = [self.files.read_checked(*one) for one in asked]
        expected = [int.from_bytes(after[-4:], "little") for _, _, _, after in asked]
        for chunk, crc, stored in zip(chunks.tolist(), found, expected, strict=True):
            self._at.compare(chunk, crc, stored)
        checked = len(expected) - expected.count(0)
        counts = Counts(payload.nbytes * len(chunks), len(chunks), behind * len(chunks), checked)
        for chunk, target, one in zip(chunks.tolist(), targets, into, strict=True):
            if target is not one:
                self._put(chunk, target, one, counts)
        return counts

    def _read_runs(self, chunks: Ints, payload: Payload, box: Box, into: Sequence[torch.Tensor]) -> Counts:
        """Of each chunk a part that is a run of bytes."""
        begin = _begin(payload, box)
        asked = [
            (name, start + begin, memory_of(target))
            for (name, start), target in zip(map(self._at.place, chunks.tolist()), into, strict=True)
        ]
        for one in asked:
            self.files.read_into(*one)
        return Counts(box.numel * ITEMSIZE[payload.dtype] * len(chunks), len(chunks))

    def _read_boxes(self, chunks: Ints, payload: Payload, box: Box, into: Sequence[torch.Tensor]) -> Counts:
        """Of each chunk a part that is no run of bytes, or whose target is none, out of a map."""
        targets = list(map(bits_of, into))
        size = targets[0].itemsize
        strides, begin = tuple(s * size for s in payload.strides), _begin(payload, box)
        rows = self.metadata.chunks
        sources = [
            np.ndarray(box.shape, targets[0].dtype, self._at.mapped(file), start + begin, strides)
            for file, start in zip(rows.file[chunks].tolist(), rows.start[chunks].tolist(), strict=True)
        ]
        for target, source in zip(targets, sources, strict=True):
            np.copyto(target, source)
        return Counts(box.numel * size * len(chunks), len(chunks))

    def _read_each(
        self,
        chunks: Ints,
        payload: Payload | None,
        box: Box,
        into: Sequence[torch.Tensor],
        check: bool,
    ) -> Counts:
        """One chunk after the other."""
        counts = Counts()
        for chunk, one in zip(chunks.tolist(), into, strict=True):
            found = self._read_one(chunk, payload, box, one, check)
            counts.add(found)
            counts.lost |= found.lost
        return counts

    def _put(self, chunk: int, stored: torch.Tensor, into: torch.Tensor, counts: Counts) -> None:
        """Copy elements of a chunk into the target's own dtype, device and strides."""
        into.copy_(stored)
        before, after = (str(tensor.dtype).removeprefix("torch.") for tensor in (stored, into))
        if self.measure and not widens(before, after):
            counts.lost[chunk] = loss(stored, into)

    def _read_one(
        self, chunk: int, payload: Payload | None, box: Box, into: torch.Tensor, check: bool
    ) -> Counts:
        """A box of one chunk; without a `payload`, of one that is not known to be wrapped as usual."""
        counts = Counts(reads=1)
        payload = payload or self._at.payload(chunk, counts)
        if payload is None:
            into.copy_(self._at.decoded[chunk][box.slices])
            counts.nbytes = box.numel * into.element_size()
            return counts
        dtype, run = getattr(torch, payload.dtype), _run(payload, box)
        counts.nbytes = box.numel * dtype.itemsize
        # In another order than they lie there, elements that are far come in pieces, which have no crc.
        whole = box.shape == payload.shape and counts.nbytes == payload.nbytes and (run or self.files.mapped)
        expected = self._at.expected(chunk, payload, counts) if whole or check else 0
        if self._parted(into, box) and (run or not whole):
            target, found = into, self._bring(chunk, payload, box, into, whole)
        else:
            target = into if _direct(into, payload.dtype) else torch.empty(box.shape, dtype=dtype)
            found = self._read_box(chunk, payload, box, target, whole)
        if expected or (whole and box.numel and self.checkpoint.ours):
            counts.checked = int(expected != 0)
            if found is None:
                found = self._at.crc(chunk, payload)
                counts.header_bytes += payload.nbytes
            self._at.compare(chunk, found, expected)
        if target is not into:
            self._put(chunk, target, into, counts)
        return counts

    def _parted(self, into: torch.Tensor, box: Box) -> bool:
        """Whether a box goes to a GPU part after part; of far files each part would be a request."""
        # What is smaller is soon there by any way, and waiting for pinned memory costs more than it saves.
        return into.is_cuda and self.files.mapped and not self.measure and box.numel * into.itemsize > _BLOCK

    def _bring(self, chunk: int, payload: Payload, box: Box, into: torch.Tensor, whole: bool) -> int | None:
        """As `_read_box`, part after part."""
        row, crc = box.offset[0], 0
        for part in brought(into, getattr(torch, payload.dtype)):
            some = Box((row, *box.offset[1:]), tuple(part.shape))
            self._read_box(chunk, payload, some, part, whole=False)
            crc = crc32(memory_of(part), crc) if whole else 0
            row += len(part)
        return crc if whole else None

    def _read_box(
        self, chunk: int, payload: Payload, box: Box, target: torch.Tensor, whole: bool
    ) -> int | None:
        """Read a box into CPU memory of the stored dtype; its crc if it is the `whole` chunk."""
        if not _run(payload, box) or not target.is_contiguous():
            return self._copy_box(chunk, payload, box, target, whole)
        name, base = self._at.place(chunk)
        start, memory = base + _begin(payload, box), memory_of(target)
        if whole:
            return self.files.read_checked(name, start, memory, memoryview(bytearray()))
        self.files.read_into(name, start, memory)
        return None

    def _copy_box(
        self, chunk: int, payload: Payload, box: Box, target: torch.Tensor, whole: bool
    ) -> int | None:
        """Copy a box that is no run of bytes, or whose target is none; the crc if it is the `whole` chunk."""
        into, size = bits_of(target), target.element_size()
        name, base = self._at.place(chunk)
        strides = tuple(s * size for s in payload.strides)
        if not box.numel:
            return 0 if whole else None
        start = base + _begin(payload, box)
        if self.files.mapped:
            data = self._at.mapped(int(self.metadata.chunks.file[chunk]))
            np.copyto(into, np.ndarray(box.shape, into.dtype, data, start, strides))
            stored = data[base + payload.start :][: payload.nbytes]
            return crc32(stored.data) if whole else None
        crc = 0
        depth, nbytes = cut_one(box.shape, payload.strides, size)
        for at in np.ndindex(*box.shape[:depth]):
            first = start + sum(i * stride for i, stride in zip(at, strides, strict=False))
            with self.files.view(name, first, nbytes) as piece:
                np.copyto(into[at], np.ndarray(box.shape[depth:], into.dtype, piece, 0, strides[depth:]))
                # Of what was fetched: to ask for it again would be as dear as the load.
                crc = crc32(piece) if whole else 0
        return crc if whole else None


def _direct(into: torch.Tensor, dtype: str) -> bool:
    """Whether elements of this dtype can be put into a tensor's memory as they are."""
    return into.device.type == "cpu" and into.dtype is getattr(torch, dtype)


def _fits(into: torch.Tensor, dtype: str) -> bool:
    """Whether bytes can be read into a tensor's memory as they are."""
    return _direct(into, dtype) and into.is_contiguous()


def _begin(payload: Payload, box: Box) -> int:
    """The byte of its chunk where the first element of a box lies."""
    first = sum(o * s for o, s in zip(box.offset, payload.strides, strict=True))
    return payload.start + (payload.storage_offset + first) * ITEMSIZE[payload.dtype]


def _run(payload: Payload, box: Box) -> bool:
    """Whether the box is one run of elements in the chunk's storage."""
    expected = 1
    for n, stride in zip(reversed(box.shape), reversed(payload.strides), strict=True):
        if n != 1 and stride != expected:
            return False
        expected *= n
    return True
