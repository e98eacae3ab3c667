"""Lesson 8: ranks that are killed in mid-save, and what is left then."""

import pytest

from ckptlab.lessons import torn


def test_the_picture_tells_of_which_save_each_row_is():
    mixed = torn.Loaded((2, 2, 2, 2, 2, 2, 1, 1, 1, 2), 2)
    scene = torn.saves_scene({"stock": mixed, "ckptlab": torn.Loaded((1,) * 10, 1)})
    assert [list(panel.marks.colour) for panel in scene.panels] == [[1] * 6 + [0] * 3 + [1], [0] * 10]
    assert [key.text for key in scene.legend] == ["of save 1", "of save 2"]
    assert scene.panels[0].marks.ranks_of(9) == (3,)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "Not answered yet."),
        (4, "No: there is no rank 4; they are 0 to 3."),
        (0, "No: rank 0 was killed, and rows 0, 1, 2 are of save 1: 3 of 10. Another rank holds fewer rows."),
        (3, "Right: rank 3 was killed, and row 9 is of save 1; the step says 2, and no error was raised."),
    ],
)
def test_the_smallest_tear(ranks4, answer, said):
    assert repr(torn.check_tear(ranks4, answer)) == said
