"""`ckptlab diff`: what is not the same in two checkpoints. It changes nothing."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.table import Table

from ckptlab.cli.terminal import JsonOption, bar, put_table, put_verdict, table
from ckptlab.errors import CheckpointError
from ckptlab.explorer.compare import compare
from ckptlab.explorer.compare_result import Change, Comparison
from ckptlab.metadata import human_shape

_MOST = 50


def diff(
    a: Annotated[str, typer.Argument(help="A checkpoint, of any format.", show_default=False)],
    b: Annotated[str, typer.Argument(help="Another, of any format.", show_default=False)],
    keys: Annotated[str, typer.Option(help="Only keys that fit this pattern, such as 'model.*'.")] = "",
    rename: Annotated[
        list[str] | None,
        typer.Option(help="OLD=NEW: keys of A that begin with OLD begin with NEW in B.", show_default=False),
    ] = None,
    metadata: Annotated[
        bool, typer.Option("--metadata", help="Compare keys, shapes and dtypes only; read no data.")
    ] = False,
    rtol: Annotated[float | None, typer.Option(help="Close is |b-a| <= atol + rtol*|a|.", min=0)] = None,
    atol: Annotated[float | None, typer.Option(help="The same; without both, bits count.", min=0)] = None,
    every: Annotated[bool, typer.Option("--all", help="List every key, the equal ones too.")] = False,
    csv: Annotated[str, typer.Option(help="Write a row for each key into this CSV file.")] = "",
    threads: Annotated[int, typer.Option(help="How many read at once.", min=1)] = 2,
    as_json: JsonOption = False,
) -> None:
    """Compare two checkpoints, element by element.

    They may have any formats and shardings. The exit status is 0 if they are equal, 1 if not. Where
    chunks and files are does not count; it is told.

    Example: ckptlab diff runs/step-1000 model.safetensors --keys 'model.*'
    """
    names = [_pair(text) for text in rename or []]
    with bar(quiet=as_json) as told:
        found = compare(
            a,
            b,
            keys=keys or None,
            rename=(lambda key: _renamed(key, names)) if names else None,
            values=not metadata,
            rtol=rtol,
            atol=atol,
            threads=threads,
            progress=told,
        )
    if csv:
        found.to_csv(csv)
    if as_json:
        print(json.dumps(found.record(), allow_nan=False))
    else:
        _print(found, every)
    if not found.equal:
        raise typer.Exit(1)


def _pair(text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not equals:
        raise CheckpointError(f"--rename {text!r} is not OLD=NEW", [text])
    return old, new


def _renamed(key: str, names: list[tuple[str, str]]) -> str:
    """The key as the first of the pairs that fits has it."""
    for old, new in names:
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key


def _print(found: Comparison, every: bool) -> None:
    verdict, *rest = found.headline()
    put_verdict(verdict, found.equal)
    print("\n".join(rest))
    shown = found.changes if every else found.differing[:_MOST]
    if shown:
        print()
        put_table(_table(list(shown)))
    if not every and (more := len(found.differing) - len(shown)):
        print(f"... and {more:,} more: --all lists every key")


def _table(changes: list[Change]) -> Table:
    made = table("key", "state", "dtype", "shape", ">differ", ">largest", ">change", "what")
    for change in changes:
        seen = change.measured
        numbers = (
            (f"{seen.different:,}", f"{seen.largest:.3g}", f"{seen.change:.3g}") if seen else ("", "", "")
        )
        held = change.a or change.b
        assert held is not None
        shape = human_shape(held.shape) if held.dtype != "object" else ""
        made.add_row(change.key, change.state, held.dtype, shape, *numbers, change.brief)
    return made
