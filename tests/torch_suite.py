"""PyTorch's own tests of its checkpoints, run on torch and, with only the imports changed, on ckptlab.

`python tests/torch_suite.py FOLDER [NAME ...]` prints what passes on torch and does not on ckptlab.
FOLDER is test/distributed/checkpoint of pytorch's source; it is not part of this project.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from contextlib import suppress
from pathlib import Path

HOUSE = Path(__file__).parent.parent
SECONDS = 900


def rewrite(source):
    """The source with ckptlab.dcp wherever it says torch.distributed.checkpoint."""
    return re.sub(r"\btorch\.distributed\.checkpoint\b", "ckptlab.dcp", source)


def files(folder):
    """The test files of a folder, by their path in it."""
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("test_*.py"))


def outcomes(folder, name, ours, at):
    """How each test of a file ends, by its id; `at` is an empty folder to work in."""
    copy = Path(at, Path(name).name)
    source = Path(folder, name).read_text()
    copy.write_text(rewrite(source) if ours else source)
    report = Path(at, "report.xml")
    command = [sys.executable, "-m", "pytest", copy.name, "-v", "--rootdir=.", "-c", os.devnull]
    command += ["-p", "no:cacheprovider", f"--junitxml={report}"]
    path = [os.environ.get("CKPTLAB_HOUSE", str(HOUSE)), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path)), "TMPDIR": str(at)}
    env |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    log = Path(at, "log.txt")
    with log.open("w") as out:
        # A session of its own, so that ranks that hang end with it.
        process = subprocess.Popen(command, cwd=at, env=env, stdout=out, stderr=out, start_new_session=True)
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            out.write(f"\nstopped after {SECONDS} s")
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if not report.exists():
        return {f"{name}": "no report"}
    return {
        f"{name}::{case.get('classname').split('.')[-1]}::{case.get('name')}": _outcome(case)
        for case in ET.parse(report).iter("testcase")
    }


def _outcome(case):
    kinds = {child.tag for child in case}
    return next((kind for kind in ("failure", "error", "skipped") if kind in kinds), "passed")


def compare(folder, name, keep=None):
    """Outcomes of one file on torch and on ckptlab; logs stay under `keep`."""
    both = []
    for ours in (False, True):
        with tempfile.TemporaryDirectory() as scratch:
            at = Path(keep, "ckptlab" if ours else "torch", name) if keep else Path(scratch)
            at.mkdir(parents=True, exist_ok=True)
            both.append(outcomes(folder, name, ours, at))
    return tuple(both)


def lost(torchs, ours):
    """The tests that pass on torch and do not on ckptlab, each with what became of it."""
    passed = [test for test, outcome in torchs.items() if outcome == "passed"]
    return [f"{test}: {ours.get(test, 'not run')}" for test in passed if ours.get(test) != "passed"]


def main(folder, names, keep=None):
    """Print a line a file, and every test that passes on torch alone; the number of those."""
    ran = missing = 0
    for name in names or files(folder):
        torchs, ours = compare(folder, name, keep)
        passed = sum(outcome == "passed" for outcome in torchs.values())
        skipped = sum(outcome == "skipped" for outcome in torchs.values())
        found = lost(torchs, ours)
        ran, missing = ran + passed, missing + len(found)
        print(f"{name}: {len(torchs)} tests, {skipped} skipped, {passed} pass on torch, {len(found)} lost")
        print("".join(f"    {line}\n" for line in found), end="", flush=True)
    print(f"{ran} pass on torch, {ran - missing} of them on ckptlab")
    return missing


if __name__ == "__main__":
    sys.exit(bool(main(sys.argv[1], sys.argv[2:], os.environ.get("CKPTLAB_TORCH_LOGS"))))
