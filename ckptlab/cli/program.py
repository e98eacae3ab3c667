"""All commands in one program, and how it ends.

Status 0 when all is well, 1 when something was found: damage, what is unsafe, a difference; 2 and one line
for a user's mistake, 130 when stopped. It knows no command from within.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from ckptlab.cli.audit import audit
from ckptlab.cli.convert import convert
from ckptlab.cli.diff import diff
from ckptlab.cli.doctor import doctor
from ckptlab.cli.lab import lab
from ckptlab.cli.passport import passport
from ckptlab.cli.prune import prune
from ckptlab.cli.reshard import reshard
from ckptlab.cli.show import show
from ckptlab.cli.verify import verify
from ckptlab.errors import CheckpointError, CorruptError, UnsafeError

_WHAT = """See, compare, check and reshard sharded PyTorch checkpoints, of any format.

The exit status is 0 when all is well, 1 when something was found, 2 when it was used wrongly.
Each command tells of itself: ckptlab diff --help
"""

app = typer.Typer(
    name="ckptlab",
    help=_WHAT,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(show)
app.command()(doctor)
app.command()(diff)
app.command()(verify)
app.command()(audit)
app.command()(reshard)
app.command()(convert)
app.command()(prune)
app.command()(passport)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(lab)


def main() -> None:
    """Run the command; never a traceback for what a user did."""
    try:
        app(prog_name="ckptlab")
    except CheckpointError as error:
        print(f"ckptlab: {error}", file=sys.stderr)
        found = isinstance(error, CorruptError | UnsafeError)
        raise SystemExit(1 if found else 2) from None


def _print_version(asked: bool) -> None:
    if asked:
        print(f"ckptlab {version('ckptlab')}")
        raise typer.Exit


@app.callback(help=_WHAT)
def ckptlab(
    _: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Run before any command."""
