"""Who reads from whom: every byte stands in one tile, however many ranks are put together."""

import numpy as np
import pytest
from hypothesis import given, settings
from plan_cases import layouts, tensors
from saved import hsdp_metadata

from ckptlab.explorer.matrix import MOST, flow, matrix_scene
from ckptlab.layout import Layout
from ckptlab.plan.forecast import forecast
from ckptlab.plan.holding import holdings
from ckptlab.plan.metadata_of import metadata_of


@settings(max_examples=100, deadline=None)
@given(tensors(), layouts(), layouts())
def test_the_flow_is_the_forecasts_matrix_put_together(some, source, target):
    saved = metadata_of(some, source)
    foretold = forecast(saved, holdings(some, target), target.mesh.size)
    for most in (2, 3, 100):
        for by in ("rank", "file"):
            seen = flow(saved, foretold, by, most)
            told = np.zeros(seen.nbytes.shape, int)
            for rank, row in enumerate(foretold.matrix):
                for file, nbytes in enumerate(row):
                    writer = saved.writers[file] if by == "rank" else file
                    told[seen.source_of[writer], seen.target_of[rank]] += nbytes
            assert seen.nbytes.tolist() == told.tolist()
            assert max(told.shape) <= most


def drawn(ranks, placements="Shard(0)", by="rank"):
    saved = hsdp_metadata()
    foretold = forecast(saved, holdings(saved.tensors, Layout.parse(str(ranks), placements)), ranks)
    return foretold, matrix_scene(saved, foretold, by)


@pytest.mark.parametrize("ranks", [1, 4, 100, 16384])
def test_tiles_are_few_and_tell_all_bytes(ranks):
    foretold, scene = drawn(ranks)
    panel = scene.panels[0]
    assert len(panel.marks) <= MOST * 4
    facts = {fact.label: fact for fact in panel.marks.facts}
    assert facts["bytes"].values.sum() == foretold.total
    assert set(panel.marks.ranks.tolist()) <= set(range(ranks))
    box = panel.marks.box
    assert (box[:, :2] >= 0).all()
    assert (box[:, 0] + box[:, 2]).max() <= panel.width + 1e-3
    assert (box[:, 1] + box[:, 3]).max() <= panel.height + 1e-3


def test_the_area_is_in_proportion_to_the_bytes_and_never_nothing():
    foretold, scene = drawn(4)
    marks = scene.panels[0].marks
    moved = next(fact.values for fact in marks.facts if fact.label == "bytes")
    area = marks.box[:, 2] * marks.box[:, 3]
    large = moved > moved.max() / 20
    assert np.allclose(area[large] / area.max(), moved[large] / moved.max(), rtol=1e-3)
    assert (area > area.max() * 0.04).all()
    assert foretold.total == moved.sum()


def test_tiles_say_from_whom_to_whom():
    _, scene = drawn(4)
    assert "rank 0 -> rank 1" in scene.text
    assert "rank 0 -> rank 3" not in scene.text
    _, scene = drawn(100)
    assert "3 ranks to a column" in scene.panels[0].caption
    assert {fact.label for fact in scene.panels[0].marks.facts} == {"from", "to", "bytes"}
    _, scene = drawn(4, by="file")
    assert scene.panels[0].caption.startswith("Down: files, 4.")
