"""Drivers of their own: a plain script without a guard, and one that is killed."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent.parent
ROOT = HERE.parent


def driver(tmp_path, text):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(text))
    paths = os.pathsep.join([str(ROOT), str(HERE)])
    return [sys.executable, "-W", "error", str(script)], os.environ | {"PYTHONPATH": paths}


def test_an_unguarded_script_runs_once_imports_no_torch_and_its_own_functions_are_refused(tmp_path):
    command, environment = driver(
        tmp_path,
        """
        import sys
        from ckptlab.errors import CheckpointError
        from ckptlab.live import LocalRanks
        import live_ops as ops

        print("begin")

        def mine(context):
            return context.rank

        class Mine:
            pass

        with LocalRanks(2, device="cpu") as ranks:
            print(__file__ and ranks.run(ops.total))
            for call in [(mine,), (ops.whoami, Mine()), (lambda context: 0,)]:
                try:
                    ranks.run(*call)
                except CheckpointError as error:
                    print(error)
            print("torch" in sys.modules)
        """,
    )
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    lines = done.stdout.splitlines()
    assert done.stderr == ""
    assert lines[:2] == ["begin", "[[3.0, 3.0, 3.0], [3.0, 3.0, 3.0]]"]
    assert lines[2].startswith("`mine` is defined in __main__")
    assert lines[3].startswith("`Mine` is defined in __main__")
    assert lines[4].startswith("`<lambda>` is defined in __main__")
    assert lines[5:] == ["False"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_rank_outlives_a_killed_driver(tmp_path):
    command, environment = driver(
        tmp_path,
        """
        from ckptlab.live import LocalRanks
        import live_ops as ops

        ranks = LocalRanks(3, device="cpu")
        ranks.run(ops.total)
        print(*ranks.pids, flush=True)
        ranks.run(ops.stuck, 1, progress=lambda rank, what: print(what, flush=True))
        """,
    )
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert process.stdout.readline() == "stuck\n"
        assert len(running(pids)) == 3
        os.kill(process.pid, signal.SIGKILL)
        until = time.monotonic() + 2.0
        while running(pids) and time.monotonic() < until:
            time.sleep(0.02)
        assert not running(pids)


def running(pids):
    def state(pid):
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return "gone"

    return [pid for pid in pids if state(pid) not in ("Z", "gone")]
