"""`ckptlab reshard`: what it foretells, what it runs, and its verdict."""

import json

from cli_run import run


def test_it_foretells_runs_and_compares(saved):
    done = run("reshard", saved, "--mesh", "2", "--placement", "Shard(0)")
    assert done.returncode == 0, done.stderr
    assert "2 ranks on cpu" in done.stdout
    assert (
        "foretold = read 268 B. All 67 loaded elements equal the stored ones, bit for bit.\n" in done.stdout
    )


def test_it_can_only_foretell(saved):
    done = run("reshard", saved, "--mesh", "1000", "--placement", "Shard(0)", "--dry-run", "--json")
    told = json.loads(done.stdout)
    assert done.returncode == 0
    assert told["total"] == 268
    assert len(told["ranks"]) == 1000
