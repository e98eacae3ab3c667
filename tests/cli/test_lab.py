"""`ckptlab lab`: its path, JupyterLab's options, and the notebooks."""

import pytest
from cli_run import run_apart

from ckptlab.cli.lab import copy_notebooks, path_and_options


def test_it_hands_on_what_jupyter_is_asked(tmp_path):
    """JupyterLab's own `--version` ends at once, so that the whole way there is taken."""
    done = run_apart("lab", "--no-browser", "--port", "8991", "--version", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1][0].isdigit()
    copied = sorted(p.name for p in (tmp_path / "ckptlab-notebooks").iterdir())
    assert copied[0].startswith("00-")


@pytest.mark.parametrize(
    ("words", "path", "options"),
    [
        (["here"], "here", []),
        (["here", "--port", "8889"], "here", ["--port", "8889"]),
        (["--port", "8889"], "", ["--port", "8889"]),
        (["--port", "8889", "here"], "here", ["--port", "8889"]),
        (["--port=8889", "here"], "here", ["--port=8889"]),
        (["--no-browser", "here"], "here", ["--no-browser"]),
        (["--ip", "0.0.0.0"], "", ["--ip", "0.0.0.0"]),
        ([""], "", []),
    ],
)
def test_it_tells_its_path_from_jupyters_options(words, path, options):
    assert path_and_options(words) == (path, options)


def test_it_never_writes_over_a_notebook_that_was_changed(tmp_path):
    first = copy_notebooks(tmp_path / "books")
    first.write_text("mine")
    assert copy_notebooks(tmp_path / "books").read_text() == "mine"
