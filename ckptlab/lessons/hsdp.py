"""Lesson 5: HSDP. Two copies: on which hosts, do they agree, and does a load bring back both?"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptlab.errors import CheckpointError
from ckptlab.explorer.held import held, listed
from ckptlab.explorer.scene import FILLED, HATCHED, NEUTRAL, OUTLINED, Key, Mark, Note, Panel, Scene, collect
from ckptlab.layout import Layout, Replicate
from ckptlab.lessons.ask import WAITING, Verdict, right, wrong
from ckptlab.lessons.small import TENSORS
from ckptlab.live.ranks import Ranks
from ckptlab.metadata import Tensor
from ckptlab.storage import open_checkpoint
from ckptlab.widgets.panels import card
from ckptlab.widgets.tensor import mesh_view
from ckptlab.widgets.view import SceneView, with_picture

if TYPE_CHECKING:
    from ckptlab.lessons.seeds import By

HSDP = Layout.parse("replicate=2, shard=2", "Replicate, Shard(0)")
TENSOR = Tensor("weight", "float32", (64, 8))
WEIGHT = TENSORS[2]

RANKS, HOST = 16, 4
"""Of the puzzle: ranks, and how many of them are on each host."""

TO_BEAT = 6
"""Shards that a rank gathers from other hosts, where the axes stand in the wrong order."""


def draw(layout: Layout, hosts: int) -> SceneView:
    """A mesh, its hosts of so many ranks each, and what each rank holds of `TENSOR`."""
    return mesh_view(layout, TENSOR, hosts)


def gathered(layout: Layout, rank: int, hosts: int) -> list[int]:
    """The ranks on other hosts whose shards a rank must gather, to have a whole copy of `TENSOR`."""
    where = layout.mesh.coordinate(rank)
    copies = [a for a, placement in enumerate(layout.placements) if isinstance(placement, Replicate)]
    return [
        other
        for other in layout.mesh.rank_list
        if other // hosts != rank // hosts
        and all(layout.mesh.coordinate(other)[axis] == where[axis] for axis in copies)
    ]


def model_runs(ranks: Ranks, path: str) -> Verdict:
    """Train, save, train on and load on real ranks, into HSDP and into FSDP; is all as it was saved?"""
    from ckptlab.lessons.seeds import model_round_trip

    said = []
    for fsdp in (False, True):
        out = ranks.run(model_round_trip, _fresh(path), "ckptlab", fsdp)
        every = [seen for found in out for seen in found.values()]
        if any(seen.before for seen in every) or not all(seen.after for seen in every):
            return wrong(f"after the load not all is as it was saved: {out}")
        said.append(f"{len(every) // len(out)} tensors on {len(out)} ranks into {'FSDP' if fsdp else 'HSDP'}")
    return right(f"{' and '.join(said)}: all changed before the load, all as saved after it.")


@dataclass(frozen=True, eq=False)
class AdamRun:
    """What a load of model and Adam state brought back, and a picture of one of Adam's tensors."""

    by: str
    model: tuple[int, int]
    adam: tuple[int, int]
    view: SceneView

    def __repr__(self) -> str:
        (model, models), (adam, adams) = self.model, self.adam
        return f"{self.by}: no error; model: {model} of {models} tensors right; Adam: {adam} of {adams} right"

    @property
    def verdict(self) -> Verdict:
        """Whether all came back."""
        return Verdict(self.model[0] == self.model[1] and self.adam[0] == self.adam[1], f"{self!r}.")

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle, _ = self.view._repr_mimebundle_(**kwargs)
        return {**with_picture(bundle, self.view.scene), "text/plain": f"{self!r}\n{self.view!r}"}


def adam_run(ranks: Ranks, path: str, by: By) -> AdamRun:
    """Save a model and its Adam state on real ranks under HSDP, and load both, by one engine."""
    from ckptlab.lessons.seeds import adam_round_trip

    out = ranks.run(adam_round_trip, _fresh(path), by)
    ok = {fqn: all(seen[fqn].after for seen, _ in out) for fqn in out[0][0]}
    model = [good for fqn, good in ok.items() if fqn.startswith("model.")]
    adam = [good for fqn, good in ok.items() if "exp_avg" in fqn]
    scene = rows_scene(by, [rows for _, rows in out])
    return AdamRun(by, (sum(model), len(model)), (sum(adam), len(adam)), SceneView(scene, hint=""))


def rows_scene(by: str, rows: Sequence[Sequence[int]]) -> Scene:
    """Which rows of Adam's tensor each rank should have under `HSDP`, and which it has.

    Of -1 there are zeros, of -2 other numbers.
    """
    shards = HSDP.shards((8, 5))
    boxes = [shards.of(rank).boxes[0] for rank in range(len(rows))]
    should = [list(range(box.offset[0], box.stop[0])) for box in boxes]
    panels = (
        _rows_panel("As it was saved", should, should),
        _rows_panel(f"As {by} loaded it", rows, should),
    )
    legend = (
        Key("colour: the first rank that should hold the row", 0, FILLED),
        Key("hatched: a row that should be elsewhere", 0, HATCHED),
        Key("hollow: of no row", NEUTRAL, OUTLINED),
    )
    every = sum(map(len, should))
    good = sum(a == b for pair in zip(rows, should, strict=True) for a, b in zip(*pair, strict=False))
    title = f"net1.weight's exp_avg: {good} of {every} rows are where they should be"
    lines = [
        f"  rank {rank} has rows {list(mine)}, should have {want}"
        for rank, (mine, want) in enumerate(zip(rows, should, strict=True))
    ]
    return Scene(title, panels, legend[: 3 if good < every else 1], "\n".join([title, *lines]))


def _rows_panel(title: str, rows: Sequence[Sequence[int]], should: Sequence[Sequence[int]]) -> Panel:
    marks, notes = [], []
    for rank, (mine, want) in enumerate(zip(rows, should, strict=True)):
        x = rank * 1.2
        notes.append(Note(x + 0.5, -0.1, f"rank {rank}"))
        for i, row in enumerate(mine):
            label = {-1: "zeros", -2: "other"}.get(row, f"row {row}")
            style = OUTLINED if row < 0 else FILLED if row == want[i] else HATCHED
            colour = NEUTRAL if row < 0 else row // len(want)
            facts = {"rank": f"{rank}", "has": label, "should have": f"row {want[i]}"}
            marks.append(Mark((x, i * 0.6, 1, 0.55), (rank,), colour, style, label, facts))
    height = max(map(len, rows)) * 0.6
    return Panel(
        title, "devices", title, "", 1.2 * len(rows), height, collect(marks), tuple(notes), rigid=True
    )


class Refused:
    """An error that is an answer: shown as such, not raised."""

    def __init__(self, error: CheckpointError) -> None:
        self.error = error

    def __repr__(self) -> str:
        return f"{type(self.error).__name__}: {self.error}"

    def _repr_html_(self) -> str:
        return card(self.error).replace("<details>", "<details open>")


def diverged(ranks: Ranks, path: str, by: By) -> Verdict | Refused:
    """Save `WEIGHT` while rank 0's copy of its first row is wrong and rank 2's is right."""
    from ckptlab.lessons.seeds import save_diverged

    whole = _fresh(path)
    try:
        ranks.run(save_diverged, whole, by, WEIGHT, HSDP, 0)
    except CheckpointError as error:
        return Refused(error)
    first = open_checkpoint(whole)[WEIGHT.fqn][0]
    said = ", ".join(f"{value:g}" for value in first[:4].tolist())
    return Verdict(None, f"{by} saved without a word. The first row in the file: {said} ...")


def check_hosts(answer: Layout | None) -> Verdict:
    """16 ranks, 4 a host: an eighth of `TENSOR` each, copies on different hosts, little between hosts."""
    if answer is None:
        return WAITING
    if problem := _unusable(answer):
        return wrong(problem)
    mine = held(answer, TENSOR.shape)
    for rows in mine.groups:
        ranks = mine.rank[rows].tolist()
        on = {rank // HOST for rank in ranks}
        box = mine.said[int(mine.content[rows[0]])]
        if len(on) == 1:
            return wrong(
                f"{listed(ranks)} hold {box} and nobody else does: if host {on.pop()} dies, it is gone."
            )
    most = max(len(gathered(answer, rank, HOST)) for rank in range(RANKS))
    if most >= TO_BEAT:
        return wrong(f"a rank gathers {most} of 8 shards from other hosts; that is no less than {TO_BEAT}.")
    return right(f"each rank gathers {most} of 8 shards from other hosts, and any one host may die.")


def _unusable(answer: Layout) -> str:
    """What makes it no layout for the puzzle; "" if it is one."""
    if sorted(answer.mesh.rank_list) != list(range(RANKS)):
        return f"{answer.mesh!r} has {answer.mesh.size} ranks; there are {RANKS}."
    try:
        shards = answer.shards(TENSOR.shape)
    except CheckpointError as error:
        return str(error)
    size = np.bincount(shards.rank, shards.boxes.numel, RANKS)
    eighth = TENSOR.shape[0] * TENSOR.shape[1] // 8
    if size.max() > eighth:
        rows = int(size.max()) // TENSOR.shape[1]
        return (
            f"rank {int(size.argmax())} has no room: it holds as much as {rows} rows, and 8 is all that fits."
        )
    if size.min() < eighth:
        return "there is but one copy of some of it: every rank should hold an eighth."
    return ""


def _fresh(path: str) -> str:
    whole = os.path.realpath(path)
    shutil.rmtree(whole, ignore_errors=True)
    return whole
