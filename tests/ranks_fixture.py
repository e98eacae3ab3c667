"""Real ranks for the tests: one warm pool of each size, shared by every room that needs ranks."""

from __future__ import annotations

import atexit
from functools import cache
from typing import Literal

import pytest

from ckptlab.live import LocalRanks, attached_gpus

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


_NOT_SHARED = (
    ": ranks that share one by gloo die in torch where it gathers DTensors (SIGSEGV in gloo::allgather: "
    "AsyncAllgatherCoalescedWork reads a GPU's memory as the CPU's, torch 2.11)"
)


def pool(world: int, device: Literal["cpu", "cuda"] = "cpu", shared: bool = False) -> LocalRanks:
    """`world` ranks, started at first use; skips without a GPU a rank, or without any to be `shared`."""
    needed = 1 if shared else world
    if device == "cuda" and attached_gpus() < needed:
        why = "" if shared or not attached_gpus() else _NOT_SHARED
        pytest.skip(f"needs {needed} NVIDIA GPUs or more; this machine shows {attached_gpus()}{why}")
    return _pool(world, device)


@cache
def _pool(world: int, device: Literal["cpu", "cuda"]) -> LocalRanks:
    ranks = LocalRanks(world, device)
    atexit.register(ranks.close)
    return ranks


@pytest.fixture
def ranks4() -> LocalRanks:
    """Four gloo ranks on the CPU."""
    return pool(4)
