"""Messages and cards: every word escaped, the rank and its phase in view, the rest folded away."""

import ipywidgets as ui
import pytest

from ckptlab.errors import CheckpointError, PathError, RankError
from ckptlab.widgets.panels import card, fade, heading, said

HOSTILE = "<img src=x onerror=boom()>"


@pytest.mark.parametrize(
    "shown",
    [
        heading(HOSTILE, HOSTILE).value,
        said(HOSTILE),
        said(HOSTILE, good=True),
        card(CheckpointError(f"{HOSTILE}\n{HOSTILE}")),
        card(RankError(HOSTILE, rank=1, phase=HOSTILE)),
    ],
    ids=["heading", "plain", "good", "card", "rank"],
)
def test_words_of_a_checkpoint_stay_words(shown):
    assert "<img" not in shown
    assert "&lt;img src=x onerror=boom()&gt;" in shown


def test_a_status_says_good_and_bad_not_only_by_colour():
    assert "✓" in said("fine", good=True)
    assert "✗" in said("no", good=False)
    assert not {"✓", "✗"} & set(said("waiting"))
    assert all("role='status'" in said("x", good) for good in (True, False, None))


def test_a_card_shows_the_first_line_and_folds_the_rest():
    shown = card(PathError("no checkpoint at /x\nTraceback: deep\nbelow"))
    before, _, folded = shown.partition("<details>")
    assert "role='alert'" in before
    assert "PathError" in before
    assert "no checkpoint at /x" in before
    assert "deep" not in before
    assert "Traceback: deep\nbelow" in folded
    assert "<details>" not in card(PathError("one line"))


def test_a_card_names_the_rank_and_its_phase():
    assert "rank <b>2</b>, in phase <b>read</b>" in card(RankError("it broke", rank=2, phase="read"))
    assert "in phase" not in card(RankError("it broke", rank=2))
    assert "rank <b>" not in card(RankError("nobody knows whose fault"))


def test_what_no_longer_holds_fades_and_comes_back():
    box = ui.VBox()
    fade(box, True)
    fade(box, True)
    assert box._dom_classes == ("ckl-stale",)
    fade(box, False)
    assert box._dom_classes == ()
