"""The command line as a process."""

import os
import subprocess
import sys


def run(*arguments, cwd=None, **environment):
    """What it printed, and how it ended."""
    command = [sys.executable, "-m", "ckptlab.cli", *map(str, arguments)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=cwd,
        env={**os.environ, **environment},
    )
