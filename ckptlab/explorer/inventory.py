"""What is in a checkpoint, as a tree of keys: shapes, dtypes, bytes and files, summed at each branch.

Plain data: no torch and no drawing.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ckptlab.errors import CheckpointError
from ckptlab.metadata import Metadata


@dataclass(frozen=True)
class Node:
    """A key, or the part that several keys begin with.

    `fqn` is the whole name up to here. `nbytes` counts each element once, `keys` the tensors and
    objects below, `chunks` and `files` what they are stored in. Only a tensor has `dtype` and `shape`.
    """

    name: str
    fqn: str
    kind: Literal["branch", "tensor", "object"]
    nbytes: int
    keys: int
    chunks: int
    files: tuple[str, ...]
    dtype: str = ""
    shape: tuple[int, ...] = ()
    children: tuple[Node, ...] = ()

    def leaves(self) -> Iterator[Node]:
        """Every tensor and object at or below this node, in order."""
        if self.kind != "branch":
            yield self
        for child in self.children:
            yield from child.leaves()


@dataclass(frozen=True)
class Row:
    """One visible line of the tree: a node, how deep it stands, and whether its children are shown."""

    node: Node
    depth: int
    open: bool


def inventory(metadata: Metadata) -> Node:
    """The tree of all keys, in the checkpoint's order; the root's name is empty."""
    tree: dict[str, object] = {}
    for leaf in _leaves(metadata):
        inner = tree
        *parts, last = _parts(metadata, leaf.fqn)
        for part in parts:
            below = inner.setdefault(part, {})
            # A key may also be the beginning of others: it then stands beside them, not above.
            inner = below if isinstance(below, dict) else inner.setdefault(f"{part}.", {})  # type: ignore[assignment]
        inner[last if not isinstance(inner.get(last), dict) else f"{last}."] = leaf
    return _branch("", "", tree)


def _parts(metadata: Metadata, fqn: str) -> list[str]:
    """The steps of a name: those of its path, and within each its dots, as module names have them."""
    path = metadata.paths.get(fqn)
    if path is None or ".".join(map(str, path)) != fqn:
        return fqn.split(".")
    return [part for step in path for part in str(step).split(".")]


def _leaves(metadata: Metadata) -> Iterator[Node]:
    for row, tensor in enumerate(metadata.tensors):
        rows = metadata.chunk_rows(row)
        files = tuple(metadata.files[i] for i in np.unique(metadata.chunks.file[rows]).tolist())
        count = rows.stop - rows.start
        yield Node(
            tensor.fqn, tensor.fqn, "tensor", tensor.nbytes, 1, count, files, tensor.dtype, tensor.shape
        )
    for fqn, extent in metadata.objects.items():
        yield Node(fqn, fqn, "object", extent.length, 1, 1, (metadata.files[extent.file],))


def _branch(name: str, fqn: str, below: dict[str, object]) -> Node:
    children = []
    for part, inner in below.items():
        if isinstance(inner, Node):
            children.append(replace(inner, name=part))
        else:
            assert isinstance(inner, dict)
            children.append(_branch(part, f"{fqn}.{part}".removeprefix("."), inner))
    return Node(
        name,
        fqn,
        "branch",
        sum(c.nbytes for c in children),
        sum(c.keys for c in children),
        sum(c.chunks for c in children),
        tuple(dict.fromkeys(f for c in children for f in c.files)),
        children=tuple(children),
    )


def visible(root: Node, query: str = "", opened: frozenset[str] = frozenset()) -> list[Row]:
    """The lines of the tree that a person sees.

    Without a query: the first level, and what is below the branches in `opened` (by fqn). With one:
    every key that it finds, under its branches. A query is part of a name; a glob if it has `*` or
    `?`; a regular expression between slashes (`/norm[12]/`). Case does not matter.
    """
    wanted = _matcher(query) if query.strip() else None
    return list(_rows(root, 0, wanted, opened))


def _rows(node: Node, depth: int, wanted: re.Pattern[str] | None, opened: frozenset[str]) -> Iterator[Row]:
    for child in node.children:
        if wanted is None:
            open_ = child.fqn in opened
        elif any(wanted.search(leaf.fqn) for leaf in child.leaves()):
            open_ = True
        else:
            continue
        yield Row(child, depth, open_ and bool(child.children))
        if open_:
            yield from _rows(child, depth + 1, wanted, opened)


def _matcher(query: str) -> re.Pattern[str]:
    text = query.strip()
    if len(text) > 1 and text[0] == text[-1] == "/":
        try:
            return re.compile(text[1:-1], re.IGNORECASE)
        except re.error as error:
            raise CheckpointError(f"no regular expression: {text}: {error}", [query]) from error
    if "*" in text or "?" in text:
        return re.compile(fnmatch.translate(text), re.IGNORECASE)
    return re.compile(re.escape(text), re.IGNORECASE)
