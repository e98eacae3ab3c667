"""What a transform makes of whole stored tensors, by torch's own operations: the second way to the same.

Nothing of the plan's geometry is used, so that what was loaded can be judged by it. It reads no file.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from ckptlab.metadata import Tensor
from ckptlab.plan.part import Part, Ranges


def applied(parts: Iterable[tuple[Part, torch.Tensor]], wanted: Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The target that the parts fill, each with its whole stored tensor; and which of its elements they fill.

    Both are whole, on the CPU.
    """
    values = torch.zeros(wanted.shape, dtype=getattr(torch, wanted.dtype))
    known = torch.zeros(wanted.shape, dtype=torch.bool)
    for part, stored in parts:
        seen = stored if part.shape is None else stored.reshape(part.shape)
        seen = seen if part.dims is None else seen.permute(part.dims)
        taken = _cut(seen, part.stored)
        into = _cut(values, part.into)
        into.copy_(taken.reshape(into.shape))
        _cut(known, part.into).fill_(True)
    return values, known


def _cut(tensor: torch.Tensor, ranges: Ranges | None) -> torch.Tensor:
    """The elements in these ranges; a view, if the tensor is contiguous."""
    if ranges is None:
        return tensor
    if len(ranges) == 1 and tensor.ndim != 1:
        tensor = tensor.reshape(-1)
    for dim, (start, stop) in enumerate(ranges):
        tensor = tensor.narrow(dim, start, stop - start)
    return tensor
