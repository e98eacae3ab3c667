"""`ckptlab audit`: its words and its status."""

import json

from cli_run import run
from hostile import ATTEMPTS


def test_a_clean_one(saved):
    done = run("audit", saved)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(
        f"{saved}: nothing in it asks for more than tensors and plain values\n  looked"
    )
    told = json.loads(run("audit", saved, "--json").stdout)
    assert (told["clean"], told["refused"], told["pickles"]) == (True, [], 4)


def test_one_that_would_run_something(tmp_path):
    canary = tmp_path / "canary"
    (tmp_path / "model.pkl").write_bytes(ATTEMPTS["global"](str(canary)))
    done = run("audit", tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert "REFUSED: 1 pickle, 1 of them to run something\n" in done.stdout
    assert "  danger  model.pkl: asks for os.system, which runs commands\n" in done.stdout
    done = run("audit", tmp_path / "model.pkl", "--json", "--threads", "3")
    (refused,) = json.loads(done.stdout)["refused"]
    assert (done.returncode, refused["severity"], refused["names"]) == (1, "danger", ["os.system"])
    assert not canary.exists()


def test_where_nothing_is_is_status_2(tmp_path):
    done = run("audit", tmp_path / "nothing")
    assert done.returncode == 2
    assert done.stderr.startswith("ckptlab: ")
    assert "does not exist" in done.stderr
