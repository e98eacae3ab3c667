"""A guess, and what is said to it."""

import pytest

from ckptlab.explorer.scenes import layout_scene
from ckptlab.layout import Layout
from ckptlab.lessons.ask import WAITING, guess, right, wrong
from ckptlab.metadata import Tensor


@pytest.mark.parametrize("written", ["1024", "1,024", " 1_024", "1 024"])
def test_a_number_is_read_as_people_write_it(written):
    asked = guess(f"How many bytes: {written}?", unit="bytes")
    asked.field.value = written
    assert asked.value == 1024
    assert repr(asked.beside(1024)) == "Right: you guessed 1,024 bytes."


def test_a_guess_is_set_beside_the_answer_and_holds():
    asked = guess("How many bytes?", unit="bytes")
    assert asked.value is None
    asked.field.value = "a lot"
    assert asked.value is None
    assert "no whole number" in asked._note.value
    asked.field.value = "64"
    said = asked.beside(256, "Each chunk is read whole.")
    assert repr(said) == ("You guessed 64 bytes; it is 256 bytes: 4 times as much. Each chunk is read whole.")
    assert not said
    assert asked.field.disabled


def test_a_cell_that_is_run_again_keeps_its_guess():
    guess("And now?").field.value = "12"
    again = guess("And now?")
    assert again.value == 12
    assert "Noted" in again._note.value
    guess("Which now?", ["A", "B"]).field.value = "B"
    assert guess("Which now?", ["A", "B"]).value == "B"
    assert guess("Which now?", ["C", "D"]).value is None


def test_without_a_guess_the_answer_is_told_alone():
    assert repr(guess("How many?").beside(3)).startswith("It is 3. (You made no guess.")


def test_pictures_are_chosen_by_name():
    scenes = {
        name: layout_scene(Layout.parse("2", name), Tensor("w", "float32", (4, 4)))
        for name in ("Shard(0)", "Shard(1)")
    }
    asked = guess("Which?", scenes)
    (drawn,) = asked._drawn
    assert [panel.title for panel in drawn.scene.panels] == ["Shard(0)", "", "Shard(1)", ""]
    assert len({panel.name for panel in drawn.scene.panels}) == 4
    assert asked.value is None
    asked.field.value = "Shard(1)"
    assert repr(asked.beside("Shard(0)")) == "You guessed Shard(1); it is Shard(0)."
    bundle = asked._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert "Shard(1)" in bundle["text/plain"]


def test_verdicts():
    assert right("so it is.")
    assert not wrong("it is not.")
    assert not WAITING
    assert repr(wrong("<b>")) == "No: <b>"
    assert "&lt;b&gt;" in wrong("<b>")._repr_html_()
