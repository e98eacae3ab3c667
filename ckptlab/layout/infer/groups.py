"""Ranks that share no tensor: groups of several sizes, each with a mesh of its own.

Pipeline stages may have meshes that differ; no single mesh explains them. It knows no placements.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ckptlab.layout.box import Ints
from ckptlab.layout.infer.pieces import Kind


def groups(found: Sequence[Kind], seen: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """The ranks parted so that all who wrote pieces of one tensor stand together, largest group first.

    One group if some piece has no known writer.
    """
    if len(seen) < 2 or any((kind.writers < 0).any() for kind in found):
        return (tuple(seen),)
    label = np.arange(max(seen) + 1)
    while _joined(found, label):
        pass
    parted: dict[int, list[int]] = {}
    for rank in seen:
        parted.setdefault(int(label[rank]), []).append(rank)
    return tuple(sorted(map(tuple, parted.values()), key=len, reverse=True))


def _joined(found: Sequence[Kind], label: Ints) -> bool:
    """Give the writers of each tensor the lowest label among them; whether any changed."""
    before = label.copy()
    for kind in found:
        if kind.writers.shape[1] > 1:
            low = label[kind.writers].min(axis=1, keepdims=True)
            np.minimum.at(label, kind.writers, np.broadcast_to(low, kind.writers.shape))
    return not np.array_equal(before, label)
