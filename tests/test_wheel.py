"""A wheel built from the tree carries the notebooks and the front end, and works where it is installed."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(out.glob("*.whl"))


def test_it_carries_what_is_not_code(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for name in (
        "py.typed",
        *(f"widgets/{part}" for part in ("scene.js", "panel.js", "table.js", "view.js", "view.css")),
    ):
        assert f"ckptlab/{name}" in names
    books = {p.name for p in (ROOT / "notebooks").glob("*.ipynb")}
    assert {f"ckptlab/notebooks/{name}" for name in books} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_it_opens_the_lab_from_where_it_is_installed(wheel, tmp_path):
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r}); import ckptlab; from pathlib import Path\n"
        f"assert Path(ckptlab.__file__).is_relative_to({str(site)!r}), ckptlab.__file__\n"
        "from ckptlab.cli.lab import copy_notebooks\n"
        f"print(copy_notebooks(Path({str(tmp_path / 'books')!r})).name)\n"
        "from ckptlab.widgets.view import SceneView; SceneView()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("00-")
