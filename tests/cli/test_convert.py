"""`ckptlab convert`: there and back, and what it refuses."""

import json

import numpy as np
import pytest
from cli_run import run

from ckptlab import open_checkpoint


@pytest.mark.parametrize(
    ("target", "options"),
    [("out.pt", []), ("out", ["--to", "dcp"]), ("out.safetensors", ["--drop-objects"])],
)
def test_every_format(saved, tmp_path, target, options):
    done = run("convert", saved, tmp_path / target, *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{tmp_path / target} (")
    assert "): 2 tensors, " in done.stdout
    before, after = open_checkpoint(saved), open_checkpoint(tmp_path / target)
    for key in ("model.w", "model.b"):
        assert np.array_equal(before[key].numpy(), after[key].numpy())
    assert ("left out: step" in done.stdout) == ("--drop-objects" in options)


def test_some_keys_and_json(saved, tmp_path):
    done = run("convert", saved, tmp_path / "out.safetensors", "--keys", "*.w", "--json")
    told = json.loads(done.stdout)
    assert (told["format"], told["tensors"], told["objects"], told["nbytes"]) == ("safetensors", 1, 0, 240)
    assert open_checkpoint(tmp_path / "out.safetensors").keys() == ("model.w",)


def test_what_is_there_is_not_replaced_unasked(saved, tmp_path):
    target = tmp_path / "out.pt"
    assert run("convert", saved, target).returncode == 0
    before = target.read_bytes()
    refused = run("convert", saved, target, "--keys", "*.b")
    assert refused.returncode == 2
    assert target.read_bytes() == before
    assert run("convert", saved, target, "--keys", "*.b", "--overwrite").returncode == 0
    assert open_checkpoint(target).keys() == ("model.b",)


def test_objects_are_refused_unless_dropped(saved, tmp_path):
    done = run("convert", saved, tmp_path / "out.safetensors")
    assert done.returncode == 2
    assert "step" in done.stderr
    assert not (tmp_path / "out.safetensors").exists()
