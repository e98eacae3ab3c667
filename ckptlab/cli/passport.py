"""`ckptlab passport`: a checkpoint on one page, to attach to a bug report. It reads no weights."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from ckptlab.cli.terminal import JsonOption, PathArgument
from ckptlab.errors import CheckpointError
from ckptlab.metadata import human_bytes
from ckptlab.storage import open_checkpoint
from ckptlab.storage.listing import listing


def passport(
    path: PathArgument,
    output: Annotated[
        str,
        typer.Option("--output", "-o", help="The page to write; NAME-passport.html if not given."),
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Write one HTML page about a checkpoint, below 1 MB, to attach to a bug report.

    Keys, shapes, dtypes, mesh, files and a picture; it opens in any browser, without a network. No weights
    are in it, and of other objects only types, sizes and plain numbers. Names of keys and files are; of
    the path only the checkpoint's own name is, not the directories above it. Of one that cannot be opened
    it says what is wrong and lists the files; the exit status is then 1.

    Example: ckptlab passport runs/step-1000 -o step-1000.html
    """
    # Drawing takes half a second to import, which no other command need wait for.
    from ckptlab.widgets.passport import write_passport, write_unreadable

    try:
        opened = open_checkpoint(path)
    except CheckpointError as error:
        if not listing(path):
            raise
        # What cannot be opened has need of a bug report more than any other.
        out = write_unreadable(error, path, output or None)
        print(f"ckptlab: {error}", file=sys.stderr)
        print(f"{out}: what is wrong, and the files that are there")
        raise typer.Exit(1) from None
    out = write_passport(opened, output or None)
    nbytes = out.stat().st_size
    if as_json:
        print(json.dumps({"page": str(out), "bytes": nbytes}))
    else:
        print(f"{out}: {human_bytes(nbytes)}, no weights in it")
