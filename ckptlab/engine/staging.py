"""What a rank offers to a save, copied into CPU memory of its own: training may go on.

The copies are kept and filled again by the next save. It knows plain memory only: not how a
tensor is sharded, nor who else holds it, nor where it will be written.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from ckptlab.engine.agree import Offer

Kind = tuple[torch.dtype, torch.Size, bool]
"""What a buffer is for: elements of a dtype, in a shape; and whether it is pinned."""


@dataclass(eq=False)
class Stage:
    """Buffers for the copy of one state; a save of the same shapes and dtypes fills the same ones again.

    A buffer that a save did not need is let go. Memory of a GPU is copied into pinned buffers. What
    `copy` gave is good until the next `copy`.
    """

    _buffers: dict[Kind, list[torch.Tensor]] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers."""
        return sum(buffer.nbytes for buffers in self._buffers.values() for buffer in buffers)

    def copy(self, mine: Offer) -> Offer:
        """The same offer, with all elements in these buffers; done when it returns.

        Tensors that are the same memory are copied once. Raises what torch raises for a tensor that has
        no memory (of the meta device).
        """
        copying = _Copying(self._buffers)
        self._buffers = copying.used
        held = {
            fqn: replace(one, memory=tuple(map(copying.copy_of, one.memory)))
            for fqn, one in mine.held.items()
        }
        copying.run()
        return replace(mine, held=held)


class _Copying:
    """One filling of the buffers: first every tensor gets its own, then all are copied."""

    def __init__(self, spare: dict[Kind, list[torch.Tensor]]) -> None:
        self.used: dict[Kind, list[torch.Tensor]] = {}
        self._spare = spare
        self._copies: dict[tuple[object, ...], torch.Tensor] = {}
        self._from: list[torch.Tensor] = []

    def copy_of(self, tensor: torch.Tensor) -> torch.Tensor:
        """Where the elements will be."""
        if tensor.is_contiguous():
            return self._dense(tensor)
        # A transposed matrix is copied in the order of its memory: one run, and maybe another's alias.
        order = sorted(range(tensor.ndim), key=lambda dim: -tensor.stride()[dim])
        dense = self._dense(tensor.permute(order))
        return dense.permute(sorted(range(tensor.ndim), key=order.__getitem__))

    def run(self) -> None:
        """Copy all; return when that is done."""
        if self._from:
            torch._foreach_copy_(list(self._copies.values()), self._from, non_blocking=True)
        for device in {tensor.device for tensor in self._from if tensor.is_cuda}:
            torch.cuda.current_stream(device).synchronize()

    def _dense(self, tensor: torch.Tensor) -> torch.Tensor:
        place = (tensor.data_ptr(), tensor.device, tensor.shape, tensor.stride())
        key = (place, tensor.dtype, tensor.is_conj(), tensor.is_neg())
        copy = self._copies.get(key)
        if copy is None:
            copy = self._copies[key] = self._buffer((tensor.dtype, tensor.shape, tensor.is_cuda))
            self._from.append(tensor)
        return copy

    def _buffer(self, kind: Kind) -> torch.Tensor:
        dtype, shape, pinned = kind
        if spare := self._spare.get(kind):
            buffer = spare.pop()
        else:
            # By bytes: torch warns of making complex32.
            raw = torch.empty(shape.numel() * dtype.itemsize, dtype=torch.uint8, pin_memory=pinned)
            buffer = raw.view(dtype).view(shape)
        self.used.setdefault(kind, []).append(buffer)
        return buffer
