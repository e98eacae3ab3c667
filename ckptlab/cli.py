"""The command `ckptlab`: look at a checkpoint, load it on another mesh, open the notebooks.

A face only: what it prints, `explorer` and `plan` know; what it runs, `live` runs. A user's
mistake ends with status 2 and one line, a load that is not equal with status 1.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from ckptlab.errors import CheckpointError
from ckptlab.events import Event
from ckptlab.explorer.inventory import Node, inventory, visible
from ckptlab.explorer.scenes import stored_scene
from ckptlab.explorer.traffic import summary
from ckptlab.layout import Layout
from ckptlab.live.first import ASKED
from ckptlab.metadata import human_bytes, human_shape
from ckptlab.plan.forecast import Forecast, forecast
from ckptlab.plan.holding import holdings
from ckptlab.storage import Checkpoint, open_checkpoint

if TYPE_CHECKING:
    from ckptlab.live.ops import Outcome

app = typer.Typer(
    name="ckptlab",
    help="See any sharded PyTorch checkpoint, foretell a load on another mesh, and run it.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

PathArgument = Annotated[str, typer.Argument(help="A checkpoint directory.", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def main() -> None:
    """Run the command; never a traceback for what a user did."""
    try:
        app()
    except CheckpointError as error:
        print(f"ckptlab: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("ckptlab: stopped", file=sys.stderr)
        raise SystemExit(130) from None


def _print_version(asked: bool) -> None:
    if asked:
        print(f"ckptlab {version('ckptlab')}")
        raise typer.Exit


@app.callback()
def ckptlab(
    _: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """See any sharded PyTorch checkpoint, foretell a load on another mesh, and run it."""


@app.command()
def show(
    path: PathArgument,
    tensor: Annotated[str, typer.Option(help="Show one tensor: its mesh and chunks.")] = "",
    find: Annotated[str, typer.Option(help="Only keys with this text, glob, or /regex/.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Show the keys, shapes, bytes and files of a checkpoint.

    Example: ckptlab show runs/step-1000 --find '*.weight'
    """
    checkpoint = open_checkpoint(path)
    if tensor:
        print(stored_scene(checkpoint.metadata, tensor).text)
        return
    root = inventory(checkpoint.metadata)
    wanted = {row.node.fqn for row in visible(root, find)} if find else None
    leaves = [n for n in root.leaves() if wanted is None or n.fqn in wanted]
    if as_json:
        print(
            json.dumps(
                {"path": checkpoint.path, "format": checkpoint.format, "keys": [_record(n) for n in leaves]}
            )
        )
        return
    print(checkpoint)
    print()
    _console().print(_keys_table(leaves))


def _record(node: Node) -> dict[str, Any]:
    return {
        "fqn": node.fqn,
        "kind": node.kind,
        "dtype": node.dtype,
        "shape": list(node.shape),
        "bytes": node.nbytes,
        "chunks": node.chunks,
        "files": list(node.files),
    }


def _keys_table(leaves: list[Node]) -> Table:
    table = _table("key", "shape", "dtype", ">bytes", ">chunks", "files")
    for node in leaves:
        shape = human_shape(node.shape) if node.kind == "tensor" else ""
        files = " ".join(node.files)
        if sys.stdout.isatty() and len(node.files) > 1:
            files = f"{len(node.files)} files"
        dtype = node.dtype or "object"
        table.add_row(node.fqn, shape, dtype, human_bytes(node.nbytes), str(node.chunks), files)
    return table


class Device(Enum):
    """Where the ranks of a reshard run."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


@app.command()
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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only foretell.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Load a checkpoint on another mesh with real ranks.

    First it is foretold, then run, then every element is compared with what is stored.

    Example: ckptlab reshard runs/step-1000 --mesh 2x2 --placement "Replicate, Shard(0)"
    """
    checkpoint = open_checkpoint(path)
    layout = Layout.parse(mesh, placement)
    foretold = forecast(checkpoint.metadata, holdings(checkpoint.metadata.tensors, layout), layout.mesh.size)
    outcomes = [] if dry_run else _run(checkpoint, layout, foretold, device, deadline, quiet=as_json)
    if as_json:
        print(json.dumps(_report(foretold, outcomes)))
    else:
        if dry_run:
            print(f"{checkpoint.path} on {layout}")
        _console().print(_ranks_table(foretold, outcomes))
        print(f"foretold: {summary(foretold)}")
    if outcomes:
        _verdict(foretold, outcomes, quiet=as_json)


def _run(
    checkpoint: Checkpoint, layout: Layout, foretold: Forecast, device: Device, deadline: float, quiet: bool
) -> list[Outcome]:
    from ckptlab.live import LocalRanks
    from ckptlab.live.ops import reshard as op

    world = layout.mesh.size
    ranks = LocalRanks(world, None if device == Device.auto else device.value)
    if not quiet:
        print(f"{checkpoint.path} on {layout}: {world} ranks on {ranks.device}")
    with _bars(foretold, quiet) as told, ranks:
        return ranks.run(op, str(Path(checkpoint.path).resolve()), layout, deadline=deadline, progress=told)


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
    table = _table("rank", ">foretold", ">reads", ">memory", ">stock DCP", *ran)
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
        table.add_row(*cells)
    return table


def _verdict(foretold: Forecast, outcomes: list[Outcome], quiet: bool) -> None:
    read = sum(o.nbytes for o in outcomes)
    wrong = sorted({fqn for o in outcomes for fqn in o.different})
    if not quiet:
        match = (
            "foretold = read"
            if read == foretold.total
            else f"foretold {foretold.total} bytes, but read {read}"
        )
        same = (
            "every element equals what is stored, bit for bit"
            if not wrong
            else f"DIFFERENT: {', '.join(wrong)}"
        )
        print(
            f"{match}: {human_bytes(read)}; {sum(o.elements for o in outcomes):,} elements compared: {same}"
        )
    if wrong or read != foretold.total:
        raise typer.Exit(1)


def _report(foretold: Forecast, outcomes: list[Outcome]) -> dict[str, Any]:
    ranks: list[dict[str, Any]] = [
        {"rank": r, "foretold": int(foretold.bytes_by_rank[r]), "stock": int(foretold.stock[r])}
        for r in range(foretold.world)
    ]
    for o in outcomes:
        ranks[o.rank] |= {
            "read": o.nbytes,
            "reads": o.reads,
            "seconds": o.seconds,
            "different": list(o.different),
        }
    return {"ranks": ranks, "total": foretold.total, "amplification": foretold.amplification}


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def lab(
    context: typer.Context,
    path: Annotated[str, typer.Argument(help="A folder to work in, or a checkpoint to open.")] = "",
) -> None:
    """Open JupyterLab on the first notebook.

    Options that are not its own go to JupyterLab.

    The notebooks are copied once into ckptlab-notebooks, where you may change them.
    Example: ckptlab lab --no-browser --port 8889
    """
    path, extra = _path_and_options([path, *context.args])
    environment = dict(os.environ)
    folder = Path.cwd()
    if path and _is_checkpoint(path):
        environment[ASKED] = str(Path(path).resolve())
    elif path:
        folder = Path(path)
        if not folder.is_dir():
            raise CheckpointError(f"{path} is neither a folder nor a checkpoint", [path])
    first = _copy_notebooks(folder / "ckptlab-notebooks")
    command = [sys.executable, "-m", "jupyterlab", str(first), *extra]
    print(f"ckptlab: opening {first} in JupyterLab; stop it with Ctrl-C", flush=True)
    os.execvpe(command[0], command, environment)


def _path_and_options(arguments: list[str]) -> tuple[str, list[str]]:
    """Our own path, first or last, told from JupyterLab's options; "" if there is none.

    A last word is not ours if it is the value of the option before it.
    """
    words = [word for word in arguments if word]
    if words and not words[0].startswith("-"):
        return words[0], words[1:]
    if len(words) > 1 and not words[-1].startswith("-"):
        before = words[-2]
        if not before.startswith("-") or "=" in before or before in _FLAGS:
            return words[-1], words[:-1]
    return "", words


_FLAGS = ("--no-browser", "--allow-root", "--debug", "--dev-mode", "--core-mode", "-y")
"""Options of JupyterLab that take no value."""


def _is_checkpoint(path: str) -> bool:
    return (Path(path) / ".metadata").exists()


def _copy_notebooks(target: Path) -> Path:
    """The notebooks of this version in `target`, but never over one that is there; the first of them."""
    here = Path(__file__).parent
    source = next(folder for folder in (here / "notebooks", here.parent / "notebooks") if folder.is_dir())
    target.mkdir(exist_ok=True)
    books = sorted(source.glob("*.ipynb"))
    for book in books:
        if not (target / book.name).exists():
            shutil.copy(book, target / book.name)
    return target / books[0].name


def _console() -> Console:
    """Wide where nobody's terminal limits it, so that nothing is cut when piped."""
    return Console() if sys.stdout.isatty() else Console(width=240)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        # In a narrow terminal a long key goes on in the next line, and every other column stays whole.
        key = name == "key"
        justify: Literal["left", "right"] = "right" if name.startswith(">") else "left"
        table.add_column(
            name.removeprefix(">"), justify=justify, no_wrap=not key, overflow="fold" if key else "ellipsis"
        )
    return table


if __name__ == "__main__":
    main()
