"""The panel of files without a browser: what is pressed, and what is then looked into."""

import pytest
import torch

import ckptlab
from ckptlab.explorer import filemap
from ckptlab.widgets.files import FilesPanel, files_view


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "checkpoint"
    ckptlab.save({"big": torch.ones(300, 20), "small": torch.ones(3), "step": 3}, path, no_dist=True)
    return path


@pytest.fixture
def panel(saved):
    panel = files_view(saved)
    yield panel
    panel.close()


def press(panel, holds):
    """Press the mark that says this."""
    panel_drawn = panel.view.scene.panels[0]
    said = [panel_drawn.marks.facts[0].show(i) for i in range(len(panel_drawn.marks))]
    panel.view.picked = {"panel": "files", "mark": said.index(holds)}


def test_a_bar_that_is_pressed_is_looked_into_and_left_again(panel):
    assert (panel.table.name, panel.whole.disabled) == ("files", True)
    press(panel, "small [0:3]")
    assert (panel.session.file, panel.session.fqn) == (0, "small")
    assert (panel.table.name, panel.whole.disabled) == ("extents", False)
    assert panel.view.scene.panels[0].title == "The bytes of __0_0.distcp"
    assert "file 1 of 3: whole" in panel.where.value
    press(panel, "big [0:300, 0:20]")
    assert panel.session.fqn == "big"
    assert panel.table.page["lines"][panel.table.page["show"]][0][2] == "big"
    panel.whole.click()
    assert (panel.session.file, panel.table.name) == (-1, "files")


def test_lines_of_both_tables_can_be_pressed(panel):
    panel.table.hear({"press": 0})
    assert panel.session.file == 0
    at = next(i for i in range(3) if panel.table.page["lines"][i][0][2] == "small")
    panel.table.hear({"press": at})
    assert panel.session.fqn == "small"


def test_what_is_drawn_as_one_is_looked_into(panel, monkeypatch):
    monkeypatch.setattr(filemap, "PIXELS", 2)
    monkeypatch.setattr(filemap, "PAGE", 1)
    monkeypatch.setattr(filemap, "TAKEN_APART", 0)
    panel.session.change(file=0, fqn="")
    whole = panel._part
    assert sorted(panel._drawn.number.tolist()) == [1, 2]
    both = int(panel._drawn.number.argmax())
    assert panel.view.scene.panels[0].marks.facts[0].show(both) == "1 chunk of 1 tensor, 1 object"
    panel.view.picked = {"panel": "files", "mark": both}
    assert 0 < panel._part[1] - panel._part[0] < whole[1] - whole[0]
    assert panel._drawn.number.tolist() == [1, 1]
    panel.whole.click()
    assert panel._part == whole
    panel.whole.click()
    assert panel.session.file == -1


def test_files_are_turned_page_by_page_and_one_by_one(tmp_path):
    ckptlab.save({"w": torch.ones(2)}, tmp_path, no_dist=True)
    for i in range(1, 31):
        (tmp_path / f"__{i}_0.distcp").write_bytes(b"x")
    panel = files_view(tmp_path)
    assert (len(panel.files), panel.before.disabled) == (33, True)
    panel.next.click()
    assert panel.view.scene.panels[0].title == "Files 13 to 24 of 33"
    panel.next.click()
    assert (panel.view.scene.panels[0].title, panel.next.disabled) == ("Files 25 to 33 of 33", True)
    panel.table.hear({"press": 31})
    panel.next.click()
    assert (panel.files.chosen, panel.next.disabled) == (32, True)
    panel.close()


def test_what_is_chosen_elsewhere_stands_out(panel):
    panel.session.choose("small")
    box = panel.view.scene.panels[0].marks.box
    assert (box[:, 3] > 0.8).sum() == 1
    panel.session.change(colours="file")
    assert panel.view.scene.legend[0].text == "colour: the file"


def test_trouble_is_said_above_with_words_that_stay_words(tmp_path):
    ckptlab.save({"w": torch.ones(2)}, tmp_path / "c", no_dist=True)
    (tmp_path / "c" / "<img src=x>.distcp").write_bytes(b"x")
    panel = files_view(tmp_path / "c")
    notes = panel.children[1].value
    assert "role='note'" in notes
    assert "&lt;img src=x&gt;.distcp" in notes
    assert "<img" not in notes
    panel.close()


def test_it_exports_and_leaves_a_picture(panel, tmp_path):
    panel.to_csv(tmp_path / "files.csv")
    assert (tmp_path / "files.csv").read_text().startswith("file,size,stands,")
    panel.session.change(file=0)
    panel.to_csv(tmp_path / "extents.csv")
    assert (tmp_path / "extents.csv").read_text().startswith("file,start,stop,")
    assert set(panel._repr_mimebundle_()) >= {"image/png", "text/plain"}


def test_a_closed_panel_listens_no_more(saved):
    panel = files_view(saved)
    assert isinstance(panel, FilesPanel)
    panel.close()
    panel.session.change(file=0)
    assert panel.files.file == -1
