"""`ckptlab prune`: old checkpoints of a run go, the last and every n-th stay. It decides nothing."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from ckptlab.cli.terminal import JsonOption
from ckptlab.storage.retention import prune as run


def prune(
    root: Annotated[str, typer.Argument(help="The directory of the checkpoints.", show_default=False)],
    keep_last: Annotated[int, typer.Option(help="So many whole ones stay, the newest.", show_default=False)],
    keep_every: Annotated[int | None, typer.Option(help="Steps that this divides stay, too.")] = None,
    remove_unfinished: Annotated[
        bool, typer.Option("--remove-unfinished", help="Remove older ones that are not whole.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove a run's DCP checkpoints but the last few and every n-th.

    A checkpoint's step is the last number in its directory's name. Killed at any moment, it leaves as many
    whole ones as it was to keep.

    Example: ckptlab prune runs --keep-last 3 --keep-every 1000 --dry-run
    """
    report = run(
        root,
        keep_last=keep_last,
        keep_every=keep_every,
        remove_unfinished=remove_unfinished,
        dry_run=dry_run,
    )
    print(json.dumps(asdict(report)) if as_json else report)
