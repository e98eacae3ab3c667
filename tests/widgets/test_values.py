"""The panel of values: looked at when chosen, a part as typed, progress, Cancel, a scan that leads on."""

import threading
import time

import pytest
import torch

import ckptlab.widgets.values
from ckptlab import save
from ckptlab.events import Event
from ckptlab.explorer.session import Session
from ckptlab.storage import open_checkpoint
from ckptlab.widgets.values import ValuesPanel, values_view


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "checkpoint"
    bad = torch.ones(6, 4)
    bad[2, 1] = torch.nan
    state = {
        "w": torch.arange(12.0).reshape(3, 4),
        "bad": bad,
        "i": torch.arange(5),
        "big": torch.zeros(3 << 20),
    }
    save(state, path, no_dist=True)
    return open_checkpoint(path)


@pytest.fixture
def panel(checkpoint):
    panel = ValuesPanel(Session(checkpoint.metadata, fqn="w"), checkpoint)
    ended(panel.look)
    yield panel
    panel.close()


def ended(work, limit=60):
    stop = time.monotonic() + limit
    while work.busy:
        assert time.monotonic() < stop, "waited in vain"
        time.sleep(0.005)


def held_up(monkeypatch, name):
    """Reads that tell of half of their bytes and then wait; what lets them go on is returned."""
    go_on, begun = threading.Event(), threading.Event()
    real = getattr(ckptlab.widgets.values, name)

    def slow(what, *args, progress):
        progress(Event(0, "read", 50, 100, 0.1))
        begun.set()
        assert go_on.wait(30)
        progress(Event(0, "read", 60, 100, 0.2))
        return real(what, *args, progress=progress)

    monkeypatch.setattr(ckptlab.widgets.values, name, slow)
    return go_on, begun


def test_a_small_tensor_is_looked_at_when_it_is_chosen(panel):
    assert "w: 12 elements, every one finite." in panel.look.status.value
    assert panel.seen.mean == 5.5
    assert "5.5" in panel.numbers.value
    assert panel.view.scene.panels[0].marks.box.shape[0] == 12
    panel._session.choose("bad")
    ended(panel.look)
    assert "bad: 24 elements: 1 NaN, 0 Inf." in panel.look.status.value
    panel._session.choose("i")
    ended(panel.look)
    assert "i: 5 elements." in panel.look.status.value


def test_a_large_one_is_looked_at_when_that_is_asked_for(panel):
    panel._session.choose("big")
    assert "big, 12.0 MiB: not read yet." in panel.look.status.value
    assert panel._shown.layout.display == "none"
    panel.look.button.click()
    ended(panel.look)
    assert panel.seen.zeros == 3 << 20
    assert panel._shown.layout.display is None
    assert panel.look.bar.value == 1.0


def test_a_part_is_as_typed_and_a_wrong_one_is_a_card(panel):
    panel.part.value = "[1:, ::2]"
    ended(panel.look)
    assert (panel.seen.count, panel.seen.low, panel.seen.high) == (4, 4.0, 10.0)
    panel.part.value = "[9:x]"
    ended(panel.look)
    assert "role='alert'" in panel.look.status.value
    assert "is no part of a tensor" in panel.look.status.value
    panel._session.choose("bad")
    assert panel.part.value == ""


def test_progress_is_drawn_and_cancel_ends_it(panel, monkeypatch):
    go_on, begun = held_up(monkeypatch, "values_of")
    panel.look.button.click()
    assert begun.wait(30)
    assert panel.look.bar.value == 0.5
    assert panel.look.button.disabled
    assert not panel.look.stop.disabled
    panel.look.stop.click()
    go_on.set()
    ended(panel.look)
    assert "Cancelled." in panel.look.status.value
    assert panel.look.stop.disabled
    assert not panel.look.button.disabled


def test_choosing_another_tensor_ends_the_look_at_the_one_before(panel, monkeypatch):
    go_on, begun = held_up(monkeypatch, "values_of")
    panel.look.button.click()
    assert begun.wait(30)
    monkeypatch.undo()
    threading.Timer(0.1, go_on.set).start()
    panel._session.choose("bad")
    ended(panel.look)
    assert panel.seen.fqn == "bad"


def test_a_scan_lists_what_it_finds_and_a_press_leads_there(panel):
    panel.scan.button.click()
    ended(panel.scan)
    assert "1 tensor with NaN or Inf" in panel.scan.status.value
    (line,) = panel.table.table.lines(0, 9)
    assert line.cells[:4] == ("bad", "1", "0", "[2, 1]")
    panel.table.hear({"press": 0})
    ended(panel.look)
    assert panel._session.fqn == "bad"
    assert panel.table.table.chosen == 0


def test_a_scan_can_be_cancelled(panel, monkeypatch):
    def endless(checkpoint, progress):
        while True:
            progress(Event(0, "read", 1, 100, 0.1))
            time.sleep(0.01)
            yield from ()

    monkeypatch.setattr(ckptlab.widgets.values, "scan", endless)
    panel.scan.button.click()
    panel.scan.stop.click()
    ended(panel.scan)
    assert "Cancelled." in panel.scan.status.value


def test_a_sound_checkpoint_is_said_to_be_so(tmp_path):
    save({"w": torch.ones(3), "i": torch.arange(3)}, tmp_path / "c", no_dist=True)
    panel = values_view(tmp_path / "c")
    panel.scan.button.click()
    ended(panel.scan)
    assert "Every float of the checkpoint is a finite number." in panel.scan.status.value
    assert panel.table.layout.display == "none"
    ended(panel.look)
    assert panel._repr_mimebundle_()["image/png"]
    assert "Values of w: float32, 3" in repr(panel)
    panel.close()


def test_what_nobody_foresaw_is_a_card(panel, monkeypatch):
    def boom(*args, progress):
        raise ZeroDivisionError("<b>unforeseen</b>")

    monkeypatch.setattr(ckptlab.widgets.values, "values_of", boom)
    panel.look.button.click()
    ended(panel.look)
    assert "ZeroDivisionError: &lt;b&gt;unforeseen&lt;/b&gt;" in panel.look.status.value


def test_closing_ends_what_is_at_work(checkpoint, monkeypatch):
    panel = ValuesPanel(Session(checkpoint.metadata, fqn="w"), checkpoint)
    ended(panel.look)

    def endless(*args, progress):
        while True:
            progress(Event(0, "read", 1, 100, 0.1))
            time.sleep(0.01)

    monkeypatch.setattr(ckptlab.widgets.values, "values_of", endless)
    panel.look.button.click()
    panel.close()
    assert not panel.look.busy
