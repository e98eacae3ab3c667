"""The first checkpoint to look at: one that the user named, or a small one that real ranks save now.

No torch in the process that asks, and no pictures.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from ckptlab.live.local import LocalRanks

ASKED = "CKPTLAB_CHECKPOINT"
"""The environment variable in which `ckptlab lab PATH` hands on the checkpoint it was given."""


def demo_checkpoint(path: str | os.PathLike[str] = "demo-checkpoint", world: int = 4) -> str:
    """The path of a checkpoint to look at: `$CKPTLAB_CHECKPOINT` if that is set, else `path`.

    If nothing is at `path`, `world` real ranks train a small model for one step under HSDP on a
    2 x (world / 2) mesh and save it there, which takes some seconds.
    """
    if asked := os.environ.get(ASKED):
        return asked
    target = Path(path)
    if not target.exists():
        from ckptlab.live.ops import save_demo

        target.parent.mkdir(parents=True, exist_ok=True)
        # Saved beside and renamed, so that a save that was stopped is not taken for a checkpoint later.
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".demo-") as folder:
            saved = Path(folder) / "checkpoint"
            with LocalRanks(world) as ranks:
                ranks.run(save_demo, str(saved.resolve()))
            shutil.move(saved, target)
    return str(target)
