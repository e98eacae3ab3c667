"""Lesson 4: loading elsewhere. How many bytes does each rank read, and in which layout should one save?"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from ckptlab.explorer.held import listed
from ckptlab.explorer.scenes import traffic_scene
from ckptlab.explorer.traffic import Ran
from ckptlab.explorer.whatif import foretell, tensor_scene
from ckptlab.layout import Layout
from ckptlab.lessons.ask import WAITING, Verdict, right, wrong
from ckptlab.live.ops import reshard
from ckptlab.live.ranks import Context, Ranks
from ckptlab.metadata import Tensor
from ckptlab.plan.metadata_of import metadata_of
from ckptlab.storage import Checkpoint
from ckptlab.widgets.view import SceneView, with_picture

WEIGHT = Tensor("layers.0.wq.weight", "float32", (512, 512))
"""One matrix of 1 MiB."""

FSDP = Layout.parse("shard=4", "Shard(0)")
TP = Layout.parse("tp=4", "Shard(1)")
TILES = Layout.parse("2x2", "Shard(0), Shard(1)")
ALONE = Layout.parse("rank=1", "Replicate")

BEST = 4.0
"""Times the matrix that stock DCP reads at best, to load it once as `FSDP` and once as `TP`."""


def draw(checkpoint: Checkpoint, target: Layout) -> SceneView:
    """The matrix as it is stored, and as a target would have it."""
    return SceneView(tensor_scene(checkpoint.metadata, WEIGHT.fqn, target))


@dataclass(frozen=True, eq=False)
class Loaded:
    """A load on real ranks: bytes foretold and bytes read of each, and whether all elements are right."""

    view: SceneView
    foretold: tuple[int, ...]
    read: tuple[int, ...]
    equal: bool

    def __repr__(self) -> str:
        same = "as foretold" if self.foretold == self.read else f"but {self.foretold} were foretold"
        return (
            f"read {list(self.read)} bytes, {same}; {'all' if self.equal else 'NOT all'} elements are right"
        )

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle, _ = self.view._repr_mimebundle_(**kwargs)
        return {**with_picture(bundle, self.view.scene), "text/plain": f"{self!r}\n{self.view!r}"}


def load(ranks: Ranks, checkpoint: Checkpoint, target: Layout) -> Loaded:
    """Load the checkpoint on real ranks by ckptlab, and compare every element with what is stored."""
    path, foretold = os.path.realpath(checkpoint.path), foretell(checkpoint.metadata, target)
    if target.mesh.size == 1:
        told = [Ran(0, "done", *ranks.run(load_alone, path)[0])]
    else:
        out = ranks.run(reshard, path, target)
        told = [Ran(o.rank, "done", o.nbytes, sum(o.seconds.values()), o.equal) for o in out]
    view = SceneView(traffic_scene(foretold, told), hint="")
    wanted = tuple(foretold.bytes_by_rank.tolist())
    return Loaded(view, wanted, tuple(ran.nbytes for ran in told), all(ran.equal for ran in told))


def load_alone(context: Context, path: str) -> tuple[int, float, bool]:
    """Rank 0 loads the whole matrix by itself: bytes, seconds, whether it is right. The others look on."""
    import torch

    from ckptlab import engine

    if context.rank:
        return 0, 0.0, True
    state = {WEIGHT.fqn: torch.full(WEIGHT.shape, float("nan"), device=context.device)}
    report = engine.load(state, path, no_dist=True)
    verdict = engine.verify_loaded(state, path, no_dist=True)
    return report.nbytes, sum(report.seconds.values()), not verdict.different


def load_by_stock(ranks: Ranks, checkpoint: Checkpoint, target: Layout) -> list[int]:
    """Load the checkpoint on real ranks by stock DCP; the bytes that each read off the data files."""
    from ckptlab.lessons.stock import load_by_stock as op

    out = ranks.run(op, os.path.realpath(checkpoint.path), target, (WEIGHT,))
    assert all(is_right for _, is_right in out)
    return [nbytes for nbytes, _ in out]


def check_layout(answer: Layout | None) -> Verdict:
    """Four ranks save once; stock DCP then loads it as `FSDP` and as `TP`, and reads as little as can be."""
    if answer is None:
        return WAITING
    if sorted(answer.mesh.rank_list) != [0, 1, 2, 3]:
        return wrong(f"{answer.mesh!r} has {listed(answer.mesh.rank_list)}; ranks 0 to 3 save.")
    saved = metadata_of([WEIGHT], answer)
    times = {
        name: int(foretell(saved, target).stock.sum()) / WEIGHT.nbytes
        for name, target in (("FSDP", FSDP), ("TP", TP))
    }
    both = sum(times.values())
    said = f"{times['FSDP']:g} MiB for FSDP and {times['TP']:g} MiB for TP, {both:g} MiB in all"
    if both <= BEST:
        return right(f"stock DCP reads {said}. No layout of four ranks does better. (ckptlab reads 2 MiB.)")
    chunks = saved.boxes(0)
    shape = " x ".join(map(str, chunks.shapes[0].tolist()))
    return wrong(f"stock DCP reads {said}. It reads chunks whole, and yours are {shape}: {_across(times)}.")


def _across(times: dict[str, float]) -> str:
    worse = max(times, key=lambda name: times[name])
    wants = {"FSDP": "128 x 512", "TP": "512 x 128"}[worse]
    return f"a rank of {worse} wants {wants}"
