"""Real ranks for the tests: one warm pool of each size, shared by every room that needs ranks."""

from __future__ import annotations

import atexit
from functools import cache
from typing import Literal

import pytest

from ckptlab.live import LocalRanks, attached_gpus

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@cache
def pool(world: int, device: Literal["cpu", "cuda"] = "cpu") -> LocalRanks:
    """`world` ranks, started at first use; GPUs they share if need be. Skips without a GPU for "cuda"."""
    if device == "cuda" and not attached_gpus():
        pytest.skip("needs an NVIDIA GPU, which this machine has not")
    ranks = LocalRanks(world, device)
    atexit.register(ranks.close)
    return ranks


@pytest.fixture
def ranks4() -> LocalRanks:
    """Four gloo ranks on the CPU."""
    return pool(4)
