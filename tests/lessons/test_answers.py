"""The answers that are folded away in lessons 1 to 5 are right, as their own checks say."""

import ast
import json
import re
from pathlib import Path

import pytest

from ckptlab.layout import Layout
from ckptlab.lessons.elsewhere import check_layout
from ckptlab.lessons.hsdp import check_hosts
from ckptlab.lessons.mesh import check_quarter, check_share
from ckptlab.lessons.saving import check_sharing

BOOKS = Path(__file__).parent.parent.parent / "notebooks"


def folded(book):
    """What is folded away under "Answer" or "Answers" in a notebook."""
    cells = json.loads((BOOKS / book).read_text(encoding="utf-8"))["cells"]
    (text,) = (text for cell in cells if "<summary>Answer" in (text := "".join(cell["source"])))
    return text[text.index("<summary>Answer") :].partition("</details>")[0]


@pytest.mark.parametrize(
    ("book", "checks"),
    [
        ("01-a-mesh-and-its-axes.ipynb", [check_quarter, check_share]),
        ("04-loading-elsewhere.ipynb", [check_layout]),
        ("05-hsdp.ipynb", [check_hosts]),
    ],
    ids=["01", "04", "05"],
)
def test_layouts(book, checks):
    found = re.findall(r'Layout\.parse\("([^"]+)", "([^"]+)"\)', folded(book))
    assert len(found) == len(checks)
    for check, words in zip(checks, found, strict=True):
        assert check(Layout.parse(*words)).right


def test_the_sharing():
    (told,) = re.findall(r"mine = (\{.*?\})", folded("03-saving.ipynb"))
    assert check_sharing(ast.literal_eval(told)).right
