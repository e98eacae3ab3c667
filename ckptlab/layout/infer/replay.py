"""Whether writers were chosen as stock DCP chooses among ranks that hold the same.

Stock goes through the boxes in the order of the lowest rank that holds each, then of the state,
and gives each to the holder that has least so far, a tensor counted with all of its bytes each time
(`dedup_save_plans`). Who wrote is known, so every choice can be judged by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ckptlab.layout.box import Ints
from ckptlab.layout.infer.fit import Fit, Grid

_MOST = 20_000
"""So many choices are judged: the first."""


@dataclass(frozen=True)
class Replayed:
    """Choices among several holders: how many were judged, and how many fell on the least busy one.

    `lowest` counts those that fell on the lowest rank, as older versions and one option have it.
    """

    judged: int
    busy: int
    lowest: int


def replay(fits: Sequence[Fit], grid: Grid, nbytes: Ints, slack: int = 0) -> Replayed:
    """Judge the writers of all boxes; `nbytes` are those of each whole tensor, by row.

    `slack`: bytes by which the order of loads may be off, one for each object, whose place in the
    state is not known.
    """
    holders, first, columns = _columns(fits, grid)
    group, writer, row = columns
    order = np.lexsort((row, first[group]))[:_MOST]
    load = np.zeros(len(grid.ranks), np.int64)
    judged = busy = lowest = 0
    for g, w, r in zip(group[order].tolist(), writer[order].tolist(), row[order].tolist(), strict=True):
        held = holders[g]
        if len(held) > 1:
            judged += 1
            busy += bool(load[w] <= load[held].min() + slack)
            lowest += bool(w == held[0])
        load[w] += max(int(nbytes[r]), 1)
    return Replayed(judged, busy, lowest)


def _columns(fits: Sequence[Fit], grid: Grid) -> tuple[list[Ints], Ints, tuple[Ints, Ints, Ints]]:
    """Groups of holders, the first of each; and for each written box its group, writer and tensor."""
    holders: list[Ints] = []
    group, writer, row = ([np.zeros(0, np.int64)] for _ in range(3))
    for fit in fits:
        for number, option in enumerate(fit.options):
            chosen = np.flatnonzero((fit.choice == number) & (fit.wrong == 0))
            if not len(chosen):
                continue
            order = np.argsort(option.hold, kind="stable")
            bounds = np.searchsorted(option.hold[order], np.arange(int(np.prod(fit.kind.counts)) + 1))
            writers = grid.places(fit.kind.writers[chosen])
            known = fit.kind.writers[chosen] >= 0
            group.append((len(holders) + np.broadcast_to(fit.kind.cell, known.shape))[known])
            writer.append(writers[known])
            row.append(
                np.broadcast_to(np.array(fit.kind.rows, np.int64)[chosen][:, None], known.shape)[known]
            )
            holders += [order[a:b] for a, b in pairwise(bounds.tolist())]
    first = np.array([held[0] for held in holders], np.int64)
    return holders, first, (np.concatenate(group), np.concatenate(writer), np.concatenate(row))
