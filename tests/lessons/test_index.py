"""The index of the lessons: what it lists is there, and says what the lessons say."""

import json
import re
from pathlib import Path

import pytest

from ckptlab.lessons.index import Lesson, lessons, table

ROOT = Path(__file__).parent.parent.parent
BOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def words(path):
    cells = json.loads(path.read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def test_a_lesson_is_told_by_its_first_cell(tmp_path):
    title = "# 3. A title\n\n*A question\nin two lines?*\n\n" + "word " * 600
    hidden = "<details><summary>Answers</summary>\n" + "word " * 5000 + "</details>"
    cells = [
        {"cell_type": "markdown", "source": [title]},
        {"cell_type": "code", "source": ["it()\n", "check_it(None)"]},
        {"cell_type": "markdown", "source": [hidden]},
    ]
    for name in ("00-start", "03-a-title"):
        (tmp_path / f"{name}.ipynb").write_text(json.dumps({"cells": cells}))
    told = Lesson("03-a-title.ipynb", "3. A title", "A question in two lines?", 15)
    assert lessons(tmp_path) == (told,)
    assert table((told,), "books/").splitlines()[-1] == (
        "| [3. A title](books/03-a-title.ipynb) | A question in two lines? | 15 |"
    )


def test_index_and_readme_list_the_lessons_that_are_there():
    found = lessons(ROOT / "notebooks")
    assert [lesson.file[:2] for lesson in found] == [lesson.title.split(".")[0].zfill(2) for lesson in found]
    assert table(found) in words(BOOKS[0])
    assert table(found, "notebooks/") in (ROOT / "README.md").read_text()
    hours = sum(lesson.minutes for lesson in found) / 60
    assert f"about {hours:.0f} hours" in words(BOOKS[0])


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_every_link_between_notebooks_leads_to_one(path):
    links = re.findall(r"\]\(([^)#:]+)\)", words(path))
    assert links
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("at", range(1, len(BOOKS)))
def test_every_lesson_leads_to_the_next_the_one_before_and_all(at):
    last = words(BOOKS[at]).rstrip().splitlines()[-1]
    ahead = [BOOKS[at + 1].name] if at + 1 < len(BOOKS) else []
    behind = [BOOKS[at - 1].name] if at > 1 else []
    assert re.findall(r"\]\(([^)]+)\)", last) == [*ahead, *behind, BOOKS[0].name]
