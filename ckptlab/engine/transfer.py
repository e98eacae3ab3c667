"""The copies: from chunks in files into a rank's own memory, and back.

Only the bytes wanted, straight into the target where its memory allows. Every byte asked of
storage is counted. It makes no plan and talks to no other rank.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ckptlab.errors import CorruptError, UnsafeError
from ckptlab.events import Trace
from ckptlab.layout import Box
from ckptlab.metadata import Metadata
from ckptlab.plan.load import Reads
from ckptlab.storage.checkpoint import Checkpoint
from ckptlab.storage.files import Files
from ckptlab.storage.template import crc32
from ckptlab.storage.torch_save import Payload, locate, stored_crc

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.complex128}


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


@dataclass(eq=False)
class Source:
    """Chunks of one checkpoint, ready to be read; use as a context manager."""

    checkpoint: Checkpoint
    trace: Trace
    counts: Counts = field(default_factory=Counts)
    _open: ExitStack = field(default_factory=ExitStack)
    _views: dict[str, memoryview] = field(default_factory=dict)
    _found: dict[int, Payload] = field(default_factory=dict)
    _decoded: dict[int, torch.Tensor] = field(default_factory=dict)
    _sound: set[int] = field(default_factory=set)

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
        self._views.clear()
        self._open.close()

    def find(self, reads: Reads) -> None:
        """Look at the wrapping of every chunk that will be read, before a byte of the target changes."""
        boxes = self.metadata.boxes(reads.row)
        tensor = self.metadata.tensors[reads.row]
        first = int(self.metadata.chunks.first[reads.row])
        for chunk in np.unique(reads.chunk).tolist():
            if self.checkpoint.payloads is not None:
                self._found[chunk] = self.checkpoint.payloads[chunk]
                continue
            shape = tuple(boxes.shapes[chunk - first].tolist())
            length = int(self.metadata.chunks.length[chunk])
            where = self._where(reads.row, chunk)
            try:
                self._found[chunk] = locate(self._peek(chunk), length, tensor.dtype, shape, where)
            except (CorruptError, UnsafeError) as error:
                self._decoded[chunk] = self._decode(chunk, tensor.dtype, shape, error)

    def read(self, reads: Reads, i: int, into: torch.Tensor, verify: bool = False) -> None:
        """Fill `into`, whose shape is that of read i.

        A whole chunk is checked against its stored crc, a part of one only to `verify`.
        """
        chunk = int(reads.chunk[i])
        box = reads.source_box(i)
        if chunk in self._decoded:
            into.copy_(self._decoded[chunk][box.slices])
            self._count(box.numel * reads.itemsize)
            return
        payload = self._found[chunk]
        direct = into.device.type == "cpu" and str(into.dtype) == f"torch.{payload.dtype}"
        target = into if direct else torch.empty(box.shape, dtype=getattr(torch, payload.dtype))
        run = _run(payload, box)
        self._copy(chunk, payload, box, run, target)
        nbytes = box.numel * reads.itemsize
        whole = nbytes == payload.nbytes and run == 0
        if (whole or verify) and self.checkpoint.payloads is None:
            self._check(reads.row, chunk, payload, target if whole and target.is_contiguous() else None)
        if not direct:
            into.copy_(target)
        self._count(nbytes)

    def _count(self, nbytes: int) -> None:
        self.counts.nbytes += nbytes
        self.counts.reads += 1
        self.trace.moved(nbytes)

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

    def _copy(self, chunk: int, payload: Payload, box: Box, run: int | None, target: torch.Tensor) -> None:
        size = target.element_size()
        name, base = self._place(chunk)
        if run is not None and target.is_contiguous():
            self.files.read_into(name, base + payload.start + run * size, memory_of(target))
            return
        view = self._view(name)
        kind = _bits(target).dtype
        source: npt.NDArray[Any] = np.ndarray(
            payload.shape,
            kind,
            view,
            base + payload.start + payload.storage_offset * size,
            tuple(s * size for s in payload.strides),
        )
        np.copyto(_bits(target), source[box.slices])

    def _check(self, row: int, chunk: int, payload: Payload, loaded: torch.Tensor | None) -> None:
        """Compare a chunk's bytes with the crc that its writer stored."""
        if payload.nbytes == 0 or chunk in self._sound:
            return
        self._sound.add(chunk)
        name, base = self._place(chunk)
        start = base + payload.start
        if loaded is None:
            data = self._view(name)[start : start + payload.nbytes]
            self.counts.header_bytes += payload.nbytes
        else:
            data = memory_of(loaded)
        expected = stored_crc(
            self._peek(chunk), int(self.metadata.chunks.length[chunk]), self._where(row, chunk)
        )
        found = crc32(data)
        self.counts.checked += 1
        # A writer that computes no crc (an option of torch.save) leaves a zero.
        if found != expected and expected != 0:
            raise CorruptError(
                f"{self._where(row, chunk)}: its bytes have crc {found:08x}, but {expected:08x} was stored "
                "with them; the file is damaged, and what was loaded from it is wrong",
                [chunk],
            )

    def _peek(self, chunk: int) -> Callable[[int, int], bytes]:
        name, base = self._place(chunk)

        def read(offset: int, n: int) -> bytes:
            self.counts.header_bytes += n
            return self.files.read(name, base + offset, n)

        return read

    def _place(self, chunk: int) -> tuple[str, int]:
        chunks = self.metadata.chunks
        return self.metadata.files[chunks.file[chunk]], int(chunks.start[chunk])

    def _where(self, row: int, chunk: int) -> str:
        name, base = self._place(chunk)
        first = int(self.metadata.chunks.first[row])
        box = self.metadata.boxes(row)[chunk - first]
        fqn = self.metadata.tensors[row].fqn
        return f"chunk {box} of tensor {fqn!r}, at byte {base} of {self.files.root}/{name}"

    def _view(self, name: str) -> memoryview:
        if name not in self._views:
            self._views[name] = self._open.enter_context(self.files.view(name))
        return self._views[name]


def memory_of(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, writable, without a copy."""
    assert tensor.is_contiguous()
    # A single element counts as contiguous whatever its strides are; its bytes need one of 1.
    return tensor.detach().as_strided((tensor.numel(),), (1,)).view(torch.uint8).numpy().data


def on_cpu(tensor: torch.Tensor) -> torch.Tensor:
    """The elements as one contiguous piece of CPU memory: the tensor's own where that is so already."""
    return tensor.detach().resolve_conj().resolve_neg().to("cpu").contiguous()


def chunk_buffers(before: bytes, payload: torch.Tensor, after: Callable[[int], bytes]) -> Sequence[Any]:
    """The three pieces of a chunk as it is written: wrapping, elements, wrapping with their crc."""
    memory = memory_of(payload)
    return [before, memory, after(crc32(memory))]


def _bits(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """A CPU tensor of any dtype and strides as numpy sees its bits."""
    array: npt.NDArray[Any] = tensor.detach().view(_BITS[tensor.element_size()]).numpy()
    return array


def _run(payload: Payload, box: Box) -> int | None:
    """Where the box begins in the chunk's storage if it is one run of elements there, else None."""
    expected = 1
    for n, stride in zip(reversed(box.shape), reversed(payload.strides), strict=True):
        if n != 1 and stride != expected:
            return None
        expected *= n
    return payload.storage_offset + sum(o * s for o, s in zip(box.offset, payload.strides, strict=True))
