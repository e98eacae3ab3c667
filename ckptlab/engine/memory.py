"""The bytes of torch tensors, without a copy where there need not be one.

It knows no files, no plans and no other rank.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Bytes = npt.NDArray[np.uint8]

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.complex128}


def memory_of(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, writable, without a copy."""
    assert tensor.is_contiguous()
    flat = tensor.detach() if tensor.requires_grad else tensor
    # A dim of one element may have any stride, and bytes need one of 1.
    if flat.numel() < 2 or flat.stride(-1) != 1:
        flat = flat.as_strided((flat.numel(),), (1,))
    return flat.view(torch.uint8).numpy().data.cast("B")


def on_cpu(tensor: torch.Tensor) -> torch.Tensor:
    """The elements as one contiguous piece of CPU memory: the tensor's own where that is so already."""
    return tensor.detach().resolve_conj().resolve_neg().to("cpu").contiguous()


def finish(tensors: Iterable[torch.Tensor]) -> None:
    """Wait for what the caller's streams still do on these tensors' GPUs: other threads will touch them."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return
    for gpu in {tensor.device for tensor in tensors if tensor.is_cuda}:
        torch.cuda.current_stream(gpu).synchronize()


def bits_of(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """A CPU tensor of any dtype and strides as numpy sees its bits."""
    array: npt.NDArray[Any] = tensor.detach().view(_BITS[tensor.element_size()]).numpy()
    return array


def tensors_of(
    rows: Bytes, dtype: str, shape: tuple[int, ...], device: torch.device | str = "cpu"
) -> list[torch.Tensor]:
    """One contiguous tensor a row of bytes, `(n, nbytes)`; they share memory, on the CPU that of the rows."""
    flat = torch.from_numpy(rows).to(device).view(getattr(torch, dtype))
    return list(flat.reshape(len(rows), *shape).unbind(0))
