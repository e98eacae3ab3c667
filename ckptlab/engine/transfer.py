"""The copies: from chunks in files into a rank's own memory.

Only the bytes wanted, straight into the target where its memory allows. Every byte asked of
storage is counted. It makes no plan and talks to no other rank.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ckptlab.engine.memory import Bytes, bits_of, memory_of, tensors_of
from ckptlab.engine.state import Held
from ckptlab.errors import CorruptError, UnsafeError
from ckptlab.events import Trace
from ckptlab.layout import Box
from ckptlab.layout.box import Ints
from ckptlab.metadata import Metadata
from ckptlab.plan.load import Reads
from ckptlab.plan.widen import widens
from ckptlab.storage.files import Files
from ckptlab.storage.opened import Checkpoint
from ckptlab.storage.template import crc32, crcs, template
from ckptlab.storage.torch_save import Payload, locate, plain, stored_crc

_BLOCK = 1 << 20
_SMALL = 32 << 10
FAR_READS = 8
"""Reads of far files under way at once."""

_FEW = 4


@dataclass
class Counts:
    """What was asked of storage: bytes of elements, reads of them, and all other bytes (`header_bytes`).

    Those are the wrapping round elements, and what is read of a chunk only to check its crc.
    """

    nbytes: int = 0
    reads: int = 0
    header_bytes: int = 0
    checked: int = 0
    """Chunks whose crc was compared with the stored one."""
    lost: Mapping[int, Lost] = field(default_factory=dict)
    """What a narrower dtype cost, by chunk."""

    def add(self, other: Counts) -> None:
        """Count what another counted."""
        self.nbytes += other.nbytes
        self.reads += other.reads
        self.header_bytes += other.header_bytes
        self.checked += other.checked


@dataclass(frozen=True)
class Lost:
    """How many elements of how many a conversion changed, and by how much at most (NaN if one became NaN)."""

    changed: int
    of: int
    largest: float

    def __add__(self, other: Lost) -> Lost:
        largest = float(np.maximum(self.largest, other.largest))
        return Lost(self.changed + other.changed, self.of + other.of, largest)

    def __str__(self) -> str:
        if not self.changed:
            return f"none of {self.of:,} elements changed"
        return f"{self.changed:,} of {self.of:,} elements changed, by {self.largest:.3g} at most"


Job = Callable[[], Counts]


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
    _open: ExitStack = field(default_factory=ExitStack)
    _maps: dict[int, Bytes] = field(default_factory=dict)
    _plain: dict[tuple[int, int], npt.NDArray[np.bool_]] = field(default_factory=dict)
    _found: dict[int, Payload] = field(default_factory=dict)
    _decoded: dict[int, torch.Tensor] = field(default_factory=dict)

    @property
    def metadata(self) -> Metadata:
        """What the checkpoint says of itself."""
        return self.checkpoint.metadata

    @property
    def files(self) -> Files:
        """Where its bytes are."""
        return self.checkpoint.files

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *exc: object) -> None:
        self._maps.clear()
        self._open.close()

    def find(self, reads: Reads) -> None:
        """Look at the wrapping of every chunk that will be read, before a byte of the target changes."""
        row = int(reads.rows[0])
        boxes, dtype = self.metadata.boxes(row), self.metadata.tensors[row].dtype
        for column in np.unique(reads.chunk).tolist():
            shape = tuple(boxes.shapes[column].tolist())
            chunks = reads.first + column
            usual = self._usual(chunks, dtype, shape)
            self._plain[id(reads), column] = usual
            for tensor in np.flatnonzero(~usual).tolist():
                self._look(int(chunks[tensor]), int(reads.rows[tensor]), dtype, shape)

    def fill(self, reads: Reads, held: Sequence[Held], verify: bool = False, threads: int = 1) -> None:
        """Fill the memory of each tensor of `reads`, in their order.

        A whole chunk is checked against its stored crc, a part of one only to `verify`.
        """
        jobs = self._jobs(reads, held, verify)
        if threads == 1:
            for job in jobs:
                self._count(job())
            return
        with ThreadPoolExecutor(threads, "ckptlab-read") as pool:
            for counts in pool.map(lambda job: job(), jobs):
                self._count(counts)

    def _count(self, counts: Counts) -> None:
        self.counts.add(counts)
        for chunk, lost in counts.lost.items():
            fqn = self.metadata.tensors[self._row(chunk)].fqn
            self.lost[fqn] = self.lost[fqn] + lost if fqn in self.lost else lost
        self.trace.moved(counts.nbytes)

    def _jobs(self, reads: Reads, held: Sequence[Held], verify: bool) -> Iterator[Job]:
        row = int(reads.rows[0])
        boxes, dtype = self.metadata.boxes(row), self.metadata.tensors[row].dtype
        checked: set[int] = set()
        for i, column in enumerate(reads.chunk.tolist()):
            shape, box = tuple(boxes.shapes[column].tolist()), reads.source_box(i)
            want, chunks = int(reads.want[i]), reads.first + column
            place = want, held[0].within(want, reads.target_box(i)) if held else None
            usual = self._plain[id(reads), column]
            known = plain(dtype, shape) if usual.any() else None
            check = verify and column not in checked
            checked.add(column)
            run = _run(known, box) if known is not None else None
            if known is not None and run is not None and not check and self._small(box, reads, held):
                ones = np.flatnonzero(usual)
                into = [held[t].piece(*place) for t in ones.tolist()]
                step = max(1, _BLOCK // known.nbytes)
                for at in range(0, len(ones), step):
                    some = chunks[ones[at : at + step]]
                    yield partial(self._read_small, some, known, box, run, into[at : at + step])
                tensors = np.flatnonzero(~usual).tolist()
            else:
                tensors = list(range(len(held)))
            for tensor in tensors:
                chunk, into_one = int(chunks[tensor]), held[tensor].piece(*place)
                payload = known if usual[tensor] else self._found.get(chunk)
                yield partial(self._read_one, chunk, payload, box, into_one, check)

    def _small(self, box: Box, reads: Reads, held: Sequence[Held]) -> bool:
        """Whether reading many tensors together is worth it; what is measured is read one by one."""
        small = len(held) > _FEW and box.numel * reads.itemsize <= _SMALL
        return self.files.mapped and small and not self.measure

    # ------------------------------------------------------------ looking at chunks

    def _usual(self, chunks: Ints, dtype: str, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
        """Which of these chunks are wrapped as stock torch wraps such a tensor."""
        usual = np.zeros(len(chunks), bool)
        if self.checkpoint.payloads is not None:
            return usual
        known, rows = template(dtype, shape), self.metadata.chunks
        likely = np.flatnonzero(rows.length[chunks] == known.length)
        head = np.frombuffer(known.before, np.uint8)
        for file in np.unique(rows.file[chunks[likely]]).tolist():
            ones = likely[rows.file[chunks[likely]] == file]
            starts = rows.start[chunks[ones]]
            if self.files.mapped and len(ones) > _FEW:
                usual[ones] = (self._rows_of(file, starts, len(head)) == head).all(axis=1)
            else:
                name = self.metadata.files[file]
                heads = self._several(name, starts.tolist(), len(head))
                usual[ones] = [found == known.before for found in heads]
        self.counts.header_bytes += len(head) * len(likely)
        return usual

    def _several(self, name: str, starts: Sequence[int], length: int) -> list[bytes]:
        """`length` bytes from each start, several at once where each read has to wait."""
        if self.files.mapped or len(starts) == 1:
            return [self.files.read(name, at, length) for at in starts]
        with ThreadPoolExecutor(FAR_READS, "ckptlab-read") as pool:
            return list(pool.map(lambda at: self.files.read(name, at, length), starts))

    def _rows_of(self, file: int, starts: Ints, width: int) -> Bytes:
        """`width` bytes from each start, `(n, width)`; a view where the starts are evenly spaced."""
        data = self._map(file)
        if len(starts) and (int(starts.min()) < 0 or int(starts.max()) + width > len(data)):
            raise CorruptError(
                f"{self.files.root}/{self.metadata.files[file]}: chunks lie beyond its {len(data)} bytes",
                [self.metadata.files[file]],
            )
        step = np.unique(np.diff(starts))
        if len(step) == 1 and step[0] > 0:
            first = data[int(starts[0]) :]
            return np.lib.stride_tricks.as_strided(
                first, (len(starts), width), (int(step[0]), 1), writeable=False
            )
        rows = np.empty((len(starts), width), np.uint8)
        for row, at in zip(rows, starts.tolist(), strict=True):
            row[:] = data[at : at + width]
        return rows

    def _map(self, file: int) -> Bytes:
        if file not in self._maps:
            view = self._open.enter_context(self.files.view(self.metadata.files[file]))
            self._maps[file] = np.frombuffer(view, np.uint8)
        return self._maps[file]

    def _look(self, chunk: int, row: int, dtype: str, shape: tuple[int, ...]) -> None:
        """Find where the elements of a chunk lie that is not wrapped in the usual way."""
        if self.checkpoint.payloads is not None:
            self._found[chunk] = self.checkpoint.payloads[chunk]
            return
        length = int(self.metadata.chunks.length[chunk])
        try:
            self._found[chunk] = locate(
                self._peek(chunk, self.counts), length, dtype, shape, self._where(chunk)
            )
        except (CorruptError, UnsafeError) as error:
            self._decoded[chunk] = self._decode(chunk, dtype, shape, error)

    def _decode(self, chunk: int, dtype: str, shape: tuple[int, ...], error: Exception) -> torch.Tensor:
        """A chunk that is no plain strided tensor, by torch's own reader; `error` again if that fails too."""
        name, base = self._place(chunk)
        length = int(self.metadata.chunks.length[chunk])
        try:
            data = self.files.read(name, base, length)
            tensor = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True).to_dense()
        except Exception:
            raise error from None
        if tuple(tensor.shape) != shape or str(tensor.dtype) != f"torch.{dtype}":
            raise error
        self.counts.header_bytes += length
        whole: torch.Tensor = tensor
        return whole

    def _peek(self, chunk: int, counts: Counts) -> Callable[[int, int], bytes]:
        name, base = self._place(chunk)

        def read(offset: int, n: int) -> bytes:
            counts.header_bytes += n
            return self.files.read(name, base + offset, n)

        return read

    def _place(self, chunk: int) -> tuple[str, int]:
        chunks = self.metadata.chunks
        return self.metadata.files[chunks.file[chunk]], int(chunks.start[chunk])

    def _row(self, chunk: int) -> int:
        return int(np.searchsorted(self.metadata.chunks.first, chunk, side="right")) - 1

    def _where(self, chunk: int) -> str:
        name, base = self._place(chunk)
        row = self._row(chunk)
        box = self.metadata.boxes(row)[chunk - int(self.metadata.chunks.first[row])]
        fqn = self.metadata.tensors[row].fqn
        return f"chunk {box} of tensor {fqn!r}, at byte {base} of {self.files.root}/{name}"

    # ------------------------------------------------------------ reading them

    def _read_small(
        self, chunks: Ints, payload: Payload, box: Box, run: int, into: Sequence[torch.Tensor]
    ) -> Counts:
        """The same box of several chunks that are wrapped in the usual way, a run of bytes in each."""
        counts, rows = Counts(reads=len(chunks)), self.metadata.chunks
        size = payload.nbytes // max(1, int(np.prod(payload.shape)))
        nbytes = box.numel * size
        whole = nbytes == payload.nbytes
        for file in np.unique(rows.file[chunks]).tolist():
            ones = np.flatnonzero(rows.file[chunks] == file)
            starts = rows.start[chunks[ones]]
            data = np.array(self._rows_of(file, starts + payload.start + run * size, nbytes))
            if whole:
                at = template(payload.dtype, payload.shape).crc_at
                stored = np.array(self._rows_of(file, starts + at, 4)).view("<u4").ravel()
                for chunk, found, expected in zip(
                    chunks[ones].tolist(), crcs(data).tolist(), stored.tolist(), strict=True
                ):
                    self._compare(chunk, found, expected)
                counts.checked += len(ones)
            torch._foreach_copy_([into[n] for n in ones.tolist()], tensors_of(data, payload.dtype, box.shape))
        counts.nbytes = nbytes * len(chunks)
        return counts

    def _read_one(
        self, chunk: int, payload: Payload | None, box: Box, into: torch.Tensor, check: bool
    ) -> Counts:
        """A box of one chunk."""
        if payload is None:
            into.copy_(self._decoded[chunk][box.slices])
            return Counts(box.numel * into.element_size(), 1)
        direct = into.device.type == "cpu" and str(into.dtype) == f"torch.{payload.dtype}"
        target = into if direct else torch.empty(box.shape, dtype=getattr(torch, payload.dtype))
        run = _run(payload, box)
        counts = Counts(box.numel * target.element_size(), 1)
        whole = run == 0 and counts.nbytes == payload.nbytes
        expected = self._expected(chunk, payload, counts) if whole or check else 0
        if run is not None and target.is_contiguous():
            found = self._read_run(chunk, payload, run * target.element_size(), memory_of(target), whole)
        else:
            self._copy_box(chunk, payload, box, target)
            found = None
        if expected:
            counts.checked = 1
            if found is None:
                found = self._crc(chunk, payload)
                counts.header_bytes += payload.nbytes
            self._compare(chunk, found, expected)
        if not direct:
            into.copy_(target)
            if self.measure and not widens(payload.dtype, str(into.dtype).removeprefix("torch.")):
                counts.lost = {chunk: _lost(target, into)}
        return counts

    def _read_run(
        self, chunk: int, payload: Payload, offset: int, into: memoryview, whole: bool
    ) -> int | None:
        """Read one run of bytes; its crc if it is the `whole` chunk."""
        name, base = self._place(chunk)
        start = base + payload.start + offset
        if not whole:
            self.files.read_into(name, start, into)
            return None
        crc = 0
        step = _BLOCK if self.files.mapped else max(1, len(into))
        for at in range(0, len(into), step):
            block = into[at : at + step]
            self.files.read_into(name, start + at, block)
            # Taken while the block is in the cache.
            crc = crc32(block, crc)
        return crc

    def _copy_box(self, chunk: int, payload: Payload, box: Box, target: torch.Tensor) -> None:
        """Copy a box that is no run of bytes, or whose target is none."""
        into, size = bits_of(target), target.element_size()
        name, base = self._place(chunk)
        strides = tuple(s * size for s in payload.strides)
        low = payload.storage_offset + sum(o * s for o, s in zip(box.offset, payload.strides, strict=True))
        span = 1 + sum((n - 1) * s for n, s in zip(box.shape, payload.strides, strict=True))
        if not box.numel:
            return
        start = base + payload.start + low * size
        with ExitStack() as stack:
            data: Any
            if self.files.mapped:
                data = self._map(int(self.metadata.chunks.file[chunk]))[start : start + span * size]
            else:
                data = stack.enter_context(self.files.view(name, start, span * size))
            np.copyto(into, np.ndarray(box.shape, into.dtype, data, 0, strides))

    # ------------------------------------------------------------ checking them

    def _expected(self, chunk: int, payload: Payload, counts: Counts) -> int:
        """The crc that the writer of a chunk stored; 0 if it stored none."""
        if self.checkpoint.payloads is not None:
            return self.checkpoint.crcs[chunk] if self.checkpoint.crcs is not None else 0
        length = int(self.metadata.chunks.length[chunk])
        known = template(payload.dtype, payload.shape)
        if payload is plain(payload.dtype, payload.shape):
            return int.from_bytes(self._peek(chunk, counts)(known.crc_at, 4), "little")
        return stored_crc(self._peek(chunk, counts), length, self._where(chunk))

    def _crc(self, chunk: int, payload: Payload) -> int:
        """The crc of a chunk's whole storage, read for nothing else."""
        name, base = self._place(chunk)
        crc = 0
        for at in range(0, payload.nbytes, _BLOCK):
            n = min(_BLOCK, payload.nbytes - at)
            crc = crc32(self.files.read(name, base + payload.start + at, n), crc)
        return crc

    def _compare(self, chunk: int, found: int, expected: int) -> None:
        # A writer that computes no crc (an option of torch.save) leaves a zero.
        if found != expected and expected != 0:
            raise CorruptError(
                f"{self._where(chunk)}: its bytes have crc {found:08x}, but {expected:08x} was stored "
                "with them; the file is damaged, and what was loaded from it is wrong",
                [chunk],
            )


def _run(payload: Payload, box: Box) -> int | None:
    """Where the box begins in the chunk's storage if it is one run of elements there, else None."""
    expected = 1
    for n, stride in zip(reversed(box.shape), reversed(payload.strides), strict=True):
        if n != 1 and stride != expected:
            return None
        expected *= n
    return payload.storage_offset + sum(o * s for o, s in zip(box.offset, payload.strides, strict=True))


def _lost(stored: torch.Tensor, loaded: torch.Tensor) -> Lost:
    """What is not the same any more, by taking what was loaded back to the stored dtype."""
    kept = loaded.detach().cpu().to(stored.dtype)
    wide = torch.complex128 if stored.is_complex() else torch.float64
    apart = (kept.to(wide) - stored.to(wide)).abs()
    # Infinity less infinity is no number, and was not changed.
    changed = ~((kept == stored) | (kept.isnan() & stored.isnan()))
    by = apart[changed]
    largest = float("nan") if bool(by.isnan().any()) else float(by.max()) if by.numel() else 0.0
    return Lost(int(changed.sum()), stored.numel(), largest)
