"""`ckptlab doctor`: why a checkpoint does not load into a target, and what to do. It finds nothing itself."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ckptlab.cli.terminal import JsonOption, PathArgument, bar, console, table
from ckptlab.doctor import diagnose
from ckptlab.errors import PathError
from ckptlab.plan.diagnose import Diagnosis
from ckptlab.plan.diagnose.finding import shortened
from ckptlab.plan.diagnose.report import standing
from ckptlab.storage.where import is_url


def doctor(
    path: PathArgument,
    target: Annotated[
        str,
        typer.Argument(
            help="Another checkpoint, or module:factory that gives a model or a state_dict.",
            show_default=False,
        ),
    ],
    output: Annotated[str, typer.Option("--output", "-o", help="Write the load transform here.")] = "",
    take: Annotated[
        list[int] | None, typer.Option(help="Take in this finding's remedy, too; may be given again.")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Read the data, to say how much is rounded.")
    ] = False,
    rank: Annotated[int, typer.Option(help="Whose flat shard the target has.", min=0)] = 0,
    as_json: JsonOption = False,
) -> None:
    """Say why a checkpoint does not load into a target: every cause, how sure it is, and what mends it.

    No data is read. A factory is called on the meta device, where a model takes no memory. The exit status
    is 1 if anything was found.

    Example: ckptlab doctor runs/step-1000 my.models:build -o transform.json
    """
    with bar(quiet=as_json) as told:
        found = diagnose(path, _target(target), rank=rank, measure=measure, progress=told)
    transform = found.transform_with(take or [])
    if output:
        transform.save(output)
    if as_json:
        print(json.dumps(_report(found) | {"transform": json.loads(transform.to_json())}))
    else:
        _print(found)
        if output:
            print(f"\n{output}: load(..., transform=Transform.read({output!r}))")
    if found:
        raise typer.Exit(1)


def _target(target: str) -> Any:
    """The path of a checkpoint, or what a factory makes."""
    module, colon, name = target.partition(":")
    if is_url(target) or not colon or Path(target).exists():
        return target
    if not (name and all(part.isidentifier() for part in [*module.split("."), *name.split(".")])):
        raise PathError(f"{target!r} is no path that exists, and no module:factory", [target])
    from ckptlab.engine.target_of import made_on_meta

    return made_on_meta(target)


def _report(found: Diagnosis) -> dict[str, Any]:
    return {
        "checkpoint": found.checkpoint,
        "target": found.target,
        "fitting": found.fitting,
        "asked": found.asked,
        "findings": found.records(),
    }


def _print(found: Diagnosis) -> None:
    if not found:
        print(found.summary())
        return
    if not sys.stdout.isatty():
        print(found)
        return
    print(f"{found.checkpoint} for {found.target}\n{found.summary()}\n")
    rows = table(">", "finding", ">keys", ">sure", "remedy")
    for i, it in enumerate(found):
        rows.add_row(str(i), it.kind, f"{len(it.keys):,}", f"{it.sure:.0%}", standing(it))
    console().print(rows)
    for i, it in enumerate(found):
        print(f"\n[{i}] {it.cause}\n    {shortened(it.keys)}\n    {it.why}\n    {it.advice}")
        if it.cost:
            print(f"    costs: {it.cost}")
