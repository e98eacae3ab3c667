"""`ckptlab verify`: its words and its status."""

import json
import os
import shutil

import torch
from cli_run import run


def damaged(saved, tmp_path):
    path = tmp_path / "damaged"
    shutil.copytree(saved, path)
    file = path / "__0_0.distcp"
    data, then = bytearray(file.read_bytes()), file.stat().st_mtime
    data[710] ^= 1
    file.write_bytes(data)
    os.utime(file, (then, then))
    return path


def test_a_whole_one(saved):
    done = run("verify", saved)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{saved} (dcp) is whole\n  read ")
    assert "2 chunks, 1 object" in done.stdout


def test_a_damaged_one(saved, tmp_path):
    path = damaged(saved, tmp_path)
    done = run("verify", path)
    assert (done.returncode, done.stderr) == (1, "")
    assert "is DAMAGED: 1 finding, 1 key concerned" in done.stdout
    assert "  damage crc: __0_0.distcp: chunk Box[0:10, 0:6] of tensor 'model.w', bytes 0 to " in done.stdout


def test_json(saved, tmp_path):
    assert json.loads(run("verify", saved, "--json").stdout)["whole"] is True
    done = run("verify", damaged(saved, tmp_path), "--json", "--threads", "3")
    told = json.loads(done.stdout)
    assert (done.returncode, told["whole"]) == (1, False)
    [finding] = told["findings"]
    assert (finding["severity"], finding["what"], finding["keys"]) == ("damage", "crc", ["model.w"])


def test_a_file_that_torch_wrote(tmp_path):
    torch.save({"w": torch.ones(3)}, tmp_path / "state.pt")
    assert run("verify", tmp_path / "state.pt").returncode == 0
