"""`ckptlab reshard`: what it foretells, what it runs, and its verdict."""

import json
import shutil

import pytest
import torch
from cli_run import run
from s3server import far, gate, server

import ckptlab
from ckptlab import open_checkpoint
from ckptlab.plan.transform import Part, Transform

__all__ = ["far", "gate", "server"]


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


def test_too_many_ranks_are_refused_before_any_is_started(saved):
    done = run("reshard", saved, "--mesh", "1000")
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr == "ckptlab: 1,000 ranks are too many for one machine; --dry-run foretells any number\n"
    )


@pytest.fixture
def damaged(saved, tmp_path):
    """The same with one bit flipped in the first element of `w`."""
    path = shutil.copytree(saved, tmp_path / "damaged")
    opened = open_checkpoint(path)
    held = bytearray((path / "__0_0.distcp").read_bytes())
    held[held.index(opened["model.w"][:].tobytes())] ^= 1
    (path / "__0_0.distcp").write_bytes(held)
    return path


def test_a_flipped_bit_is_found_in_a_chunk_that_is_read_in_part(damaged):
    """What is compared is the same damaged bytes twice: only the checksum knows better."""
    columns = ("--mesh", "2", "--placement", "Shard(1)")
    done = run("reshard", damaged, *columns, "--json")
    assert done.returncode == 1
    assert "'model.w'" in done.stderr
    assert "its bytes have crc" in done.stderr
    assert "its bytes have crc" in json.loads(done.stdout)["error"]
    assert run("reshard", damaged, *columns, "--no-verify").returncode == 0


def test_of_a_far_checkpoint_requests_are_foretold_and_counted(gate, far):
    wanted = {"w": torch.arange(600_000.0).reshape(600, 1000), "b": torch.ones(8)}
    ckptlab.save(wanted, far, no_dist=True)
    columns = ("--mesh", "2", "--placement", "Shard(1)")
    done = run("reshard", far, *columns, "--json")
    assert done.returncode == 0, done.stderr
    ranks = json.loads(done.stdout)["ranks"]
    assert [rank["requests"] for rank in ranks] == [rank["foretold_requests"] for rank in ranks]
    assert [rank["fetched"] for rank in ranks] == [rank["foretold_fetched"] for rank in ranks]
    # The span of the small tensor; a head, the columns, a crc and all that it is of.
    assert [rank["requests"] for rank in ranks] == [5, 5]
    said = run("reshard", far, *columns, "--dry-run", "--no-verify").stdout
    assert said.endswith(" in 6 requests\n")


def test_what_a_transform_makes_is_loaded_and_compared(saved, tmp_path):
    halves = {"top": (Part("model.w", stored=((0, 5), (0, 6))),), "turned": (Part("model.w", dims=(1, 0)),)}
    Transform(rename=((r"^model\.", ""),), parts=halves).save(tmp_path / "change.json")
    done = run("reshard", saved, "--mesh", "2", "--transform", tmp_path / "change.json")
    assert done.returncode == 0, done.stderr
    assert "foretold = read 388 B. All 97 loaded elements equal the stored ones" in done.stdout
    Transform(parts={"w": (Part("nothing"),)}).save(tmp_path / "wrong.json")
    done = run("reshard", saved, "--mesh", "2", "--transform", tmp_path / "wrong.json")
    assert done.returncode == 2
    assert "'nothing'" in done.stderr
