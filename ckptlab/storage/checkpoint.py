"""From a path to a checkpoint, whatever format it has.

Opening reads what the checkpoint says of itself, none of its data. It knows no rank of this
process and no plan.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ckptlab.errors import CheckpointError, CorruptError, PathError
from ckptlab.metadata import Metadata
from ckptlab.storage.cover import differing
from ckptlab.storage.crc import crc32
from ckptlab.storage.dcp import METADATA_FILE, read_metadata
from ckptlab.storage.files import Files
from ckptlab.storage.finding import named
from ckptlab.storage.opened import Checkpoint, FileProblem, Format
from ckptlab.storage.safetensors import (
    INDEX_FILE,
    INDEX_SUFFIX,
    SINGLE_FILE,
    SUFFIX,
    open_files,
    open_index,
    read_index,
)
from ckptlab.storage.sidecar import TAIL, Sidecar, belongs, read_sidecar, sidecars
from ckptlab.storage.torch_file import LEGACY, ZIP, open_torch_file, open_torch_parts
from ckptlab.storage.where import files_at, is_url, parted

__all__ = ["Checkpoint", "FileProblem", "Format", "open_checkpoint"]

_TORCH_INDEX = "pytorch_model.bin.index.json"
_TORCH = (".pt", ".pth", ".bin", ".ckpt")
_PART = re.compile(r"(.*)-(\d{1,9})-of-(\d{1,9})\.safetensors")
_OF_RANK = re.compile(r"shard-\d+-.*\.safetensors")
_LOOKED_INTO = 50
_LONG = 1 << 20
"""Bytes of an index above which opening does not sum them up: that is done before data is read by it."""


def open_checkpoint(path: str | os.PathLike[str], **storage_options: Any) -> Checkpoint:
    """Open the checkpoint at `path`; reads what it says of itself, none of its data.

    That is a DCP directory; a safetensors file, index, or directory with either; the files that each
    rank of torch's sharded HuggingFace writer left; a file that `torch.save` wrote, or an index of such.
    `path` may be a URL, for which fsspec takes `storage_options`. Raises `PathError` that tells what is
    there instead, `CorruptError` for a damaged checkpoint, `UnsafeError` for one that asks to run
    something.
    """
    files = files_at(path, **storage_options)
    file = _file_at(files, storage_options)
    if file is None:
        return open_directory(os.fspath(path), files, storage_options)
    return _open_file(os.fspath(path), *file)


def _file_at(files: Files, options: Mapping[str, Any]) -> tuple[Files, str] | None:
    """The root as a name in the directory it lies in, if it is a file; `PathError` if there is nothing."""
    root = files.root
    parent, name = parted(root)
    if not is_url(root):
        local = Path(root)
        if not local.exists():
            near = next(parent for parent in local.absolute().parents if parent.exists())
            raise PathError(f"{root} does not exist; the nearest directory that does is {near}", [root])
        return None if local.is_dir() else (files_at(parent), name)
    if files.entries():
        return None
    around = files_at(parent, **options)
    try:
        around.size(name)
    except CheckpointError as error:
        raise PathError(f"{root} does not exist, or is empty", [root]) from error
    return around, name


def _open_file(path: str, files: Files, name: str) -> Checkpoint:
    if name == METADATA_FILE or name.endswith(".distcp"):
        raise PathError(f"{path} is one file of a checkpoint; open its directory, {files.root}", [path])
    if name.endswith(INDEX_SUFFIX):
        return open_index(path, files, name)
    if name.endswith(_TORCH_INDEX):
        return open_torch_parts(path, files, sorted(set(read_index(files, name).values())))
    head = files.read(name, 0, min(files.size(name), 32))
    if head.startswith(ZIP):
        return open_torch_file(path, files, name)
    if LEGACY in head:
        raise CheckpointError(
            f"{path} was saved by torch before 1.6 or with _use_new_zipfile_serialization=False; its tensors "
            "cannot be read in place: torch.load it and torch.save it again",
            [path],
        )
    if name.endswith(SUFFIX) or head[8:9] == b"{":
        return open_files(path, files, [name])
    if name.endswith(_TORCH):
        raise CorruptError(
            f"{path}: no torch.save file, or a damaged one: it begins with {head[:8]!r}", [path]
        )
    raise PathError(
        f"{path} is no checkpoint; that is a directory, a safetensors file, or a file that torch.save wrote",
        [path],
    )


def open_directory(path: str, files: Files, options: Mapping[str, Any] = MappingProxyType({})) -> Checkpoint:
    """The checkpoint in a directory whose `files` are at hand; `options` find what lies below it."""
    names = files.names()
    if METADATA_FILE in names:
        return _open_dcp(path, files, names)
    indexes = [name for name in names if name.endswith(INDEX_SUFFIX)]
    if INDEX_FILE in indexes or len(indexes) == 1:
        return open_index(path, files, INDEX_FILE if INDEX_FILE in indexes else indexes[0])
    if indexes:
        raise PathError(f"{path} holds more than one checkpoint; open one of {', '.join(indexes)}", [path])
    # A hidden file is one that somebody has not finished.
    data = [name for name in names if name.endswith(SUFFIX) and not name.startswith(".")]
    if SINGLE_FILE in data:
        return open_files(path, files, [SINGLE_FILE])
    if data:
        _check_together(path, data)
        return open_files(path, files, data)
    if _TORCH_INDEX in names:
        return _open_file(path, files, _TORCH_INDEX)
    raise PathError(f"{path} {_without(files, names, options)}", [path])


def _open_dcp(path: str, files: Files, names: Sequence[str]) -> Checkpoint:
    beside = _beside(files, names)
    if beside is None:
        return Checkpoint(path, "dcp", _recorded(files), files)
    name, told = beside
    settle = cache(partial(_settle, files, name, told))
    return Checkpoint(path, "dcp", told.metadata, files, ours=True, settle=settle)


def _recorded(files: Files) -> Metadata:
    """What `.metadata` says."""
    return read_metadata(
        files.read(METADATA_FILE, 0, files.size(METADATA_FILE)), f"{files.root.rstrip('/')}/{METADATA_FILE}"
    )


def _beside(files: Files, names: Sequence[str]) -> tuple[str, Sidecar] | None:
    """The file beside `.metadata` and what it says, if there is one that belongs to it."""
    there = sidecars(names)
    if not there:
        return None
    size = files.size(METADATA_FILE)
    known = size if size <= _LONG else TAIL
    with files.view(METADATA_FILE, size - known) as record:
        tail, crc = bytes(record[-TAIL:]), crc32(record) if known == size else None
    for name in (name for name in there if belongs(name, tail)):
        with files.view(name) as view:
            # Much is left in the file until it is looked at; little is better in memory.
            long = len(view) > _LONG
            told = read_sidecar(view if long else bytes(view), name, size)
        if told is not None and (long or told.sound()):
            if crc not in (None, told.record_crc):
                _refuse_changed(files, told.metadata, name)
            return name, told
    return None


def _settle(files: Files, name: str, told: Sidecar) -> None:
    """What opening put off: whether `.metadata` and the places told beside it are as they were saved."""
    if not told.sound():
        raise CorruptError(
            f"{files.root}/{name} is damaged: it may say wrongly where chunks lie, so none was read by it. "
            f"Remove it: {METADATA_FILE} says the same, and opening takes longer",
            [name],
        )
    # What is far away would have to come first.
    if files.mapped and (size := files.size(METADATA_FILE)) > _LONG:
        with files.view(METADATA_FILE, 0, size) as record:
            crc = crc32(record)
        if crc != told.record_crc:
            _refuse_changed(files, told.metadata, name)


def _refuse_changed(files: Files, told: Metadata, beside: str) -> None:
    """Refuse a `.metadata` that is not what its save wrote, if it now says something else."""
    try:
        recorded = _recorded(files)
    except CorruptError:
        # What its save wrote is known all the same.
        return
    if keys := differing(recorded, told):
        raise CorruptError(
            f"{files.root}/{METADATA_FILE} was changed after it was saved: of {named(keys)} it says other "
            f"things than {beside} beside it. If that was meant, remove {beside}; if not, it is damaged",
            keys,
        )


def _check_together(path: str, names: Sequence[str]) -> None:
    """Refuse safetensors files of which nothing says that they are one checkpoint, or all of it."""
    parts = [match for match in map(_PART.fullmatch, names) if match]
    if (len(names) == 1 and not parts) or all(map(_OF_RANK.fullmatch, names)):
        return
    if len(parts) == len(names) and len({(part[1], part[3]) for part in parts}) == 1:
        wanted = int(parts[0][3])
        if {int(part[2]) for part in parts} == set(range(1, wanted + 1)):
            return
        raise PathError(
            f"{path} holds {len(names)} of {wanted} parts of a checkpoint, and no index: it is not whole",
            [path],
        )
    raise PathError(
        f"{path} holds several safetensors files, and no index says that they belong together; "
        f"open one of {_some(names)}",
        [path],
    )


def _without(files: Files, names: Sequence[str], options: Mapping[str, Any]) -> str:
    """What a directory holds instead of a checkpoint."""
    data = sum(name.endswith(".distcp") for name in names)
    if data or sidecars(names):
        return f"holds {data} .distcp files but no {METADATA_FILE}: the save did not finish"
    torch = [name for name in names if name.endswith(_TORCH)]
    if torch:
        return f"is no checkpoint; it holds {_some(torch)}: open {'that file' if len(torch) == 1 else 'one'}"
    below = [name for name, kind in files.entries().items() if kind == "folder"]
    inner = [name for name in below[:_LOOKED_INTO] if _looks_right(f"{files.root}/{name}", options)]
    if inner:
        more = f" and {len(inner) - 3} more" if len(inner) > 3 else ""
        return f"is no checkpoint, but holds some; open one of {', '.join(inner[:3])}{more}"
    held = [*names, *(f"{name}/" for name in below)]
    return f"holds no checkpoint; it has {_some(held)}" if held else "is empty: no checkpoint"


def _looks_right(root: str, options: Mapping[str, Any]) -> bool:
    names = files_at(root, **options).names()
    return METADATA_FILE in names or any(name.endswith((SUFFIX, INDEX_SUFFIX)) for name in names)


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
