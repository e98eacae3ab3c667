"""`ckptlab show`: what it prints."""

import json

from cli_run import run


def test_keys_shapes_bytes_and_files(saved):
    done = run("show", saved)
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 tensors, 67 elements, 268 B" in done.stdout
    row = next(line for line in done.stdout.splitlines() if line.startswith("model.w"))
    assert row.split() == ["model.w", "10", "x", "6", "float32", "240", "B", "1", "__0_0.distcp"]


def test_it_finds_draws_and_speaks_json(saved):
    assert "model.b" not in run("show", saved, "--find", "*.w").stdout.split("\n\n")[1]
    assert "[0:10, 0:6]" in run("show", saved, "--tensor", "model.w").stdout
    told = json.loads(run("show", saved, "--json").stdout)
    assert [(k["fqn"], k["bytes"]) for k in told["keys"][:2]] == [("model.w", 240), ("model.b", 28)]
