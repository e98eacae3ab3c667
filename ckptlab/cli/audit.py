"""`ckptlab audit`: what would run if somebody unpickled this? It unpickles nothing."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from ckptlab.cli.terminal import JsonOption, bar, put_verdict
from ckptlab.storage.audit import audit as run


def audit(
    path: Annotated[
        str, typer.Argument(help="A checkpoint, a file, or a directory with some.", show_default=False)
    ],
    threads: Annotated[int, typer.Option(help="How many read at once.", min=1)] = 2,
    as_json: JsonOption = False,
) -> None:
    """Judge every pickle in a checkpoint; run none.

    Each is judged by the names that it asks for: .metadata, the wrapping of every chunk and object, files of
    torch.save in the directory and below it, and what is nested in these. The exit status is 1 if one asks
    for more than tensors and plain values.

    Example: ckptlab audit downloads/some-model
    """
    with bar(quiet=as_json) as told:
        found = run(path, progress=told, threads=threads)
    if as_json:
        print(json.dumps(asdict(found) | {"clean": found.clean}))
    else:
        verdict, _, rest = repr(found).partition("\n")
        put_verdict(verdict, found.clean)
        print(rest)
    if not found.clean:
        raise typer.Exit(1)
