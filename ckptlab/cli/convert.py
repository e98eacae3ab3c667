"""`ckptlab convert`: a checkpoint in another format, as a stream. It knows no format from within."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import Enum
from typing import Annotated

import typer

from ckptlab.cli.terminal import JsonOption, PathArgument, bar
from ckptlab.metadata import human_bytes
from ckptlab.storage.convert import convert as run
from ckptlab.storage.finding import count


class To(Enum):
    """The formats that can be written."""

    dcp = "dcp"
    safetensors = "safetensors"
    torch = "torch"


def convert(
    source: PathArgument,
    target: Annotated[str, typer.Argument(help="Where to write it.", show_default=False)],
    to: Annotated[To | None, typer.Option(help="The format, where the target's name does not tell.")] = None,
    keys: Annotated[str, typer.Option(help="Only keys that fit this pattern, such as 'model.*'.")] = "",
    drop_objects: Annotated[
        bool, typer.Option("--drop-objects", help="Leave out objects that the format cannot hold.")
    ] = False,
    max_shard_size: Annotated[str, typer.Option(help="The most a safetensors part holds.")] = "5GB",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is at the target.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a checkpoint in another format.

    Formats are DCP, safetensors and torch.save. It is copied as a stream, however large it is; checksums
    are checked on the way. What was at the target stays until the new checkpoint is whole.

    Example: ckptlab convert runs/step-1000 model.safetensors --keys 'model.*'
    """
    with bar(quiet=as_json) as told:
        done = run(
            source,
            target,
            format=to.value if to else None,
            keys=keys or None,
            objects="drop" if drop_objects else "refuse",
            max_shard_size=max_shard_size,
            overwrite=overwrite,
            progress=told,
        )
    if as_json:
        print(json.dumps(asdict(done)))
        return
    seconds = sum(done.seconds.values())
    print(
        f"{done.path} ({done.format}): {count(done.tensors, 'tensor')}, {count(done.objects, 'object')}, "
        f"{human_bytes(done.nbytes)} in {count(len(done.files), 'file')}, {seconds:.2f} s"
    )
    if done.dropped:
        print(f"left out: {', '.join(done.dropped)}")
