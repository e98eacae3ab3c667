"""The command line as a process: what it prints, and how it ends."""

import json
import os
import subprocess
import sys

import pytest
import torch

import ckptlab


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "step-1"
    torch.manual_seed(0)
    ckptlab.save({"model": {"w": torch.randn(10, 6), "b": torch.randn(7)}, "step": 3}, path, no_dist=True)
    return path


def run(*arguments, **environment):
    command = [sys.executable, "-m", "ckptlab.cli", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **environment}
    )


def test_show_tells_keys_shapes_bytes_and_files(saved):
    done = run("show", saved)
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 tensors, 67 elements, 268 B" in done.stdout
    row = next(line for line in done.stdout.splitlines() if line.startswith("model.w"))
    assert row.split() == ["model.w", "10", "x", "6", "float32", "240", "B", "1", "__0_0.distcp"]


def test_show_finds_draws_and_speaks_json(saved):
    assert "model.b" not in run("show", saved, "--find", "*.w").stdout.split("\n\n")[1]
    assert "[0:10, 0:6]" in run("show", saved, "--tensor", "model.w").stdout
    told = json.loads(run("show", saved, "--json").stdout)
    assert [(k["fqn"], k["bytes"]) for k in told["keys"][:2]] == [("model.w", 240), ("model.b", 28)]


def test_reshard_foretells_runs_and_compares(saved):
    done = run("reshard", saved, "--mesh", "2", "--placement", "Shard(0)")
    assert done.returncode == 0, done.stderr
    assert "2 ranks on cpu" in done.stdout
    assert "foretold = read: 268 B" in done.stdout
    assert "every element equals what is stored, bit for bit" in done.stdout


def test_reshard_can_only_foretell(saved):
    done = run("reshard", saved, "--mesh", "1000", "--placement", "Shard(0)", "--dry-run", "--json")
    told = json.loads(done.stdout)
    assert done.returncode == 0
    assert told["total"] == 268
    assert len(told["ranks"]) == 1000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("show", "/no/such/place"), "does not exist"),
        (("show", "{saved}", "--tensor", "model.x"), "did you mean 'model.w'"),
        (("reshard", "{saved}", "--mesh", "2by2"), "no mesh: '2by2'"),
        (("reshard", "{saved}", "--mesh", "2x2", "--placement", "Shard(0)"), "2 axes"),
        (("reshard", "{saved}", "--mesh", "2", "--placement", "Sard(0)"), "no placement: 'Sard(0)'"),
        (("reshard", "{saved}", "--mesh", "64", "--device", "cuda"), "64 ranks on CUDA need 64 GPUs"),
        (("lab", "/no/such/place"), "neither a folder nor a checkpoint"),
    ],
)
def test_a_users_mistake_is_one_line_and_status_2(saved, arguments, words):
    done = run(*(a.format(saved=saved) for a in arguments))
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.startswith("ckptlab: ")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_it_tells_its_version_and_its_commands():
    assert run("--version").stdout.startswith("ckptlab 0.")
    told = run("--help").stdout
    assert all(command in told for command in ("show", "reshard", "lab"))


def test_a_wrong_option_is_status_2_too(saved):
    assert run("show", saved, "--colour").returncode == 2


def test_damage_is_found_and_named(saved, tmp_path):
    import shutil

    path = tmp_path / "damaged"
    shutil.copytree(saved, path)
    data = path / "__0_0.distcp"
    data.write_bytes(data.read_bytes()[:100])
    done = run("reshard", path, "--mesh", "1", "--placement", "Replicate")
    assert done.returncode == 2
    assert "__0_0.distcp ends at byte 100" in done.stderr


def test_lab_hands_on_what_jupyter_is_asked(saved, tmp_path):
    """JupyterLab's own `--version` ends at once, so that the whole way there is taken."""
    command = [sys.executable, "-m", "ckptlab.cli", "lab", "--no-browser", "--port", "8991", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1][0].isdigit()
    copied = sorted(p.name for p in (tmp_path / "ckptlab-notebooks").iterdir())
    assert copied[0].startswith("01-")


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
def test_lab_tells_its_path_from_jupyters_options(words, path, options):
    from ckptlab.cli import _path_and_options

    assert _path_and_options(words) == (path, options)


def test_lab_never_writes_over_a_notebook_that_was_changed(tmp_path):
    from ckptlab.cli import _copy_notebooks

    first = _copy_notebooks(tmp_path / "books")
    first.write_text("mine")
    assert _copy_notebooks(tmp_path / "books").read_text() == "mine"
