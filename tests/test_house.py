"""House rules that a machine can hold: lint, format, types, sizes, docstrings, the front door."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PRODUCT = sorted((ROOT / "ckptlab").rglob("*.py"))


@pytest.mark.parametrize(
    "command",
    [("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",)],
    ids=["lint", "format", "types"],
)
@pytest.mark.timeout(400)
def test_tools_find_nothing(command):
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", sorted((ROOT / "ckptlab").rglob("*.js")), ids=lambda p: p.name)
def test_scripts_stay_readable(path):
    assert path.read_text().count("\n") <= 400


@pytest.mark.parametrize("path", PRODUCT, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_readable(path):
    text = path.read_text()
    tree = ast.parse(text)
    assert text.count("\n") <= 400
    assert ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 70, node.name


def test_importing_and_looking_needs_no_torch():
    """Opening, checking and drawing a checkpoint works in a process that never imports torch."""
    code = (
        "import sys, ckptlab, ckptlab.explorer.session, ckptlab.plan.check\n"
        "import ckptlab.widgets.explore, ckptlab.live.ops\n"
        "ckptlab.open_checkpoint, ckptlab.Layout, ckptlab.CheckpointError\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_front_door_has_few_names_and_each_opens():
    import ckptlab

    assert len(ckptlab.__all__) <= 12
    for name in ckptlab.__all__:
        assert getattr(ckptlab, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'sav'"):
        _ = ckptlab.sav
