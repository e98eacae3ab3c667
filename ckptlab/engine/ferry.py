"""Memory of a GPU on its way to a file and back: through one small piece of pinned memory, part after part.

Pinned memory is what a GPU copies from and to at full speed, and it is kept by torch for the next time.
It knows no files, no plans and no other rank.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ckptlab.engine.memory import memory_of, on_cpu
from ckptlab.storage.crc import crc32

PART = 8 << 20
"""Bytes of that memory: many enough that waiting for the GPU costs nothing, few enough to stay in a cache."""


def fetched(tensor: torch.Tensor) -> Iterator[memoryview]:
    """The bytes of a tensor's elements in their order; a GPU's are good until the next are asked for."""
    return parts(tensor) if tensor.is_cuda else iter((memory_of(on_cpu(tensor)),))


def parts(tensor: torch.Tensor) -> Iterator[memoryview]:
    """As `fetched`, through pinned memory wherever they are."""
    source = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
    pinned = _pinned()
    for part in torch.split(source, PART):
        here = pinned[: len(part)]
        here.copy_(part)
        yield memory_of(here)


def crc_of(tensor: torch.Tensor) -> int:
    """The crc32 of a tensor's elements."""
    crc = 0
    for memory in fetched(tensor):
        crc = crc32(memory, crc)
    return crc


def brought(into: torch.Tensor, dtype: torch.dtype) -> Iterator[torch.Tensor]:
    """CPU tensors of `dtype` to be filled, one after the other: parts of a GPU's tensor, along its first dim.

    What one was filled with is on the GPU when the next is asked for. `into` has a dim, and elements.
    """
    row = into[0].numel() * dtype.itemsize
    # Pinned memory is kept, so of a row that is too large for it none is made.
    memory = _pinned() if row <= PART else torch.empty(row, dtype=torch.uint8)
    for part in torch.split(into, max(1, PART // row)):
        here = memory[: len(part) * row].view(dtype).view(part.shape)
        yield here
        part.copy_(here)


def _pinned() -> torch.Tensor:
    return torch.empty(PART, dtype=torch.uint8, pin_memory=True)
