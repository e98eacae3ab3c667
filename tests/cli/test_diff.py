"""`ckptlab diff`: its words, its status, its JSON and CSV."""

import csv
import json

import pytest
import torch
from cli_run import run

import ckptlab


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """The same weights under other names, one of them changed; another step."""
    path = tmp_path_factory.mktemp("other") / "step-2"
    torch.manual_seed(0)
    w, b = torch.randn(10, 6), torch.randn(7)
    w[3, 2] += 1
    ckptlab.save({"net": {"w": w, "b": b}, "step": 4}, path, no_dist=True)
    return path


def test_equal_is_status_0(saved):
    done = run("diff", saved, saved)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(
        f"a {saved} (dcp), b {saved} (dcp): equal, bit for bit\n  3 keys: 3 equal\n"
    )
    assert "model.w" not in done.stdout
    assert (
        "model.w  equal  float32  10 x 6       0        0       0\n"
        in run("diff", saved, saved, "--all").stdout
    )


def test_different_is_status_1_and_says_where(saved, other):
    done = run("diff", saved, other, "--rename", "model.=net.")
    assert (done.returncode, done.stderr) == (1, "")
    assert "DIFFERENT\n  3 keys: 1 equal, 2 with other values\n" in done.stdout
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line}
    assert lines["model.w"].split()[1:7] == ["values", "float32", "10", "x", "6", "1"]
    assert "net.w in b; worst at [3, 2]: " in lines["model.w"]
    assert lines["step"].endswith("3 -> 4")
    assert run("diff", saved, other).stdout.count("only b") == 2
    assert run("diff", saved, other, "--rename", "model.=net.", "--metadata").returncode == 0
    assert run("diff", saved, other, "--rename", "model.=net.", "--keys", "*.b").returncode == 0
    assert (
        run("diff", saved, other, "--rename", "model.=net.", "--keys", "model.*", "--atol", "1.1").returncode
        == 0
    )


def test_programs_are_told_all(saved, other, tmp_path):
    done = run("diff", saved, other, "--rename", "model.=net.", "--json", "--csv", tmp_path / "rows.csv")
    told = json.loads(done.stdout)
    assert (done.returncode, done.stderr, told["equal"], told["states"]) == (
        1,
        "",
        False,
        {"values": 2, "equal": 1},
    )
    row = told["changes"][0]
    assert (row["key"], row["key_b"], row["different"], row["worst"]) == ("model.w", "net.w", 1, [3, 2])
    with open(tmp_path / "rows.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["key"], row["state"]) for row in rows] == [(r["key"], r["state"]) for r in told["changes"]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("/no/such/place",), "does not exist"),
        (("{saved}", "--keys", "nothing"), "has 'nothing'"),
        (("{saved}", "--rename", "model."), "--rename 'model.' is not OLD=NEW"),
        (("{saved}", "--csv", "/no/such/rows.csv"), "cannot write /no/such/rows.csv"),
    ],
)
def test_used_wrongly_is_status_2_and_one_line(saved, options, words):
    done = run("diff", saved, *(option.format(saved=saved) for option in options))
    assert done.returncode == 2
    assert done.stderr.startswith("ckptlab: ")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert run("diff", saved).returncode == 2
