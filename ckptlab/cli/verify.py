"""`ckptlab verify`: is a checkpoint whole? It changes nothing."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from ckptlab.cli.terminal import JsonOption, PathArgument, bar, put_verdict
from ckptlab.storage.verify import verify as run


def verify(
    path: PathArgument,
    threads: Annotated[int, typer.Option(help="How many read at once.", min=1)] = 2,
    as_json: JsonOption = False,
) -> None:
    """Read all of a checkpoint: is it whole?

    What is damaged, doubtful or left over is told: every file, every place, every stored checksum, and
    what another save left or wrote over. The exit status is 1 if anything is damaged.

    Example: ckptlab verify runs/step-1000
    """
    with bar(quiet=as_json) as told:
        found = run(path, progress=told, threads=threads)
    if as_json:
        print(json.dumps(asdict(found) | {"whole": found.whole}))
    else:
        verdict, _, rest = repr(found).partition("\n")
        put_verdict(verdict, found.whole)
        print(rest, end="\n" if rest else "")
    if not found.whole:
        raise typer.Exit(1)
