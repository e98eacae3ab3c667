"""The answers that are folded away in lessons 6 to 9 are right, as their own checks say."""

import ast
import json
import re
from pathlib import Path

import ckptlab
from ckptlab.lessons import hostile, misfit, paper, strided, torn
from ckptlab.plan.transform import Part, Transform

BOOKS = Path(__file__).parent.parent.parent / "notebooks"


def folded(book):
    """What is folded away under "Answer" or "Answers" in a notebook."""
    cells = json.loads((BOOKS / book).read_text(encoding="utf-8"))["cells"]
    (text,) = (text for cell in cells if "<summary>Answer" in (text := "".join(cell["source"])))
    return text[text.index("<summary>Answer") :].partition("</details>")[0]


def test_the_transform_by_hand(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", folded("06-when-a-load-does-not-fit.ipynb"), re.DOTALL)
    names = {"Part": Part, "Transform": Transform}
    exec(code, names)
    assert misfit.check_mend(misfit.secret(str(tmp_path)), names["mine"])


def test_the_layout_without_a_stride_and_the_most_rows():
    told = folded("07-the-strided-shard.ipynb")
    (layout,) = re.findall(r"`(Layout\(.*?\))`", told)
    names = {name: getattr(ckptlab, name) for name in ("Layout", "Mesh", "Shard")}
    assert strided.check_plain(eval(layout, names))
    (rows,) = re.findall(r"^- (\d+):", told, re.MULTILINE)
    assert strided.check_empty(int(rows))


def test_the_five_letters_and_the_rank_to_kill(ranks4, tmp_path):
    told = folded("08-torn-and-hostile.ipynb")
    (letters,) = re.findall(r"`(\{.*?\})`", told)
    assert hostile.check_five(ranks4, hostile.five(str(tmp_path)), ast.literal_eval(letters))
    (rank,) = re.findall(r"^- Rank (\d):", told, re.MULTILINE)
    sizes = [torn._layout(4).local_shape((torn.ROWS, 3), r)[0] for r in range(4)]
    assert sizes.index(min(sizes)) == int(rank)


def test_the_meshes_of_few_chunks():
    layout = r'Layout\.parse\("([^"]+)", "([^"]+)"\)`: (?:.*?rank, )?([\d,]+) chunks'
    told = re.findall(layout, folded("09-405b-on-paper.ipynb"))
    assert len(told) == 2
    tensors = paper.llama405b()
    for mesh, placements, chunks in told:
        said = paper.check_mesh(tensors, ckptlab.Layout.parse(mesh, placements))
        assert said
        assert f"there are {chunks} chunks" in repr(said)
