"""Tensors of every dtype, with elements that no two places share by chance; and their bytes."""

import math

import torch

from ckptlab.metadata import ITEMSIZE

TORCH_DTYPES = {name: getattr(torch, name) for name in ITEMSIZE}


def made(dtype, shape, seed=0):
    """A tensor of these random bits (bools are 0 or 1)."""
    size = ITEMSIZE[dtype]
    generator = torch.Generator().manual_seed(seed)
    high = 2 if dtype == "bool" else 256
    raw = torch.randint(0, high, (math.prod(shape) * size,), dtype=torch.uint8, generator=generator)
    return raw.view(TORCH_DTYPES[dtype]).reshape(shape)


def as_bytes(tensor):
    """The elements in row-major order."""
    # A fresh one: contiguous() keeps odd strides of dims of size 1.
    flat = torch.empty(tensor.numel(), dtype=tensor.dtype)
    return flat.copy_(tensor.detach().reshape(-1)).view(torch.uint8).numpy().tobytes()


def same_bits(a, b):
    """Whether two states (nested dicts, lists and values) are the same, tensors bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and (a.dtype, a.shape, as_bytes(a)) == (
            b.dtype,
            b.shape,
            as_bytes(b),
        )
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same_bits(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same_bits, a, b))
    return type(a) is type(b) and a == b
