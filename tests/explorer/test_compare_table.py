"""The table of a comparison: what differs first, all on demand, what a query finds, as CSV."""

import csv
import io

import pytest
import torch

from ckptlab import CheckpointError, compare, save
from ckptlab.explorer.compare_table import Changes
from ckptlab.explorer.table import csv_text


@pytest.fixture
def changes(tmp_path):
    state = {"a": torch.ones(4), "b": torch.ones(4), "c": torch.ones(4), "d": torch.ones(4), "step": 1}
    save(state, tmp_path / "x", no_dist=True)
    changed = {
        **state,
        "b": torch.ones(4) * 1.001,
        "c": torch.ones(4) * 2,
        "d": torch.full((4,), float("inf")),
    }
    save({**changed, "step": 2}, tmp_path / "y", no_dist=True)
    return Changes(compare(tmp_path / "x", tmp_path / "y"))


def keys(table):
    return [line.cells[0] for line in table.lines(0, 99)]


def test_the_worst_comes_first(changes):
    assert keys(changes) == ["d", "c", "b", "step"]
    assert changes.caption == "4 keys that differ"
    infinite, double, little, step = changes.lines(0, 9)
    assert infinite.cells[1:5] == ("values", "4 NaN/Inf", "0", "4 of 4")
    assert double.cells[2:5] == ("1", "1", "4 of 4")
    assert (double.share, step.share) == (1.0, 0.0)
    assert 0.5 < little.share < 0.8
    assert step.hint == "step: 1 -> 2"
    assert changes.lines(1, 1) == [double]


def test_every_key_and_a_query(changes):
    changes.show(every=True)
    assert keys(changes) == ["d", "c", "b", "step", "a"]
    assert changes.caption == "5 keys"
    changes.search("/^[ab]$/")
    assert keys(changes) == ["b", "a"]
    with pytest.raises(CheckpointError, match="no regular expression"):
        changes.search("/[/")
    changes.search("")
    changes.picked = changes.at(2)
    assert (changes.chosen, changes.lines(2, 1)[0].chosen) == (2, True)
    changes.search("step")
    assert changes.chosen == -1


def test_csv_has_all_that_is_known(changes):
    rows = list(csv.DictReader(io.StringIO(csv_text(changes))))
    assert [row["key"] for row in rows] == keys(changes)
    assert (rows[1]["largest"], rows[1]["relative_norm"], rows[1]["box"]) == ("1.0", "1.0", "[[0], [4]]")


def test_equal_checkpoints(tmp_path):
    save({"a": torch.ones(2)}, tmp_path / "x", no_dist=True)
    table = Changes(compare(tmp_path / "x", tmp_path / "x"))
    assert (len(table), table.caption, table.chosen) == (0, "No key differs.", -1)
