"""The panel of inferred meshes: at once where that is quick, else on a thread that can be ended."""

import threading

import pytest
from browser import comes
from saved import hsdp_metadata

import ckptlab.explorer.inferred
import ckptlab.widgets.inferred as module
from ckptlab.explorer.session import Session
from ckptlab.layout import Layout
from ckptlab.metadata import Metadata, Tensor
from ckptlab.plan.metadata_of import metadata_of
from ckptlab.widgets.inferred import InferredPanel


def unknown():
    """Metadata of which nobody has inferred anything."""
    saved = metadata_of(
        [Tensor("w", "float32", (8, 4)), Tensor("v", "float32", (8,))], Layout.parse("4", "Shard(0)")
    )
    return Metadata(saved.tensors, saved.chunks, saved.files, saved.writers)


@pytest.fixture
def large(monkeypatch):
    """Any checkpoint counts as a large one."""
    monkeypatch.setattr(module, "AT_ONCE", 0)


def test_a_small_checkpoint_is_answered_at_once_and_follows_the_session():
    panel = InferredPanel(Session(hsdp_metadata()))
    assert panel._asking.layout.display == "none"
    assert "what speaks for and against" in panel._why.value
    panel.session.choose("model.layers.0.wq.weight")
    assert "model.layers.0.wq.weight on it" in panel.view.scene.title
    assert panel._repr_mimebundle_()["image/png"]
    panel.close()


def test_a_large_one_is_answered_on_a_thread(large):
    panel = InferredPanel(Session(unknown()))
    comes(lambda: panel.work.busy, False)
    assert panel._asking.layout.display == "none"
    assert "Mesh(fsdp=4)" in panel._why.value
    panel.close()


def test_a_search_can_be_cancelled_and_begun_again(large, monkeypatch):
    go_on, infer = threading.Event(), ckptlab.explorer.inferred.infer

    def slow(*args, heard):
        assert go_on.wait(60)
        heard(1, 4)
        return infer(*args)

    monkeypatch.setattr(ckptlab.explorer.inferred, "infer", slow)
    panel = InferredPanel(Session(unknown()))
    assert repr(panel) == "no mesh inferred yet"
    assert "image/png" not in panel._repr_mimebundle_()
    panel.session.choose("v")
    panel.work.stop.click()
    go_on.set()
    comes(lambda: panel.work.busy, False)
    assert "Cancelled." in panel.work.status.value
    assert panel._answer.layout.display == "none"
    panel.work.button.click()
    comes(lambda: panel.work.busy, False)
    assert panel.work.bar.value == 0.25
    assert "v on it" in panel.view.scene.title
    panel.close()


def test_more_ranks_than_can_be_drawn_are_told_in_words(monkeypatch):
    monkeypatch.setattr(ckptlab.explorer.inferred, "_DRAWN", 3)
    panel = InferredPanel(Session(unknown()))
    assert panel.view.layout.display == "none"
    assert "Mesh(fsdp=4)" in panel._why.value
    panel.close()
