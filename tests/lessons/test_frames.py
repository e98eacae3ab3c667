"""The plan of a save step by step is the plan of a save."""

import numpy as np
import pytest

from ckptlab.layout import Layout
from ckptlab.lessons.frames import frames, jobs, share_out, written
from ckptlab.lessons.small import TENSORS
from ckptlab.lessons.steps import steps
from ckptlab.metadata import Tensor
from ckptlab.plan.holding import holdings
from ckptlab.plan.save import plan_save

LAYOUTS = [
    ("replicate=2, shard=2", "Replicate, Shard(0)"),
    ("4", "Replicate"),
    ("4", "Shard(0)"),
    ("2x2", "Shard(1), Replicate"),
    ("2x2x2", "Replicate, Shard(0), Shard(1)"),
    ("3x3", "Shard(0), Replicate"),
]


@pytest.mark.parametrize(("mesh", "placements"), LAYOUTS)
@pytest.mark.parametrize("seed", range(6))
def test_it_is_the_real_plan(mesh, placements, seed):
    layout, draw = Layout.parse(mesh, placements), np.random.default_rng(seed)
    shapes = [(), (7,), (40, 6), (5, 5), (24, 24), (1, 3)]
    tensors = (
        list(TENSORS)
        if seed == 0
        else [
            Tensor(f"t{i}", str(draw.choice(["float32", "bfloat16"])), shapes[draw.integers(len(shapes))])
            for i in range(12)
        ]
    )
    held, world = holdings(tensors, layout), layout.mesh.size
    plan, chosen = plan_save(held, world), share_out(jobs(held), world)
    mine = {(c.job.row, c.job.box): c.writer for c in chosen}
    real = {
        (int(row), group.boxes[i]): int(group.writer[t, i])
        for group in plan.writes
        for t, row in enumerate(group.rows)
        for i in range(len(group.boxes))
    }
    assert mine == real
    busy = np.zeros(world, int)
    for choice in chosen:
        assert choice.busy == tuple(busy)
        busy[choice.writer] += choice.job.nbytes
    assert busy.tolist() == plan.bytes_by_rank.tolist()


def test_frames():
    layout = Layout.parse(*LAYOUTS[0])
    shown = frames(TENSORS[:4], layout)
    assert [frame.name for frame in shown] == ["proposed", "deduplicated", *["balanced"] * 8, "written"]
    assert "23,808 bytes" in shown[0].words
    assert "11,904 bytes" in shown[1].words
    first = shown[2].words
    assert first.startswith(
        "embed.weight[0:25, 0:24], 2,400 bytes, is on ranks 0 and 2. Rank 0 has 0, rank 2 has 0"
    )
    (files,) = shown[-1].scene.panels
    chunks = written(TENSORS[:4], layout)
    assert len(files.marks) == len(chunks) == 8
    assert {f.label for f in files.marks.facts} == {"box", "bytes", "held by", "at byte", "in the file"}


def test_steps_go_on_and_back():
    shown = steps(frames(TENSORS[:4], Layout.parse(*LAYOUTS[0])))
    assert shown.back.disabled
    shown.on.click()
    assert shown.view.scene is shown.frames[1].scene
    assert "deduplicated" in shown.words.value
    shown.slider.value = len(shown.frames)
    assert shown.on.disabled
    shown.back.click()
    assert shown.slider.value == len(shown.frames) - 1
    bundle = shown._repr_mimebundle_()
    assert "11. written: " in bundle["text/plain"]
    assert "image/png" in bundle
