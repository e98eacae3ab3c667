"""Histograms: heights in the ratio of counts, and nothing that is there is lost."""

import numpy as np
import torch

from ckptlab import save
from ckptlab.explorer.histogram import HIGH, WIDE, values_scene
from ckptlab.explorer.values import values_of
from ckptlab.storage import open_checkpoint


def seen(tmp_path, tensor, **options):
    save({"w": tensor}, tmp_path / "c", no_dist=True)
    return values_of(open_checkpoint(tmp_path / "c")["w"], **options)


def facts(panel, mark):
    return {fact.label: fact.show(mark) for fact in panel.marks.facts}


def test_bars_are_as_high_as_their_counts_and_stand_on_one_line(tmp_path):
    values = seen(tmp_path, torch.tensor([0.0, 0.0, 0.1, 1.0, 1.0, 1.0, 1.0, torch.nan]), bins=4)
    (panel,) = values_scene(values).panels
    x, y, _, high = panel.marks.box.T
    np.testing.assert_allclose(high, [HIGH * 3 / 4, HIGH], rtol=1e-6)
    np.testing.assert_allclose(y + high, HIGH, rtol=1e-6)
    np.testing.assert_allclose(x / WIDE, [4 / 12, 7 / 12], rtol=1e-6)
    assert facts(panel, 0) == {"elements from": "0", "to": "0.25", "count": "3", "share": "42.86%"}
    assert "7 finite elements" in panel.caption
    below = [note for note in panel.notes if note.y > HIGH]
    assert [(note.text, round(note.x / WIDE, 3)) for note in below][:2] == [("0", 0.333), ("0.2", 0.4)]
    assert [note.text for note in panel.notes if note.x < 0] == ["1", "2", "3", "4"]


def test_one_of_a_million_is_still_seen_and_by_logarithms_it_is_high(tmp_path):
    tensor = torch.zeros(1_000_000)
    tensor[5] = 1.0
    values = seen(tmp_path, tensor, bins=2)
    low = values_scene(values).panels[0].marks.box[:, 3]
    high = values_scene(values, log=True).panels[0].marks.box[:, 3]
    assert low[1] == np.float32(HIGH / 150)
    np.testing.assert_allclose(high[1] / high[0], np.log(2) / np.log(1_000_000), rtol=1e-4)


def test_without_finite_elements_the_picture_says_so(tmp_path):
    (panel,) = values_scene(seen(tmp_path, torch.full((3,), torch.nan))).panels
    assert len(panel.marks) == 0
    assert panel.caption == "None of its 3 elements is finite."


def test_one_value_alone_is_told_below_its_bar(tmp_path):
    (panel,) = values_scene(seen(tmp_path, torch.full((3,), 7))).panels
    assert [(note.text, note.x) for note in panel.notes if note.y > HIGH] == [("7", WIDE / 2)]
