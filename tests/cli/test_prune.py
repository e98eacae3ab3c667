"""`ckptlab prune`: what stays, what goes, what it says."""

import json
import shutil

import pytest
from cli_run import run


@pytest.fixture
def root(saved, tmp_path):
    for step in (10, 20, 30, 40):
        shutil.copytree(saved, tmp_path / f"step-{step}")
    return tmp_path


def names(root):
    return sorted(p.name for p in root.iterdir())


def test_a_dry_run_removes_nothing(root):
    done = run("prune", root, "--keep-last", 1, "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    assert "would remove 3" in done.stdout
    assert len(names(root)) == 4


def test_the_last_and_every_nth_stay(root):
    done = run("prune", root, "--keep-last", 1, "--keep-every", 20, "--json")
    assert json.loads(done.stdout)["removed"] == ["step-10", "step-30"]
    assert names(root) == ["step-20", "step-40"]


def test_numbers_below_one(root):
    assert run("prune", root, "--keep-last", 0).returncode == 2
    assert len(names(root)) == 4
