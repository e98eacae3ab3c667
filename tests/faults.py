"""What the tests of faults ask of the answers that ranks give."""

from __future__ import annotations

import dataclasses

import torch
import torch.distributed.checkpoint as stock_dcp
from crosswise_ops import full
from seed_ops import quiet, same

import ckptlab

SOON = 5.0
"""Seconds: far more than any of this takes, far less than a collective's timeout."""


def agreed(failures):
    """The one failure that every rank raised, soon."""
    alike = {dataclasses.replace(f, seconds=0, untouched=True) for f in failures}
    assert alike == {dataclasses.replace(failures[0], seconds=0, untouched=True)}
    assert max(f.seconds for f in failures) < SOON
    return failures[0]


def whole(seed):
    """The small state as one process holds it."""
    tensors = {"rows": (4, 3), "copies": (5,), "plain": (2, 2)}
    return {**{fqn: full(f"{fqn} {seed}", shape) for fqn, shape in tensors.items()}, "step": seed}


def seed_there(path):
    """Which of the two states a path holds, whole, for stock DCP and for ckptlab."""
    found = []
    for load in (
        lambda state: ckptlab.load(state, path),
        lambda state: stock_dcp.load(state, checkpoint_id=path, no_dist=True),
    ):
        target = {k: torch.full_like(v, -3) if k != "step" else 0 for k, v in whole(1).items()}
        with quiet():
            load(target)
        equal = [s for s in (1, 2) if all(same(target[k], whole(s)[k]) for k in target if k != "step")]
        assert equal == [target["step"]], "a mix of two checkpoints"
        found.append(target["step"])
    assert found[0] == found[1]
    return found[0]
