"""Lesson 6: loads that do not fit, what the doctor says to them, and transforms written by hand."""

import pytest

import ckptlab
from ckptlab.lessons import misfit
from ckptlab.plan.transform import Part, Transform

BARE = (("^module[.]", ""),)
ROWS = "module.mlp.gate_up.weight"
UPPER, LOWER = (Part(ROWS, stored=((i, i + 8), (0, 4))) for i in (0, 8))


@pytest.mark.parametrize(
    ("letter", "stock", "ours"),
    [
        ("A", "Missing key", "6 mismatches"),
        ("B", "Missing key", "3 mismatches"),
        ("C", "Size mismatch", "One is the transpose of the other"),
        ("D", "loaded, and said nothing", "load with dtype='narrow'"),
        ("E", "Missing key", "2 mismatches"),
    ],
)
def test_the_doctor_finds_the_one_cause_and_its_remedy_heals(tmp_path, letter, stock, ours):
    broken = misfit.case(letter, str(tmp_path))
    tried = broken.tried()
    assert stock in tried.stock
    assert ours in tried.ckptlab
    found = ckptlab.diagnose(broken.path, broken.target())
    assert {it.kind for it in found} - {"nothing", "square"} == {broken.kind}
    assert broken.heals(found)
    assert repr(broken.loads(Transform())).startswith("No: it still does not load. ")
    broken.asked.field.value = misfit.CAUSES[broken.kind]
    assert broken.answer()


def test_a_square_matrix_is_not_to_be_turned_because_another_is(tmp_path):
    broken = misfit.case("C", str(tmp_path))
    found = ckptlab.diagnose(broken.path, broken.target())
    said = repr(broken.loads(found.transform_with(found)))
    assert said.startswith(
        "No: it loads without an error, but attn.q.weight is wrong: it begins with 1, 1.04"
    )


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"mlp.up.weight": UPPER, "mlp.gate.weight": LOWER}, "Right: it loads, and all 7 tensors"),
        ({"mlp.up.weight": LOWER, "mlp.gate.weight": UPPER}, "No: it loads without an error, but mlp.up"),
        ({"mlp.up.weight": UPPER}, "No: it still does not load. The checkpoint does not fit"),
    ],
)
def test_a_transform_by_hand(tmp_path, parts, said):
    broken = misfit.secret(str(tmp_path))
    assert repr(misfit.check_mend(broken, Transform(BARE, parts))).startswith(said)
    assert repr(misfit.check_mend(broken, None)) == "Not answered yet."


def test_the_picture_shows_which_rows_fill_what():
    scene = misfit.parts_scene(Transform((), {"up.weight": UPPER, "gate.weight": LOWER, "norm": Part("n")}))
    assert [panel.title for panel in scene.panels] == [ROWS]
    marks = scene.panels[0].marks
    assert marks.labels == ("up", "gate")
    assert marks.box.tolist() == [[0, 0, 4, 8], [0, 8, 4, 8]]
    assert f"gate.weight is [8:16, 0:4] of {ROWS}" in scene.text
