"""The files at a path, with their sizes, whether or not they are a checkpoint.

It opens none of them.
"""

from __future__ import annotations

import os
from pathlib import Path

from ckptlab.errors import CheckpointError
from ckptlab.metadata import human_bytes
from ckptlab.storage.files import Files
from ckptlab.storage.where import files_at, is_url


def listing(path: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """Names and sizes of what lies at a path, by name; nothing where nothing is, or where nobody may look."""
    root = os.fspath(path)
    if not is_url(root) and Path(root).is_file():
        return [(Path(root).name, human_bytes(Path(root).stat().st_size))]
    try:
        files = files_at(root)
        found = files.entries()
    except (CheckpointError, OSError):
        return []
    sizes = {name: "folder" if kind == "folder" else _size(files, name) for name, kind in found.items()}
    return sorted(sizes.items())


def _size(files: Files, name: str) -> str:
    try:
        return human_bytes(files.size(name))
    except (CheckpointError, OSError):
        return "unreadable"
