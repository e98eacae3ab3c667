"""The command `ckptlab`: look at a checkpoint, verify it, load it on another mesh, open the notebooks.

A face only: what it prints, `explorer`, `plan` and `storage` know; what it runs, `live` runs. One
module a command; `program` puts them together, `terminal` has what several print with.
"""

from ckptlab.cli.program import main

__all__ = ["main"]
