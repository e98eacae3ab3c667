"""The run panel on real ranks: bars that fill, the verdict, Cancel, a killed rank, a damaged file."""

import time
from pathlib import Path

import numpy as np
import pytest
import widget_ops

import ckptlab.live.ops
from ckptlab.explorer.scene import FILLED, OUTLINED
from ckptlab.widgets.explore import explore


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    import torch

    import ckptlab

    path = tmp_path_factory.mktemp("saved") / "checkpoint"
    state = {"w": torch.arange(1003.0 * 24).reshape(1003, 24), "b": torch.ones(7).bfloat16(), "step": 3}
    ckptlab.save(state, path, no_dist=True)
    return path


@pytest.fixture(scope="module")
def explorer(checkpoint):
    explorer = explore(checkpoint)
    yield explorer
    explorer.close()


@pytest.fixture
def panel(explorer):
    explorer.recipe.value = "FSDP on 4: rows"
    explorer.run_panel.foretell()
    yield explorer.run_panel
    explorer.run_panel.stop.click()
    ended(explorer.run_panel)


def until(true, limit):
    stop = time.monotonic() + limit
    while not true():
        assert time.monotonic() < stop, "waited in vain"
        time.sleep(0.01)


def ended(panel, limit=60):
    until(lambda: panel.stop.disabled, limit)


def usable(panel):
    """Which of Run, Cancel and Kill can be pressed."""
    return [not button.disabled for button in (panel.run, panel.stop, panel.kill)]


def widths(panel, style):
    marks = panel.view.scene.panels[0].marks
    return marks.box[marks.style == style][:, 2]


def hanging(panel, monkeypatch):
    """Press Run on a load that reads a little and then hangs; returns when the bars have begun to fill."""
    monkeypatch.setattr(ckptlab.live.ops, "reshard", widget_ops.read_some_and_hang)
    panel.run.click()
    until(lambda: "read 3.91 KiB of" in panel.status.value, 60)
    monkeypatch.undo()


def test_before_a_run_only_the_forecast_is_drawn(panel):
    assert "Not run yet." in panel.status.value
    assert len(widths(panel, FILLED)) == 0
    assert len(widths(panel, OUTLINED)) == 4
    assert usable(panel) == [True, False, False]
    assert panel.kill.description == "Kill rank 1"


def test_a_run_reads_what_was_foretold_and_all_is_equal(panel, explorer):
    panel.run.click()
    assert usable(panel)[:2] == [False, True]
    assert explorer.mesh.disabled
    ended(panel)
    assert "✓" in panel.status.value
    assert "foretold = read" in panel.status.value
    elements = f"{1003 * 24 + 7:,}"
    assert f"All {elements} loaded elements equal the stored ones, bit for bit." in panel.status.value
    said = panel.view.scene.text
    assert said.count("foretold = read") == 4
    assert said.count(", equal, ") == 4
    np.testing.assert_allclose(widths(panel, FILLED), widths(panel, OUTLINED))
    assert usable(panel) == [True, False, False]
    assert not explorer.mesh.disabled


def test_bars_fill_while_ranks_read_and_cancel_ends_them(panel, monkeypatch):
    hanging(panel, monkeypatch)
    until(lambda: panel.view.scene.text.count("1000 B of") == 4, 5)
    foretold = panel._session.foretold.bytes_by_rank
    np.testing.assert_allclose(widths(panel, FILLED) / widths(panel, OUTLINED), 1000 / foretold, rtol=1e-4)
    assert usable(panel) == [False, True, True]
    ranks = panel._ranks.pids
    panel.stop.click()
    ended(panel, 5)
    assert "Cancelled; the ranks have been ended." in panel.status.value
    assert "role='alert'" not in panel.status.value
    until(lambda: not any(running(pid) for pid in ranks), 2)
    panel.run.click()
    ended(panel)
    assert "foretold = read" in panel.status.value


def test_a_killed_rank_is_named_and_the_next_run_works(panel, monkeypatch):
    hanging(panel, monkeypatch)
    until(lambda: usable(panel)[2], 5)
    panel.kill.click()
    ended(panel, 5)
    assert "role='alert'" in panel.status.value
    assert "rank <b>1</b>, in phase <b>read</b>" in panel.status.value
    assert "SIGKILL" in panel.status.value
    panel.run.click()
    ended(panel)
    assert "foretold = read" in panel.status.value


def test_another_number_of_ranks_takes_other_ranks(panel, explorer):
    explorer.recipe.value = "one process"
    assert panel.kill.description == "Kill rank 0"
    panel.run.click()
    ended(panel)
    assert "foretold = read" in panel.status.value
    assert len(panel._ranks.pids) == 1


def test_a_second_press_while_it_runs_does_nothing(panel, monkeypatch):
    hanging(panel, monkeypatch)
    thread = panel._thread
    panel._begin()
    assert panel._thread is thread


def test_a_damaged_file_is_a_card(panel, checkpoint):
    (file,) = checkpoint.glob("*.distcp")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    try:
        panel.run.click()
        ended(panel)
    finally:
        file.write_bytes(whole)
    assert "role='alert'" in panel.status.value
    assert file.name in panel.status.value
    assert "foretold = read" not in panel.view.scene.text
    assert usable(panel) == [True, False, False]


def test_what_nobody_foresaw_is_a_card_too(panel, monkeypatch):
    def boom():
        raise ZeroDivisionError("<b>unforeseen</b>")

    monkeypatch.setattr(panel, "_fitting_ranks", boom)
    panel.run.click()
    ended(panel)
    assert "ZeroDivisionError: &lt;b&gt;unforeseen&lt;/b&gt;" in panel.status.value


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_closing_the_explorer_ends_its_ranks(checkpoint):
    explorer = explore(checkpoint)
    until(lambda: explorer.run_panel._ranks.pids, 60)
    ranks = explorer.run_panel._ranks.pids
    assert len(ranks) == 4
    explorer.close()
    until(lambda: not any(running(pid) for pid in ranks), 2)
    assert explorer.run_panel._ranks is None
