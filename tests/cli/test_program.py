"""How the command line ends, whatever the command."""

import shutil
import signal
import subprocess
import sys
import time

import pytest
from cli_run import run, run_apart


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("show", "/no/such/place"), "does not exist"),
        (("show", "{saved}", "--tensor", "model.x"), "did you mean 'model.w'"),
        (("verify", "/no/such/place"), "does not exist"),
        (("verify", "/"), "holds no checkpoint"),
        (("reshard", "{saved}", "--mesh", "2by2"), "no mesh: '2by2'"),
        (("reshard", "{saved}", "--mesh", "2x2", "--placement", "Shard(0)"), "2 axes"),
        (("reshard", "{saved}", "--mesh", "2", "--placement", "Sard(0)"), "no placement: 'Sard(0)'"),
        (("reshard", "{saved}", "--mesh", "64", "--device", "cuda"), "64 ranks on CUDA need 64 GPUs"),
        (("convert", "{saved}", "/tmp/no-format"), "its name tells no format"),
        (("prune", "/no/such/place", "--keep-last", "2"), "does not exist"),
        (("lab", "/no/such/place"), "neither a folder nor a checkpoint"),
        (("lab", __file__), "is no checkpoint"),
        (("lab", "memory://no/such/place"), "does not exist, or is empty"),
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
    told = run_apart("--help").stdout
    assert all(command in told for command in ("show", "verify", "reshard", "convert", "prune", "lab"))


def test_a_wrong_option_is_status_2_too(saved):
    assert run("show", saved, "--colour").returncode == 2


def test_a_process_ends_no_otherwise(saved):
    for arguments in (("show", saved), ("show", "/no/such/place")):
        apart, here = run_apart(*arguments), run(*arguments)
        assert (apart.returncode, apart.stdout, apart.stderr) == (here.returncode, here.stdout, here.stderr)


def test_damage_is_found_and_named(saved, tmp_path):
    path = tmp_path / "damaged"
    shutil.copytree(saved, path)
    data = path / "__0_0.distcp"
    data.write_bytes(data.read_bytes()[:100])
    done = run("reshard", path, "--mesh", "1", "--placement", "Replicate")
    assert done.returncode == 1
    assert "__0_0.distcp ends at byte 100" in done.stderr


def test_ctrl_c_ends_it_without_a_traceback():
    code = (
        "import sys, time\n"
        "import ckptlab.cli.verify as verify\n"
        "def run(*arguments, **options): print('at it', flush=True); time.sleep(100)\n"
        "verify.run = run\n"
        "sys.argv = ['ckptlab', 'verify', 'somewhere']\n"
        "from ckptlab.cli import main; main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "at it\n"
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - began < 30
    assert (process.returncode, said) == (130, "")
