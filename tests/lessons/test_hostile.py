"""Lesson 8: files that would run code, read by stock DCP on a real rank and by ckptlab."""

from pathlib import Path

import pytest

from ckptlab.lessons import hostile


def test_stock_runs_what_ckptlab_names(ranks4, tmp_path):
    sent = hostile.one(str(tmp_path))
    assert "REDUCE" in repr(hostile.listing(sent))
    assert not Path(sent, hostile.RAN).exists()
    assert ranks4.run(hostile.read_by_stock, sent)[0] == "Stock DCP read it without a word; its code RAN."
    said = repr(hostile.opened(sent))
    assert said.startswith("ckptlab refused: hostile/.metadata: asks for io.open, which is not on the list")
    assert said.endswith("; nothing ran.")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "Not answered yet."),
        ({"C", "D"}, "Right: C and D ran something when stock DCP read them just now."),
        (
            {"B", "C", "D"},
            "No: stock DCP read B just now, and it ran nothing: io.open and os.system stand there",
        ),
        ({"C"}, "No: stock DCP read D just now, and it ran something: STACK_GLOBAL fetches"),
        ({"F"}, "No: there is no 'F'; the folders are A, B, C, D, E."),
    ],
)
def test_the_five_letters(ranks4, tmp_path, answer, said):
    letters = hostile.five(str(tmp_path))
    assert repr(hostile.check_five(ranks4, letters, answer)).startswith(said)
    assert all(repr(hostile.opened(letter)).endswith("; nothing ran.") for letter in letters.values())
