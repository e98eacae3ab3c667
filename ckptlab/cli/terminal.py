"""What several commands print with: tables, one progress bar, the options that they share.

It knows no checkpoint.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from ckptlab.events import Event
from ckptlab.events import Progress as Told

PathArgument = Annotated[
    str, typer.Argument(help="A checkpoint: a directory, a file, or the URL of one.", show_default=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def console() -> Console:
    """Wide where nobody's terminal limits it, so that nothing is cut when piped."""
    return Console() if sys.stdout.isatty() else Console(width=240)


def table(*columns: str) -> Table:
    """A plain table; a name that begins with `>` is a column of numbers."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        # In a narrow terminal a long key goes on in the next line, and every other column stays whole.
        key = name == "key"
        justify: Literal["left", "right"] = "right" if name.startswith(">") else "left"
        made.add_column(
            name.removeprefix(">"), justify=justify, no_wrap=not key, overflow="fold" if key else "ellipsis"
        )
    return made


@contextmanager
def bar(quiet: bool) -> Iterator[Told]:
    """A bar of bytes on a terminal's stderr, moved by the events of a work that tells them."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    screen = Console(stderr=True)
    with Progress(
        *columns, console=screen, disable=quiet or not screen.is_terminal, transient=True
    ) as progress:
        task = progress.add_task("", total=None)

        def told(event: Event) -> None:
            progress.update(task, description=event.phase, completed=event.done, total=event.total or None)

        yield told
