"""What a notebook shows while a checkpoint is opened, and where none can be; on a shell that only listens."""

import sys
import time
from types import SimpleNamespace

import pytest

from ckptlab.errors import CheckpointError, PathError
from ckptlab.widgets import opening as module
from ckptlab.widgets.explore import explore
from ckptlab.widgets.opening import opening, trouble

HOSTILE = "<img src=x onerror=boom()>"


@pytest.fixture
def shown(monkeypatch):
    """What was shown in the notebook."""
    shown = []
    shell = SimpleNamespace(kernel=object(), display_pub=SimpleNamespace(publish=shown.append))
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    return shown


def test_what_cannot_be_opened_is_a_card_with_the_files_and_one_line(shown, tmp_path):
    (tmp_path / ".metadata").write_bytes(b"garbage")
    (tmp_path / HOSTILE).write_bytes(bytes(3000))
    (tmp_path / "below").mkdir()
    with pytest.raises(CheckpointError) as caught:
        explore(tmp_path)
    (bundle,) = shown
    card = bundle["text/html"]
    assert "role='alert'" in card
    for told in ("damaged or cut short", "2.93 KiB", "&lt;img", "below", "folder"):
        assert told in card
    assert "<img" not in card
    assert bundle["text/plain"] == str(caught.value)
    assert caught.value._render_traceback_() == [f"CorruptError: {caught.value}"]


def test_a_path_that_is_not_there_has_no_files(shown, tmp_path):
    with pytest.raises(PathError):
        explore(tmp_path / "nothing")
    assert "nearest directory" in shown[0]["text/html"]
    assert "There is" not in shown[0]["text/html"]


def test_many_files_are_counted(tmp_path):
    for i in range(20):
        (tmp_path / f"{i}").touch()
    assert "and 8 more" in trouble(PathError("no"), str(tmp_path))


def test_what_takes_long_says_so_meanwhile_and_then_no_more(shown, monkeypatch):
    monkeypatch.setattr(module, "_SOON", 0.01)
    monkeypatch.setattr(module, "_EACH", 0.01)
    said = []
    monkeypatch.setattr(module, "said", lambda text: said.append(text) or text)
    with opening("here"):
        stop = time.monotonic() + 60
        while len(said) < 3:
            assert time.monotonic() < stop
            time.sleep(0.01)
    assert len(shown) == 1
    assert "application/vnd.jupyter.widget-view+json" in shown[0]
    assert said[0].startswith("Opening here: 0 s so far")


def test_without_a_notebook_nothing_is_shown(tmp_path):
    with pytest.raises(PathError) as caught:
        explore(tmp_path)
    assert not hasattr(caught.value, "_render_traceback_")
