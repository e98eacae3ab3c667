"""Whole tensors as streams: out of the chunks of any checkpoint, into a file, a block at a time.

It knows no torch and no plan, and not what a block means to the file that it goes to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ckptlab.errors import CorruptError
from ckptlab.events import Trace
from ckptlab.layout import Box, Boxes, overlaps
from ckptlab.metadata import ITEMSIZE
from ckptlab.storage.crc import crc32
from ckptlab.storage.files import Buffer, Writer
from ckptlab.storage.opened import Checkpoint
from ckptlab.storage.stored import StoredTensor
from ckptlab.storage.template import contiguous
from ckptlab.storage.torch_save import locate, stored_crc
from ckptlab.storage.where import is_url

BLOCK = 8 << 20
"""Bytes of elements that are in memory at a time; of far files more, whose parts are fetched at once."""

_FAR = 8 * BLOCK


class Stream:
    """A file that is written from its beginning to its end; counts the elements' bytes as moved."""

    def __init__(self, writer: Writer, trace: Trace) -> None:
        self._writer, self._trace = writer, trace
        self.at = 0

    def put(self, *buffers: Buffer) -> None:
        """Write the buffers one after the other."""
        self._writer.write_at(self.at, buffers)
        self.at += sum(memoryview(buffer).nbytes for buffer in buffers)

    def put_tensor(self, checkpoint: Checkpoint, fqn: str) -> int:
        """Write the elements of a tensor in row-major order; gives their crc32."""
        crc = 0
        for block in blocks(checkpoint, fqn):
            crc = crc32(block, crc)
            self.put(block)
            self._trace.moved(len(block))
        return crc


def blocks(checkpoint: Checkpoint, fqn: str, nbytes: int | None = None) -> Iterator[memoryview]:
    """The bytes of a tensor in row-major order, at most `nbytes` (`BLOCK`) at a time, however it is stored.

    The memory of a block is used again for the next. `CorruptError` for elements that are stored nowhere
    and, after the last block, for a chunk whose bytes have not the crc that was stored with them.
    """
    tensor = checkpoint[fqn]
    size = ITEMSIZE[tensor.dtype]
    nbytes = nbytes or (_FAR if is_url(checkpoint.files.root) else BLOCK)
    most = min(max(nbytes // size, 1), tensor.nbytes // size)
    memory = np.empty(most * size, np.uint8)
    sums = _Sums(checkpoint, tensor)
    for box in cut(tensor.shape, most):
        data = memory[: box.numel * size]
        bits = data.view(f"V{size}").reshape(box.shape)
        tensor.fill(bits, [range(low, high) for low, high in zip(box.offset, box.stop, strict=True)])
        sums.add(box, bits)
        yield data.data
    sums.check()


def cut(shape: Sequence[int], most: int) -> Iterator[Box]:
    """Boxes of at most `most` elements that hold all of a shape, each one run in row-major order."""
    if 0 in shape:
        return
    dim, row = len(shape), 1
    while dim and row * shape[dim - 1] <= most:
        dim -= 1
        row *= shape[dim]
    if not dim:
        yield Box((0,) * len(shape), tuple(shape))
        return
    step, inner = most // row, tuple(shape[dim:])
    for outer in np.ndindex(*shape[: dim - 1]):
        for start in range(0, shape[dim - 1], step):
            n = min(step, shape[dim - 1] - start)
            yield Box((*outer, start, *(0 for _ in inner)), (*(1 for _ in outer), n, *inner))


class _Sums:
    """The crc of each chunk of a tensor, as its elements pass by; compared with the stored one at the end."""

    def __init__(self, checkpoint: Checkpoint, tensor: StoredTensor) -> None:
        self._checkpoint, self._tensor = checkpoint, tensor
        self._first = int(checkpoint.metadata.chunks.first[tensor.row])
        self._boxes = checkpoint.metadata.boxes(tensor.row)
        self._kept = checkpoint.payloads is None or checkpoint.crcs is not None
        self._crcs: dict[int, int] = {}

    def add(self, box: Box, bits: npt.NDArray[Any]) -> None:
        if not self._kept:
            return
        for i in overlaps(Boxes.of([box]), self._boxes).b.tolist():
            part = np.ascontiguousarray(bits[(box & self._boxes[i]).within(box).slices])
            self._crcs[i] = crc32(part.reshape(-1).view(np.uint8).data, self._crcs.get(i, 0))

    def check(self) -> None:
        for i, found in self._crcs.items():
            expected = self._stored(i)
            # A writer that computes no crc (an option of torch.save) leaves a zero.
            if expected not in (0, found):
                where = f"chunk {self._boxes[i]} of tensor {self._tensor.fqn!r} of {self._checkpoint.path}"
                raise CorruptError(
                    f"{where}: its bytes have crc {found:08x}, but {expected:08x} was stored with them; "
                    "the file is damaged",
                    [self._tensor.fqn],
                )

    def _stored(self, i: int) -> int:
        """The stored crc of a chunk, if it is that of its elements in row-major order, else 0."""
        checkpoint, chunk, shape = self._checkpoint, self._first + i, self._boxes[i].shape
        chunks = checkpoint.metadata.chunks
        name, start = checkpoint.metadata.files[chunks.file[chunk]], int(chunks.start[chunk])
        length, where = int(chunks.length[chunk]), f"tensor {self._tensor.fqn!r}, at byte {start} of {name}"

        def read(at: int, n: int) -> bytes:
            return checkpoint.files.read(name, start + at, n)

        if checkpoint.payloads is not None:
            payload = checkpoint.payloads[chunk]
        else:
            payload = locate(read, length, self._tensor.dtype, shape, where)
        nbytes = self._boxes[i].numel * ITEMSIZE[self._tensor.dtype]
        if (payload.nbytes, payload.storage_offset) != (nbytes, 0) or payload.strides != contiguous(shape):
            return 0
        return checkpoint.crcs[chunk] if checkpoint.crcs is not None else stored_crc(read, length, where)
