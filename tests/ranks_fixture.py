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
    """`world` ranks, started at first use; skips where there are not so many GPUs."""
    if device == "cuda" and attached_gpus() < world:
        pytest.skip(f"needs {world} GPUs, one a rank; this machine shows {attached_gpus()}")
    ranks = LocalRanks(world, device)
    atexit.register(ranks.close)
    return ranks


@pytest.fixture
def ranks4() -> LocalRanks:
    """Four gloo ranks on the CPU."""
    return pool(4)
