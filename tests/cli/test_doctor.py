"""`ckptlab doctor`: its words, its file and its status."""

import json

import pytest
import torch
from cli_run import run

import ckptlab
from ckptlab.plan.transform import Transform

FACTORY = """
import torch

def build():
    return {"model": {"w": torch.empty(10, 6), "b": torch.empty(7)}, "step": 0}

def compiled():
    return {"model": {"_orig_mod": {"w": torch.empty(10, 6), "b": torch.empty(7, dtype=torch.bfloat16)}}}

def broken():
    raise RuntimeError("no such model")
"""


@pytest.fixture
def factory(tmp_path, monkeypatch):
    """A module in the current directory, under a name that no other test has imported."""
    name = f"models_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    return name


def test_a_target_that_fits_is_status_0(saved, factory):
    done = run("doctor", saved, f"{factory}:build")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("nothing found: all 3 keys of the state_dict fit")
    assert run("doctor", saved, saved).returncode == 0


def test_findings_are_told_and_their_transform_is_written_and_loads(saved, factory, tmp_path):
    done = run("doctor", saved, f"{factory}:compiled", "-o", tmp_path / "t.json", "--take", 2)
    assert done.returncode == 1, done.stdout
    for said in (
        "nothing: as it is, none",
        "wrapper: the target's names have '_orig_mod'",
        "narrowed:",
        "t.json",
    ):
        assert said in done.stdout
    target = {"model": {"_orig_mod": {"w": torch.zeros(10, 6), "b": torch.zeros(7, dtype=torch.bfloat16)}}}
    with pytest.warns(UserWarning, match="narrower"):
        ckptlab.load(target, saved, transform=Transform.read(tmp_path / "t.json"), no_dist=True)
    assert torch.equal(
        target["model"]["_orig_mod"]["w"], torch.from_numpy(ckptlab.open_checkpoint(saved)["model.w"][...])
    )


def test_json_has_every_key_and_the_sure_transform(saved, factory):
    done = run("doctor", saved, f"{factory}:compiled", "--json", "--measure")
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert (told["fitting"], told["asked"]) == (0, 2)
    wrapper, narrowed = (
        next(it for it in told["findings"] if it["kind"] == k) for k in ("wrapper", "narrowed")
    )
    assert wrapper["keys"] == ["model._orig_mod.w", "model._orig_mod.b"]
    assert wrapper["applied"]
    assert not narrowed["applied"]
    assert "of 7 elements change" in narrowed["cost"]
    assert "dtype" not in told["transform"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("none_such:build",), "gave no target: ModuleNotFoundError"),
        (("nowhere",), "does not exist"),
        (("a b:c",), "no path that exists"),
        (("{factory}:broken",), "no such model"),
        (("{saved}", "--take", "0"), "no finding 0: there are 0 findings"),
    ],
)
def test_wrong_use_is_status_2_and_one_line(saved, factory, words, said):
    done = run("doctor", saved, *(word.format(factory=factory, saved=saved) for word in words))
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
