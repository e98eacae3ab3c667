"""What a rank offers to a save, copied into CPU memory of its own: training may go on.

The memory is kept and filled again by the next save. It knows plain memory only: not how a
tensor is sharded, nor who else holds it, nor where it will be written.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ckptlab.engine.agree import Offer
from ckptlab.engine.memory import Bytes

_ALIGNED = 64
_PORTABLE = 1


@dataclass(eq=False)
class Stage:
    """CPU memory for the copy of one state; a save of the same size, or a little less, fills it again.

    It is pinned if any of the state is in memory of a GPU. What `copy` gave is good until the next `copy`.
    """

    _slab: _Slab | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of that memory."""
        return self._slab.nbytes if self._slab else 0

    def copy(self, mine: Offer) -> Offer:
        """The same offer, with all elements in this memory; done when it returns.

        Tensors that are the same memory are copied once. Raises what torch raises for a tensor that has
        no memory (of the meta device), and where the driver refuses to pin so much.
        """
        found: dict[tuple[object, ...], int] = {}
        sources: list[torch.Tensor] = []
        placed: list[list[tuple[int, list[int]]]] = []
        for memory in mine.held.memory:
            places = []
            for tensor in memory:
                source, back = _in_order(tensor)
                at = found.setdefault(_identity(source), len(sources))
                if at == len(sources):
                    sources.append(source)
                places.append((at, back))
            placed.append(places)
        copies = self._copies(sources)
        staged = [
            tuple(copies[at].permute(back) if back else copies[at] for at, back in places)
            for places in placed
        ]
        return replace(mine, held=replace(mine.held, memory=staged))

    def _copies(self, sources: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        if not sources:
            self._slab = None
            return ()
        gpus = {source.device for source in sources if source.is_cuda}
        kinds = [(source.dtype, source.shape) for source in sources]
        nbytes = sum(map(_room, kinds))
        if self._slab is None or not self._slab.suits(nbytes, bool(gpus)):
            self._slab = None  # let go of first: two may be more than there is
            self._slab = _Slab(nbytes, next(iter(gpus), None))
        copies = self._slab.cut(kinds)
        # From a GPU to pinned memory this only queues the copies. A bit that says "conjugate" or "negative"
        # would be worked off on the CPU, in elements that are still to come.
        sources = [source.resolve_conj().resolve_neg() for source in sources] if gpus else sources
        torch._foreach_copy_(list(copies), list(sources), non_blocking=bool(gpus))
        for gpu in gpus:
            torch.cuda.current_stream(gpu).synchronize()
        return copies


Kind = tuple[torch.dtype, torch.Size]


def _room(kind: Kind) -> int:
    dtype, shape = kind
    return -(-shape.numel() * dtype.itemsize // _ALIGNED) * _ALIGNED


def _in_order(tensor: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
    """The elements in the order of their memory, and how to permute them back; no order if they are so.

    So a transposed matrix is copied as one run, and maybe it is another's alias.
    """
    if tensor.is_contiguous():
        return tensor, []
    order = sorted(range(tensor.ndim), key=lambda dim: -tensor.stride()[dim])
    return tensor.permute(order), sorted(range(tensor.ndim), key=order.__getitem__)


def _identity(tensor: torch.Tensor) -> tuple[object, ...]:
    """The same for tensors that are the same elements."""
    place = (tensor.data_ptr(), tensor.device, tensor.shape, tensor.stride())
    return place, tensor.dtype, tensor.is_conj(), tensor.is_neg()


class _Slab:
    """One piece of CPU memory, pinned for the sake of `gpu` if there is one, cut into tensors.

    torch's own pinned memory is rounded up to a power of two, and is never given back.
    """

    def __init__(self, nbytes: int, gpu: torch.device | None) -> None:
        # numpy asks the system for huge pages, by which new memory is there several times sooner.
        array = np.empty(max(1, nbytes), np.uint8)
        if gpu is not None:
            _pin(array, gpu)
        self.nbytes, self._pinned = nbytes, gpu is not None
        self._raw = torch.from_numpy(array)
        self._kinds: Sequence[Kind] = ()
        self._tensors: Sequence[torch.Tensor] = ()

    def suits(self, nbytes: int, pinned: bool) -> bool:
        """Whether so much goes in, most of it is needed, and it is pinned if that is asked for."""
        return pinned == self._pinned and self.nbytes * 3 // 4 <= nbytes <= self.nbytes

    def cut(self, kinds: Sequence[Kind]) -> Sequence[torch.Tensor]:
        """A contiguous tensor of each kind; those of last time if the kinds are the same."""
        if kinds != self._kinds:
            self._kinds, tensors, at = kinds, [], 0
            for dtype, shape in kinds:
                one = self._raw[at : at + shape.numel() * dtype.itemsize]
                tensors.append(one.view(dtype).view(shape))
                at += _room((dtype, shape))
            self._tensors = tensors
        return self._tensors


def _pin(array: Bytes, gpu: torch.device) -> None:
    """Pin memory until it is freed."""
    runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    start = array.ctypes.data
    # Asked on the rank's own GPU: the CUDA of this process would else begin on the first one, too.
    with torch.cuda.device(gpu):
        torch.cuda.check_error(int(runtime.cudaHostRegister(start, array.nbytes, _PORTABLE)))
    # Not at exit: by then CUDA is gone, and so will be the memory.
    weakref.finalize(array, runtime.cudaHostUnregister, start).atexit = False
