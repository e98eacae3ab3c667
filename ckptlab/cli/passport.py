"""`ckptlab passport`: a checkpoint on one page, to attach to a bug report. It reads no weights."""

from __future__ import annotations

from typing import Annotated

import typer

from ckptlab.cli.terminal import PathArgument
from ckptlab.metadata import human_bytes
from ckptlab.widgets.passport import write_passport


def passport(
    path: PathArgument,
    output: Annotated[
        str,
        typer.Option("--output", "-o", help="The page to write; NAME-passport.html if not given."),
    ] = "",
) -> None:
    """Write one HTML page about a checkpoint, below 1 MB, to attach to a bug report.

    Keys, shapes, dtypes, mesh, files and a picture; it opens in any browser, without a network. No weights
    are in it, and of other objects only types, sizes and plain numbers. Names of keys and files are; of
    the path only the checkpoint's own name is, not the directories above it.

    Example: ckptlab passport runs/step-1000 -o step-1000.html
    """
    out = write_passport(path, output or None)
    print(f"{out}: {human_bytes(out.stat().st_size)}, no weights in it")
