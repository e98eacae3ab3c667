"""What a bug report needs of a checkpoint, as rows of words: facts, totals, its mesh, what verifying takes.

Names, sizes and metadata only: no element of a tensor, and of objects only plain numbers. It knows
no page that shows it.
"""

from __future__ import annotations

import math
import platform
import sys
from collections import Counter
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from ckptlab.errors import CheckpointError, UnsafeError
from ckptlab.explorer.inferred import inferred
from ckptlab.explorer.scene import count
from ckptlab.metadata import Metadata, human_bytes, human_shape
from ckptlab.storage import Checkpoint

Row = tuple[str, ...]

MOST = 64 << 10
"""Bytes of an object that is read to tell its type."""

_SHAPES, _LAYOUTS, _LONG = 24, 12, 300
_LIBRARIES = ("ckptlab", "torch", "numpy")


def directory_name(path: str) -> str:
    """The last part of a path or URL: nothing of a home, a user, a host or a query.

    >>> directory_name("/home/ada/runs/step-1000/"), directory_name("s3://key@bucket/run/step-7?token=1")
    ('step-1000', 'step-7')
    """
    if "://" in path:
        path = path.partition("://")[2].partition("?")[0].partition("#")[0]
    parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return parts[-1].rpartition("@")[2] if parts else "checkpoint"


def clip(words: str, most: int = _LONG) -> str:
    """Words cut to a length that a page can bear, with a mark where they were."""
    return words if len(words) <= most else f"{words[: most - 20]}… ({len(words):,} letters)"


def facts(checkpoint: Checkpoint) -> list[Row]:
    """What it is and how much of it there is."""
    metadata = checkpoint.metadata
    elements = sum(math.prod(tensor.shape) for tensor in metadata.tensors)
    used = len(np.unique(metadata.chunks.file))
    writers = sorted({rank for rank in metadata.writers if rank >= 0})
    by = "nobody knows" if not writers else f"rank {writers[0]}"
    if len(writers) > 1:
        by = f"{len(writers):,} ranks, {writers[0]} to {writers[-1]}"
    rows: list[Row] = [
        ("format", checkpoint.format + (", saved by ckptlab" if checkpoint.ours else "")),
        ("tensors", f"{len(metadata.tensors):,}"),
        ("elements", f"{elements:,}"),
        ("bytes", f"{human_bytes(metadata.nbytes)} ({metadata.nbytes:,})"),
        ("objects", f"{len(metadata.objects):,}"),
        ("chunks", f"{len(metadata.chunks):,} in {count(used, 'file')}"),
        ("written by", by),
    ]
    if checkpoint.notes:
        rows.append(("notes in it", clip(", ".join(sorted(checkpoint.notes)))))
    return [*rows, ("save id", clip(metadata.save_id))] if metadata.save_id else rows


def totals(metadata: Metadata) -> tuple[list[Row], list[Row], int]:
    """Tensors and bytes of each dtype, then of each dtype and shape, most bytes first; shapes left out."""
    tensors: Counter[tuple[str, tuple[int, ...]]] = Counter()
    for tensor in metadata.tensors:
        tensors[tensor.dtype, tensor.shape] += 1
    first = {(tensor.dtype, tensor.shape): tensor.nbytes for tensor in metadata.tensors}
    nbytes = {kind: n * first[kind] for kind, n in tensors.items()}
    by_dtype: dict[str, list[int]] = {}
    for kind, n in tensors.items():
        sums = by_dtype.setdefault(kind[0], [0, 0])
        sums[0], sums[1] = sums[0] + n, sums[1] + nbytes[kind]
    ordered = sorted(by_dtype.items(), key=lambda one: -one[1][1])
    dtypes: list[Row] = [(dtype, f"{n:,}", human_bytes(size)) for dtype, (n, size) in ordered]
    most = sorted(tensors, key=lambda kind: -nbytes[kind])
    shapes: list[Row] = [
        (kind[0], clip(human_shape(kind[1]), 80), f"{tensors[kind]:,}", human_bytes(nbytes[kind]))
        for kind in most[:_SHAPES]
    ]
    return dtypes, shapes, max(0, len(most) - _SHAPES)


def mesh(metadata: Metadata) -> tuple[str, list[str]]:
    """How the mesh is known, and what is known of it: as recorded, or as inferred with its certainty."""
    if metadata.layouts:
        used = Counter(metadata.layouts.values()).most_common()
        lines = [clip(f"{layout!r} for {count(n, 'tensor')}") for layout, n in used[:_LAYOUTS]]
        more = [f"and {count(len(used) - _LAYOUTS, 'layout')} more"] if len(used) > _LAYOUTS else []
        return "recorded by the writer", lines + more
    if not len(metadata.chunks):
        return "none: nothing is stored in chunks", []
    lines = str(inferred(metadata)).splitlines()
    return "not recorded; inferred from the chunks and who wrote them", [clip(line) for line in lines[:40]]


def verifying(checkpoint: Checkpoint, troubled: int = 0) -> list[str]:
    """What `ckptlab verify` would read, and what it could tell; `troubled` files are missing or short."""
    metadata = checkpoint.metadata
    stored = int(metadata.chunks.length.sum()) + sum(e.length for e in metadata.objects.values())
    files = len({*np.unique(metadata.chunks.file).tolist(), *(e.file for e in metadata.objects.values())})
    pieces = f"{count(len(metadata.chunks), 'chunk')} and {count(len(metadata.objects), 'object')}"
    lines = [f"It reads {human_bytes(stored)} ({stored:,} bytes): {pieces}, in {count(files, 'file')}."]
    if checkpoint.format == "safetensors":
        lines.append("This format stores no checksums: places, sizes and shapes are all that can be checked.")
    else:
        lines.append("It compares each with the checksum stored with it, and counts those that have none.")
    if troubled:
        lines.append(f"Of these, {count(troubled, 'file')} cannot be read whole as things stand.")
    return lines


def environment() -> list[Row]:
    """Versions of what runs here; torch is looked up, not imported."""
    rows: list[Row] = [("python", platform.python_version())]
    for name in _LIBRARIES:
        try:
            rows.append((name, version(name)))
        except PackageNotFoundError:
            rows.append((name, "not installed"))
    return [*rows, ("system", f"{platform.system()} {platform.machine()}, {sys.byteorder} endian")]


def object_words(checkpoint: Checkpoint, key: str) -> str:
    """An object by type and size; by value only if it is a plain number. Large or far ones are not read."""
    extent, known = checkpoint.metadata.objects[key], checkpoint.values
    if (known is None or key not in known) and (extent.length > MOST or not checkpoint.files.mapped):
        return "object, not read"
    try:
        return _words(checkpoint[key])
    except UnsafeError as error:
        # What an error says in full may tell where the checkpoint lies.
        return clip(f"object with {', '.join(map(str, error.problems)) or 'tensors'}", 120)
    except CheckpointError as error:
        return f"unreadable: {type(error).__name__}"


def _words(value: object) -> str:
    kind = type(value).__name__
    if isinstance(value, bool | float | complex):
        return f"{kind} {value}"
    if isinstance(value, int):
        return f"{kind} {value}" if value.bit_length() <= 128 else f"{kind} of {value.bit_length()} bits"
    if isinstance(value, str | bytes | list | tuple | dict | set | frozenset):
        return f"{kind} of {len(value):,}"
    return kind
