"""What a rank offers to a save, copied into CPU memory of its own: training may go on.

The copies are kept and filled again by the next save. It knows plain memory only: not how a
tensor is sharded, nor who else holds it, nor where it will be written.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch

from ckptlab.engine.agree import Offer

Kind = tuple[int, bool]
"""Bytes of a buffer, and whether it is pinned."""


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
        return sum(nbytes * len(buffers) for (nbytes, _), buffers in self._buffers.items())

    def copy(self, mine: Offer) -> Offer:
        """The same offer, with all elements in these buffers; done when it returns.

        Tensors that are the same memory are copied once. Raises what torch raises for a tensor that has
        no memory (of the meta device).
        """
        spare, self._buffers = self._buffers, {}
        copies: dict[tuple[object, ...], torch.Tensor] = {}
        held = {}
        for fqn, one in mine.held.items():
            held[fqn] = replace(one, memory=tuple(self._copied(t, spare, copies) for t in one.memory))
        _wait(t.device for one in mine.held.values() for t in one.memory)
        return replace(mine, held=held)

    def _copied(
        self,
        tensor: torch.Tensor,
        spare: dict[Kind, list[torch.Tensor]],
        copies: dict[tuple[object, ...], torch.Tensor],
    ) -> torch.Tensor:
        # A transposed matrix is copied in the order of its memory: one run, and maybe another's alias.
        order = sorted(range(tensor.ndim), key=lambda dim: -tensor.stride()[dim])
        dense = tensor.permute(order)
        place = (dense.device, dense.data_ptr(), dense.shape, dense.stride())
        key = (*place, dense.dtype, dense.is_conj(), dense.is_neg())
        if key not in copies:
            buffer = self._buffer((dense.numel() * dense.element_size(), dense.device.type == "cuda"), spare)
            copies[key] = buffer.view(dense.dtype).view(dense.shape)
            copies[key].copy_(dense, non_blocking=True)
        return copies[key].permute(sorted(range(tensor.ndim), key=order.__getitem__))

    def _buffer(self, kind: Kind, spare: dict[Kind, list[torch.Tensor]]) -> torch.Tensor:
        nbytes, pinned = kind
        if spare.get(kind):
            buffer = spare[kind].pop()
        else:
            buffer = torch.empty(nbytes, dtype=torch.uint8, pin_memory=pinned)
        self._buffers.setdefault(kind, []).append(buffer)
        return buffer


def _wait(devices: Iterable[torch.device]) -> None:
    """Until what was queued on these devices is done."""
    for device in {device for device in devices if device.type == "cuda"}:
        torch.cuda.current_stream(device).synchronize()
