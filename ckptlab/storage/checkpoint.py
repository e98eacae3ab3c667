"""From a path to a checkpoint, whatever format it has.

Opening reads what the checkpoint says of itself, none of its data. It knows no rank of this
process and no plan.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from ckptlab.errors import PathError
from ckptlab.storage.dcp import METADATA_FILE, read_metadata
from ckptlab.storage.files import Files
from ckptlab.storage.opened import Checkpoint, FileProblem, Format
from ckptlab.storage.sidecar import layout_file, read_layouts
from ckptlab.storage.where import files_at

__all__ = ["Checkpoint", "FileProblem", "Format", "open_checkpoint"]

_NOT_YET = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open the checkpoint at `path`, a directory; reads what it says of itself, none of its data.

    Raises `PathError` that tells what is there instead, `CorruptError` for a damaged checkpoint,
    `UnsafeError` for one that asks to run something.
    """
    root = Path(path)
    if not root.is_dir():
        raise PathError(_not_a_directory(root), [os.fspath(path)])
    files = files_at(root)
    names = files.names()
    if METADATA_FILE not in names:
        raise PathError(f"{root} {_without_metadata(root, names)}", [os.fspath(path)])
    metadata = read_metadata(_whole(files, METADATA_FILE), os.fspath(root / METADATA_FILE))
    beside = layout_file(metadata.save_id)
    if beside in names:
        layouts = read_layouts(_whole(files, beside), metadata.save_id, metadata)
        metadata = replace(metadata, layouts=layouts)
    return Checkpoint(os.fspath(path), "dcp", metadata, files)


def _whole(files: Files, name: str) -> bytes:
    return files.read(name, 0, files.size(name))


def _not_a_directory(path: Path) -> str:
    if not path.exists():
        parent = next(p for p in path.absolute().parents if p.exists())
        return f"{path} does not exist; the nearest directory that does is {parent}"
    if path.name == METADATA_FILE or path.suffix == ".distcp":
        return f"{path} is one file of a checkpoint; open its directory, {path.parent}"
    if path.suffix in _NOT_YET:
        return f"{path} is a {path.suffix} file: not supported yet"
    return f"{path} is a file; a checkpoint is a directory"


def _without_metadata(root: Path, names: tuple[str, ...]) -> str:
    """What a directory holds instead of a checkpoint."""
    data = sum(name.endswith(".distcp") for name in names)
    if data:
        return f"holds {data} .distcp files but no {METADATA_FILE}: the save did not finish"
    for name in names:
        if name.endswith(_NOT_YET):
            return f"holds {name}: not supported yet"
    below = [entry for entry in sorted(root.iterdir()) if entry.is_dir()]
    inner = [entry.name for entry in below if (entry / METADATA_FILE).is_file()]
    if inner:
        more = f" and {len(inner) - 3} more" if len(inner) > 3 else ""
        return f"is no checkpoint, but holds some; open one of {', '.join(inner[:3])}{more}"
    held = [*names, *(f"{entry.name}/" for entry in below)]
    if not held:
        return "is empty: no checkpoint"
    return f"holds no checkpoint; it has {', '.join(held[:3])}{', ...' if len(held) > 3 else ''}"
