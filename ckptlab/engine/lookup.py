"""Chunks as they lie in files: where the elements of each begin, and which crc was stored with them.

It looks at the wrapping round the elements, and at no element but to check a crc; it changes no
target.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from ckptlab.engine.counts import Counts
from ckptlab.engine.memory import Bytes
from ckptlab.errors import CorruptError, UnsafeError
from ckptlab.layout.box import Ints
from ckptlab.metadata import Metadata
from ckptlab.plan.load import Reads
from ckptlab.plan.spans import PART, SMALL
from ckptlab.storage.crc import crc32
from ckptlab.storage.files import Files
from ckptlab.storage.opened import Checkpoint
from ckptlab.storage.template import template
from ckptlab.storage.torch_save import Payload, locate, plain, stored_crc

FAR_READS = 8
"""Reads of far files under way at once."""
FEW = 4
"""So many chunks are looked at one by one; more of them together."""

_BLOCK = 1 << 20
_NEAR = 64 << 10


@dataclass(eq=False)
class Lookup:
    """The chunks of one checkpoint, looked at; use as a context manager.

    A chunk that is not `usual` is either among the `payloads` or, if it is no plain strided tensor,
    among the `decoded`, both by chunk row. One that comes in a span of a far file is looked at when its
    elements are read: to look before would be to fetch all spans, and then again.
    """

    checkpoint: Checkpoint
    counts: Counts
    payloads: dict[int, Payload] = field(default_factory=dict)
    decoded: dict[int, torch.Tensor] = field(default_factory=dict)
    _later: dict[int, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    _usual: dict[tuple[int, int], npt.NDArray[np.bool_]] = field(default_factory=dict)
    _open: ExitStack = field(default_factory=ExitStack)
    _maps: dict[int, Bytes] = field(default_factory=dict)

    @property
    def metadata(self) -> Metadata:
        """What the checkpoint says of itself."""
        return self.checkpoint.metadata

    @property
    def files(self) -> Files:
        """Where its bytes are."""
        return self.checkpoint.files

    def close(self) -> None:
        """Let go of what was mapped."""
        self._maps.clear()
        self._open.close()

    def find(self, reads: Reads) -> None:
        """Look at the wrapping of every chunk that will be read."""
        row = int(reads.rows[0])
        boxes, dtype = self.metadata.boxes(row), self.metadata.tensors[row].dtype
        for column in np.unique(reads.chunk).tolist():
            shape = tuple(boxes.shapes[column].tolist())
            chunks = reads.first + column
            whole = bool((reads.boxes.numel[reads.chunk == column] == boxes.numel[column]).all())
            usual = self._wrapped_as_usual(chunks, dtype, shape, whole)
            self._usual[id(reads), column] = usual
            later = self._in_spans(chunks)
            for tensor in np.flatnonzero(~usual).tolist():
                if later[tensor]:
                    self._later[int(chunks[tensor])] = dtype, shape
                else:
                    self._look(int(chunks[tensor]), dtype, shape, self.counts)

    def usual(self, reads: Reads, column: int) -> npt.NDArray[np.bool_]:
        """For each tensor of `reads`: whether its chunk `column` is wrapped as stock torch wraps it."""
        return self._usual[id(reads), column]

    def payload(self, chunk: int, counts: Counts) -> Payload | None:
        """Where the elements of a chunk lie that is not `usual`; None if it is among the `decoded`."""
        if asked := self._later.get(chunk):
            seen = Counts()
            self._look(chunk, *asked, seen)
            # Several threads may look at once; one of them counts.
            if self._later.pop(chunk, None):
                counts.add(seen)
        return self.payloads.get(chunk)

    def _in_spans(self, chunks: Ints) -> npt.NDArray[np.bool_]:
        """Which of these chunks come in spans of far files, and have to be looked at."""
        if self.files.mapped or self.checkpoint.payloads is not None:
            return np.zeros(len(chunks), bool)
        length = self.metadata.chunks.length[chunks]
        return (length > 0) & (length <= SMALL)

    def _wrapped_as_usual(
        self, chunks: Ints, dtype: str, shape: tuple[int, ...], whole: bool
    ) -> npt.NDArray[np.bool_]:
        """Which of these chunks are wrapped as stock torch wraps such a tensor."""
        usual = np.zeros(len(chunks), bool)
        if self.checkpoint.payloads is not None:
            return usual
        known, rows = template(dtype, shape), self.metadata.chunks
        as_long: npt.NDArray[np.bool_] = rows.length[chunks] == known.length
        if self.checkpoint.ours and whole:
            # That is how we wrap them, and elements that lie elsewhere would not have the stored crc.
            return as_long
        likely = np.flatnonzero(as_long & ~self._in_spans(chunks))
        head = np.frombuffer(known.before, np.uint8)
        for file in np.unique(rows.file[chunks[likely]]).tolist():
            ones = likely[rows.file[chunks[likely]] == file]
            starts = rows.start[chunks[ones]]
            # Far apart in a file that is not in memory, heads come slower out of a map.
            if self.files.mapped and len(ones) > FEW and known.length <= _NEAR:
                usual[ones] = (self.rows_of(file, starts, len(head)) == head).all(axis=1)
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

    def rows_of(self, file: int, starts: Ints, width: int) -> Bytes:
        """`width` bytes from each start, `(n, width)`; a view where the starts are evenly spaced."""
        data = self.mapped(file)
        if len(starts) and (int(starts.min()) < 0 or int(starts.max()) + width > len(data)):
            raise CorruptError(
                f"{self.files.root}/{self.metadata.files[file]}: chunks lie beyond its {len(data)} bytes",
                [self.metadata.files[file]],
            )
        steps = np.diff(starts)
        if len(steps) and steps[0] > 0 and (steps == steps[0]).all():
            return np.ndarray((len(starts), width), np.uint8, data, int(starts[0]), (int(steps[0]), 1))
        rows = np.empty((len(starts), width), np.uint8)
        for row, at in zip(rows, starts.tolist(), strict=True):
            row[:] = data[at : at + width]
        return rows

    def mapped(self, file: int) -> Bytes:
        """All bytes of a file, by its number in `Metadata.files`."""
        if file not in self._maps:
            view = self._open.enter_context(self.files.view(self.metadata.files[file]))
            self._maps[file] = np.frombuffer(view, np.uint8)
        return self._maps[file]

    def _look(self, chunk: int, dtype: str, shape: tuple[int, ...], counts: Counts) -> None:
        """Find where the elements of a chunk lie that is not wrapped in the usual way."""
        if self.checkpoint.payloads is not None:
            self.payloads[chunk] = self.checkpoint.payloads[chunk]
            return
        length = int(self.metadata.chunks.length[chunk])
        try:
            self.payloads[chunk] = locate(self._peek(chunk, counts), length, dtype, shape, self.where(chunk))
        except (CorruptError, UnsafeError) as error:
            self.decoded[chunk] = self._decode(chunk, dtype, shape, error)
            counts.header_bytes += length

    def _decode(self, chunk: int, dtype: str, shape: tuple[int, ...], error: Exception) -> torch.Tensor:
        """A chunk that is no plain strided tensor, by torch's own reader; `error` again if that fails too."""
        name, base = self.place(chunk)
        length = int(self.metadata.chunks.length[chunk])
        try:
            data = self.files.read(name, base, length)
            tensor = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True).to_dense()
        except Exception:
            raise error from None
        if tuple(tensor.shape) != shape or str(tensor.dtype) != f"torch.{dtype}":
            raise error
        whole: torch.Tensor = tensor
        return whole

    def _peek(self, chunk: int, counts: Counts) -> Callable[[int, int], bytes]:
        name, base = self.place(chunk)

        def read(offset: int, n: int) -> bytes:
            counts.header_bytes += n
            return self.files.read(name, base + offset, n)

        return read

    def place(self, chunk: int) -> tuple[str, int]:
        """The name of a chunk's file, and where in it the chunk begins."""
        chunks = self.metadata.chunks
        return self.metadata.files[chunks.file[chunk]], int(chunks.start[chunk])

    def row(self, chunk: int) -> int:
        """The row of a chunk's tensor."""
        return int(np.searchsorted(self.metadata.chunks.first, chunk, side="right")) - 1

    def where(self, chunk: int) -> str:
        """A chunk in words, for errors."""
        name, base = self.place(chunk)
        row = self.row(chunk)
        box = self.metadata.boxes(row)[chunk - int(self.metadata.chunks.first[row])]
        fqn = self.metadata.tensors[row].fqn
        return f"chunk {box} of tensor {fqn!r}, at byte {base} of {self.files.root}/{name}"

    def expected(self, chunk: int, payload: Payload, counts: Counts) -> int:
        """The crc that the writer of a chunk stored; 0 if it stored none."""
        if self.checkpoint.payloads is not None:
            return self.checkpoint.crcs[chunk] if self.checkpoint.crcs is not None else 0
        length = int(self.metadata.chunks.length[chunk])
        known = template(payload.dtype, payload.shape)
        if payload is plain(payload.dtype, payload.shape):
            return int.from_bytes(self._peek(chunk, counts)(known.crc_at, 4), "little")
        return stored_crc(self._peek(chunk, counts), length, self.where(chunk))

    def crc(self, chunk: int, payload: Payload) -> int:
        """The crc of a chunk's whole storage, read for nothing else."""
        name, base = self.place(chunk)
        crc, block = 0, _BLOCK if self.files.mapped else PART
        for at in range(0, payload.nbytes, block):
            n = min(block, payload.nbytes - at)
            crc = crc32(self.files.read(name, base + payload.start + at, n), crc)
        return crc

    def compare(self, chunk: int, found: int, expected: int) -> None:
        """`CorruptError` if the elements have not the crc that was stored with them."""
        # A writer that computes no crc (an option of torch.save) leaves a zero; we do not.
        if found != expected and (expected != 0 or self.checkpoint.ours):
            raise CorruptError(
                f"{self.where(chunk)}: its bytes have crc {found:08x}, but {expected:08x} was stored "
                "with them; the file is damaged, and what was loaded from it is wrong",
                [chunk],
            )
