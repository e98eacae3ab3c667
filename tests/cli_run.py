"""The command line, in this process, which has imported all it needs, or as a process of its own."""

import io
import os
import subprocess
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout
from subprocess import CompletedProcess
from unittest import mock

from ckptlab.cli import main


def run(*arguments):
    """What it printed, and how it ended; in this process."""
    words, out, err, status = [*map(str, arguments)], io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.object(sys, "argv", ["ckptlab", *words]),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            status = end.code or 0
        except Exception:
            traceback.print_exc()
            status = 1
    return CompletedProcess(words, status, out.getvalue(), err.getvalue())


def run_apart(*arguments, cwd=None, **environment):
    """The same of a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "ckptlab.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=cwd,
        env={**os.environ, **environment},
    )
