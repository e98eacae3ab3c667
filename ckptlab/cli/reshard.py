"""`ckptlab reshard`: foretell a load on another mesh, run it on real ranks, compare every element.

It knows no rank of its own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from ckptlab.cli.terminal import JsonOption, PathArgument, put_table, put_verdict, table
from ckptlab.errors import CheckpointError, LayoutError
from ckptlab.events import Event
from ckptlab.explorer.far import far_of
from ckptlab.explorer.traffic import summary, verdict
from ckptlab.layout import Layout
from ckptlab.metadata import human_bytes
from ckptlab.plan.bind import behind, bind, told
from ckptlab.plan.check import refuse
from ckptlab.plan.forecast import Forecast, forecast
from ckptlab.plan.holding import holdings
from ckptlab.plan.implied import implied
from ckptlab.plan.transform import Transform
from ckptlab.storage import Checkpoint, open_checkpoint
from ckptlab.storage.where import is_url

if TYPE_CHECKING:
    from ckptlab.live import LocalRanks
    from ckptlab.live.ops import Outcome


_MOST = 64
"""Ranks that one machine is asked for, each a process that is connected with every other."""


class Device(Enum):
    """Where the ranks of a reshard run."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def reshard(
    path: PathArgument,
    mesh: Annotated[
        str, typer.Option(help="The target mesh: 4, 2x2 or replicate=2,shard=2.", show_default=False)
    ],
    placement: Annotated[
        str, typer.Option(help='One a mesh axis: "Shard(0)" or "Replicate, Shard(0)".')
    ] = "Shard(0)",
    device: Annotated[Device, typer.Option(help="auto: cuda if there is a GPU for each rank.")] = Device.auto,
    deadline: Annotated[float, typer.Option(help="Seconds after which hung ranks are ended.")] = 600.0,
    verify: Annotated[
        bool, typer.Option(help="Check stored checksums, also of chunks that are read in part.")
    ] = True,
    transform: Annotated[
        str, typer.Option(help="A file with a load transform, such as ckptlab doctor -o writes.")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only foretell.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Load a checkpoint on another mesh with real ranks.

    First it is foretold, then run, then every element is compared with what is stored. The exit status is
    1 if something is damaged, not equal or not as foretold, or if a rank fails; 2 for a wrong use.

    With --transform, what that makes of the checkpoint is loaded and compared.

    Example: ckptlab reshard runs/step-1000 --mesh 2x2 --placement "Replicate, Shard(0)"
    """
    checkpoint = open_checkpoint(path)
    layout = Layout.parse(mesh, placement)
    change = Transform.read(transform) if transform else None
    foretold = _foretell(checkpoint, layout, change, verify)
    outcomes: list[Outcome] = []
    if not dry_run:
        ranks = _ranks(layout.mesh.size, device)
        if not as_json:
            print(f"{checkpoint.path} on {layout}: {ranks.world} ranks on {ranks.device}")
        try:
            outcomes = _run(ranks, checkpoint, foretold, deadline, (layout, verify, change), quiet=as_json)
        except CheckpointError as error:
            _broke_off(foretold, error, as_json)
    if as_json:
        print(json.dumps(_report(foretold, outcomes)))
    else:
        if dry_run:
            print(f"{checkpoint.path} on {layout}")
        put_table(_ranks_table(foretold, outcomes))
        print(f"foretold: {summary(foretold)}")
        for line in _far_lines(foretold, outcomes):
            print(line)
    if outcomes:
        _end(foretold, outcomes, quiet=as_json)


def _foretell(checkpoint: Checkpoint, layout: Layout, change: Transform | None, verify: bool) -> Forecast:
    """What a load of all tensors will cost, or of what a transform makes of them."""
    stored = checkpoint.metadata
    wanted = holdings(stored.tensors, layout)
    if change is not None:
        target = implied(change, told(stored))
        bound = bind(change, told(stored), target)
        refuse(checkpoint.path, [m for m in bound.found if m.kind != "unexpected"])
        wanted = behind(bound, holdings([it for it in target.values() if it is not None], layout))
    return forecast(stored, wanted, layout.mesh.size, far_of(checkpoint, verify))


def _ranks(world: int, device: Device) -> LocalRanks:
    from ckptlab.live import LocalRanks

    if world > _MOST:
        raise LayoutError(f"{world:,} ranks are too many for one machine; --dry-run foretells any number")
    return LocalRanks(world, None if device == Device.auto else device.value)


def _run(
    ranks: LocalRanks,
    checkpoint: Checkpoint,
    foretold: Forecast,
    deadline: float,
    how: tuple[Layout, bool, Transform | None],
    quiet: bool,
) -> list[Outcome]:
    from ckptlab.live.ops import reshard as op

    path = checkpoint.path if is_url(checkpoint.path) else str(Path(checkpoint.path).resolve())
    with _bars(foretold, quiet) as tell, ranks:
        return ranks.run(op, path, *how, deadline=deadline, progress=tell)


@contextmanager
def _bars(foretold: Forecast, quiet: bool) -> Iterator[Any]:
    """A progress bar a rank on a terminal; a callback for what ranks tell."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[phase]}"))
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, disable=quiet or not console.is_terminal, transient=True
    ) as progress:
        tasks: list[TaskID] = [
            progress.add_task(f"rank {rank}", total=max(1, int(n)), phase="start")
            for rank, n in enumerate(foretold.bytes_by_rank)
        ]

        def told(rank: int, what: object) -> None:
            if isinstance(what, Event):
                progress.update(tasks[rank], phase=what.phase)
                if what.phase == "read":
                    progress.update(tasks[rank], completed=what.done)

        yield told


def _ranks_table(foretold: Forecast, outcomes: list[Outcome]) -> Table:
    done = {o.rank: o for o in outcomes}
    ran = (">read", ">seconds", "equal") if outcomes else ()
    ranks = table("rank", ">foretold", ">reads", ">memory", ">stock DCP", *ran)
    for rank in range(foretold.world):
        cells = [
            str(rank),
            human_bytes(int(foretold.bytes_by_rank[rank])),
            str(int(foretold.reads[rank])),
            human_bytes(int(foretold.memory[rank])),
            human_bytes(int(foretold.stock[rank])),
        ]
        if outcomes:
            o = done[rank]
            cells += [human_bytes(o.nbytes), f"{sum(o.seconds.values()):.3f}", "yes" if o.equal else "NO"]
        ranks.add_row(*cells)
    return ranks


def _end(foretold: Forecast, outcomes: list[Outcome], quiet: bool) -> None:
    """Say how it came out; status 1 unless all is equal, and as foretold."""
    read = sum(o.nbytes for o in outcomes)
    wrong = sorted({fqn for o in outcomes for fqn in o.different})
    good = not wrong and read == foretold.total
    if not quiet:
        put_verdict(verdict(foretold, read, sum(o.elements for o in outcomes), wrong), good)
    if not good:
        raise typer.Exit(1)


def _far_lines(foretold: Forecast, outcomes: list[Outcome]) -> Iterator[str]:
    """What far storage is asked for, foretold and counted; nothing of local files."""
    if foretold.requests is None or foretold.fetched is None:
        return
    words = "of far storage: {} in {:,} requests"
    yield "foretold " + words.format(human_bytes(int(foretold.fetched.sum())), int(foretold.requests.sum()))
    if outcomes:
        fetched, requests = sum(o.fetched for o in outcomes), sum(o.requests for o in outcomes)
        yield "counted " + words.format(human_bytes(fetched), requests)


def _broke_off(foretold: Forecast, error: CheckpointError, as_json: bool) -> NoReturn:
    """Say why nothing came of it; status 1."""
    if as_json:
        print(json.dumps(_report(foretold, []) | {"error": str(error)}))
    print(f"ckptlab: {error}", file=sys.stderr)
    raise typer.Exit(1)


def _report(foretold: Forecast, outcomes: list[Outcome]) -> dict[str, Any]:
    ranks: list[dict[str, Any]] = [
        {"rank": r, "foretold": int(foretold.bytes_by_rank[r]), "stock": int(foretold.stock[r])}
        for r in range(foretold.world)
    ]
    if foretold.requests is not None and foretold.fetched is not None:
        asked = zip(foretold.requests.tolist(), foretold.fetched.tolist(), strict=True)
        for rank, (requests, fetched) in zip(ranks, asked, strict=True):
            rank |= {"foretold_requests": requests, "foretold_fetched": fetched}
    for o in outcomes:
        ranks[o.rank] |= {
            "read": o.nbytes,
            "reads": o.reads,
            "requests": o.requests,
            "fetched": o.fetched,
            "seconds": o.seconds,
            "different": list(o.different),
        }
    return {"ranks": ranks, "total": foretold.total, "amplification": foretold.amplification}
