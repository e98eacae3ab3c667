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
from rich.text import Text

from ckptlab.events import Event
from ckptlab.events import Progress as Told

PathArgument = Annotated[
    str, typer.Argument(help="A checkpoint: a directory, a file, or the URL of one.", show_default=False)
]
_UNCUT = 1 << 16
"""Letters of a line that nobody's terminal limits."""

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def console() -> Console:
    """Plain and as wide as it takes where it is piped, so that nothing is cut; words are never markup."""
    width = None if sys.stdout.isatty() else _UNCUT
    return Console(width=width, markup=False, highlight=False, emoji=False)


def table(*columns: str) -> Table:
    """A plain table; a name that begins with `>` is a column of numbers."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        # In a narrow terminal a long key goes on in the next line, and every other column stays whole.
        folds = name in ("key", "what")
        justify: Literal["left", "right"] = "right" if name.startswith(">") else "left"
        made.add_column(
            name.removeprefix(">"),
            justify=justify,
            no_wrap=not folds,
            overflow="fold" if folds else "ellipsis",
            min_width=16 if folds and sys.stdout.isatty() else None,
        )
    return made


def put_table(made: Table) -> None:
    """Print a table; without blanks at the ends of lines where it is piped."""
    screen = console()
    if screen.is_terminal:
        screen.print(made)
        return
    with screen.capture() as caught:
        screen.print(made)
    print("\n".join(line.rstrip() for line in caught.get().splitlines()))


def put_verdict(text: str, good: bool) -> None:
    """Print a line that says how it came out, in a colour where there are any."""
    console().print(Text(text, style="green" if good else "bold red"), soft_wrap=True)


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
