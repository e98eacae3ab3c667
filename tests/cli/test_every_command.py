"""What holds for every command: a help page with an example, JSON for programs, plain words where piped."""

import json
import os
import pty
import re
import shutil
import subprocess
import sys

import pytest
import torch
from cli_run import run

from ckptlab.cli.program import app

COMMANDS = [command.callback.__name__ for command in app.registered_commands]
FANCY = re.compile("[\x1b\x07\u2500-\u259f\u25a0-\u25ff\u2713\u2717]")
"""Colours, bells, box drawing, blocks."""


@pytest.fixture(scope="module")
def used(saved, tmp_path_factory):
    """Each command as it is used, and the status with which it then ends."""
    work = tmp_path_factory.mktemp("used")
    shutil.copytree(saved, work / "damaged")
    file = work / "damaged" / "__0_0.distcp"
    data = bytearray(file.read_bytes())
    data[710] ^= 1
    file.write_bytes(data)
    torch.save({"model.w": torch.ones(10, 6)}, work / "other.pt")
    shutil.copytree(saved, work / "runs" / "step-1")
    return {
        "show": (("show", saved), 0),
        "show --tensor": (("show", saved, "--tensor", "model.w"), 0),
        "doctor": (("doctor", saved, saved), 0),
        "diff": (("diff", saved, saved), 0),
        "diff of others": (("diff", saved, work / "other.pt"), 1),
        "verify": (("verify", saved), 0),
        "verify of a damaged one": (("verify", work / "damaged"), 1),
        "audit": (("audit", saved), 0),
        "convert": (("convert", saved, work / "made.pt", "--overwrite"), 0),
        "convert of a damaged one": (("convert", work / "damaged", work / "not.pt"), 1),
        "reshard": (("reshard", saved, "--mesh", "4", "--dry-run"), 0),
        "prune": (("prune", work / "runs", "--keep-last", 1, "--dry-run"), 0),
        "passport": (("passport", saved, "-o", work / "page.html"), 0),
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_one_help_page_with_an_example(command):
    done = run(command, "--help")
    assert done.returncode == 0
    assert f"Example: ckptlab {command} " in done.stdout
    assert not FANCY.search(done.stdout)
    assert ("--json" in done.stdout) == (command != "lab")


def test_every_command_but_the_lab_is_used_here(used):
    assert {name.split()[0] for name in used} == set(COMMANDS) - {"lab"}
    short = [line for line in run("--help").stdout.splitlines() if line.startswith("  ")]
    assert all(any(line.split()[0] == name for line in short) for name in COMMANDS)


@pytest.mark.parametrize(
    "name",
    [
        "show", "show --tensor", "doctor", "diff", "diff of others", "verify", "verify of a damaged one",
        "audit", "convert", "convert of a damaged one", "reshard", "prune", "passport",
    ],
)  # fmt: skip
def test_plain_where_piped_and_json_for_programs(used, name):
    arguments, status = used[name]
    plain, told = run(*arguments), run(*arguments, "--json")
    assert (plain.returncode, told.returncode) == (status, status), plain.stderr + told.stderr
    assert not FANCY.search(plain.stdout + plain.stderr)
    assert "Traceback" not in plain.stderr + told.stderr
    if plain.stdout or not plain.stderr:
        assert isinstance(json.loads(told.stdout), dict | list)
        assert told.stdout.count("\n") == 1
        assert told.stderr == ""


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"lab"}))
def test_used_wrongly(command):
    """Without what it needs, with what it has not: status 2, and where to look."""
    for arguments in ((command,), (command, "a", "b", "c", "d"), (command, "--colour")):
        done = run(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"Usage: ckptlab {command}" in done.stderr
        assert not FANCY.search(done.stderr)


def test_colours_and_progress_on_a_terminal(saved, used):
    """Of a process of its own, whose three streams are a terminal."""
    (_, _, other), _ = used["diff of others"]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "ckptlab.cli", "diff", str(saved), str(other)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "NO_COLOR": ""},
    )
    os.close(theirs)
    said = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # how a terminal ends
            break
        if not part:
            break
        said += part
    os.close(ours)
    assert process.wait(60) == 1
    words = said.decode()
    assert "\x1b[1;31ma " in words
    assert "read" in words.partition("DIFFERENT")[0]
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", words)
    assert re.search(r"model\.w +values +float32 +10 x 6 +60 ", plain)
