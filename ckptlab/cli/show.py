"""`ckptlab show`: what is in a checkpoint, as a table, a picture in text, or JSON. It reads no data."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer
from rich.table import Table

from ckptlab.cli.terminal import JsonOption, PathArgument, put_table, table
from ckptlab.explorer.inventory import Node, inventory
from ckptlab.explorer.scenes import stored_scene
from ckptlab.metadata import Metadata, human_bytes, human_shape
from ckptlab.storage import open_checkpoint


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
        told = json.dumps(_chunks(checkpoint.metadata, tensor)) if as_json else None
        print(told or stored_scene(checkpoint.metadata, tensor).text)
        return
    leaves = inventory(checkpoint.metadata).leaves(find)
    if as_json:
        print(
            json.dumps(
                {"path": checkpoint.path, "format": checkpoint.format, "keys": [_record(n) for n in leaves]}
            )
        )
        return
    print(checkpoint)
    print()
    put_table(_keys_table(leaves))


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


def _chunks(metadata: Metadata, fqn: str) -> dict[str, Any]:
    """One tensor and where its chunks lie."""
    tensor = metadata.tensor(fqn)
    row, chunks = metadata.rows[fqn], metadata.chunks
    boxes, rows, writers = metadata.boxes(row), metadata.chunk_rows(row), metadata.chunk_writers(row)
    places = zip(chunks.file[rows], chunks.start[rows], chunks.length[rows], writers, strict=True)
    layout = metadata.layouts.get(fqn)
    return {
        "fqn": fqn,
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "bytes": tensor.nbytes,
        "layout": str(layout) if layout else None,
        "chunks": [
            {
                "offset": list(boxes[i].offset),
                "shape": list(boxes[i].shape),
                "file": metadata.files[file],
                "start": int(start),
                "length": int(length),
                "writer": int(writer) if writer >= 0 else None,
            }
            for i, (file, start, length, writer) in enumerate(places)
        ],
    }


def _keys_table(leaves: list[Node]) -> Table:
    keys = table("key", "shape", "dtype", ">bytes", ">chunks", "files")
    for node in leaves:
        shape = human_shape(node.shape) if node.kind == "tensor" else ""
        files = " ".join(node.files)
        if sys.stdout.isatty() and len(node.files) > 1:
            files = f"{len(node.files)} files"
        dtype = node.dtype or "object"
        keys.add_row(node.fqn, shape, dtype, human_bytes(node.nbytes), str(node.chunks), files)
    return keys
