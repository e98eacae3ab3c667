"""What is in a checkpoint, as a tree of keys: shapes, dtypes, bytes and files, summed at each branch.

The tree is columns: a hundred thousand keys are a few arrays and their names. Plain data: no torch
and no drawing.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from ckptlab.errors import CheckpointError
from ckptlab.layout.box import Ints
from ckptlab.metadata import Metadata

Bools = npt.NDArray[np.bool_]

DEEPEST = 64
"""Dots of a name beyond which it is not taken apart."""

_ROOTS = 8
_NAMELESS = '""'


@dataclass(frozen=True)
class Node:
    """One line of the tree: a key, or the part that several keys begin with.

    `fqn` is the key, or the path up to here. `nbytes` counts each element once, `keys` the tensors and
    objects at or below, `chunks` what they are stored in. Only a key has `files`, only a tensor `dtype` and
    `shape`.
    """

    name: str
    fqn: str
    kind: Literal["branch", "tensor", "object"]
    nbytes: int
    keys: int
    chunks: int
    files: tuple[str, ...] = ()
    dtype: str = ""
    shape: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Sums:
    """For each line of the tree what is at or below it: how many keys, their bytes and their chunks."""

    keys: Ints
    nbytes: Ints
    chunks: Ints


@dataclass(frozen=True, eq=False)
class Inventory:
    """All keys as a tree, a line each and one for each branch; what is below a line follows it at once.

    Line `i` is called `names[i]`, the whole way to it `paths[i]`. It stands `depth[i]` deep, below line
    `parent[i]` (-1: below none), and the lines `i + 1` to `end[i] - 1` are below it. `key[i]` is its
    position among tensors, then objects (-1: a branch only). `moved` keys stand elsewhere than their
    names say.
    """

    metadata: Metadata
    names: tuple[str, ...]
    paths: tuple[str, ...]
    parent: Ints
    depth: Ints
    end: Ints
    key: Ints
    moved: int = 0

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """Every key: of the tensors, then of the objects."""
        return (*self.metadata.tensors.names, *self.metadata.objects)

    @cached_property
    def line(self) -> Ints:
        """The line of each key."""
        lines = np.empty(len(self.keys), np.int64)
        lines[self.key[self.key >= 0]] = np.flatnonzero(self.key >= 0)
        return lines

    @cached_property
    def line_of(self) -> dict[str, int]:
        """The line of each key, by name."""
        return dict(zip(self.keys, self.line.tolist(), strict=True))

    @cached_property
    def places(self) -> dict[str, int]:
        """The lines that can be unfolded, by their paths."""
        return {self.paths[i]: i for i in np.flatnonzero(self.has_below).tolist()}

    @cached_property
    def has_below(self) -> Bools:
        """Which lines can be unfolded."""
        return self.end > np.arange(len(self)) + 1

    @cached_property
    def nbytes(self) -> Ints:
        """Bytes of each line itself; a branch has none."""
        objects = [extent.length for extent in self.metadata.objects.values()]
        return self._spread([tensor.nbytes for tensor in self.metadata.tensors], objects)

    @cached_property
    def chunks(self) -> Ints:
        """Chunks of each line itself."""
        return self._spread(np.diff(self.metadata.chunks.first), [1] * len(self.metadata.objects))

    def _spread(self, tensors: npt.ArrayLike, objects: npt.ArrayLike) -> Ints:
        """Numbers of the keys, on their lines."""
        of_keys = np.r_[np.asarray(tensors, np.int64), np.asarray(objects, np.int64), 0]
        own: Ints = of_keys[self.key]
        return own

    def sums(self, found: Bools | None = None) -> Sums:
        """What is at or below each line, of the keys on the lines `found`, or of all."""
        if found is None:
            return self._all
        return Sums(
            *(self._below(np.where(found, each, 0)) for each in (self.key >= 0, self.nbytes, self.chunks))
        )

    @cached_property
    def _all(self) -> Sums:
        return Sums(self._below(self.key >= 0), self._below(self.nbytes), self._below(self.chunks))

    def _below(self, own: npt.NDArray[np.integer] | Bools) -> Ints:
        so_far = np.concatenate([[0], np.cumsum(own, dtype=np.int64)])
        below: Ints = so_far[self.end] - so_far[:-1]
        return below

    @cached_property
    def _levels(self) -> list[Ints]:
        """The lines of each depth; above any line's are those that hold it."""
        order = np.argsort(self.depth, kind="stable")
        deepest = int(self.depth.max(initial=0))
        return np.split(order, np.searchsorted(self.depth[order], np.arange(1, deepest + 1)))

    def visible(self, open_: Bools) -> Ints:
        """Those lines above which all are open."""
        seen = np.zeros(len(self), bool)
        for level in self._levels:
            up = self.parent[level]
            seen[level] = (up < 0) | (seen[up] & open_[up])
        return np.flatnonzero(seen)

    def above(self, line: int) -> list[int]:
        """The lines that hold this one, the nearest first."""
        held = []
        while (line := int(self.parent[line])) >= 0:
            held.append(line)
        return held

    def found(self, query: str) -> Bools:
        """The lines whose keys a query finds.

        A query is a part of a key; a glob that a key must end in if it has `*` or `?`; a regular expression
        between slashes (`/norm[12]/`). Case does not matter. `CheckpointError` if it is none.
        """
        lines = np.zeros(len(self), bool)
        lines[self.line[np.array(_hits(query.strip(), self.keys, self._folded), bool)]] = True
        return lines

    @cached_property
    def _folded(self) -> list[str]:
        return [key.lower() for key in self.keys]

    def node(self, line: int, sums: Sums | None = None) -> Node:
        """A line as a record; what it sums up is that of `sums`."""
        all_, key = sums or self._all, int(self.key[line])
        counted = (int(all_.nbytes[line]), int(all_.keys[line]), int(all_.chunks[line]))
        if key < 0:
            return Node(self.names[line], self.paths[line], "branch", *counted)
        metadata, own = self.metadata, (int(self.nbytes[line]), int(all_.keys[line]), int(self.chunks[line]))
        if key >= len(metadata.tensors):
            file = metadata.objects[self.keys[key]].file
            return Node(self.names[line], self.keys[key], "object", *own, (metadata.files[file],))
        tensor = metadata.tensors[key]
        held = np.unique(metadata.chunks.file[metadata.chunk_rows(key)]).tolist()
        files = tuple(metadata.files[i] for i in held)
        return Node(self.names[line], tensor.fqn, "tensor", *own, files, tensor.dtype, tensor.shape)

    def leaves(self, query: str = "") -> list[Node]:
        """Every tensor and object that a query finds, in the order of the tree; all without one."""
        wanted = self.found(query) if query.strip() else self.key >= 0
        return [self.node(line) for line in np.flatnonzero(wanted).tolist()]


def inventory(metadata: Metadata, beside: bool = False) -> Inventory:
    """The tree of all keys, in the checkpoint's order.

    With `beside`, the state that an optimizer keeps of a parameter stands below that parameter:
    `optim.state.layers.0.wq.exp_avg` below `layers.0.wq`, or below `model.layers.0.wq`.
    """
    keys = [*metadata.tensors.names, *metadata.objects]
    places = [place or _NAMELESS for place in (_beside(keys) if beside else keys)]
    moved = sum(place != key for place, key in zip(places, keys, strict=True)) if beside else 0
    return _tree(metadata, places, moved)


def _beside(keys: Sequence[str]) -> list[str]:
    """Where each key stands when what an optimizer keeps is with its parameter."""
    taken = set(keys)
    tops = list(dict.fromkeys(key.partition(".")[0] for key in keys))
    # Names of parameters as the optimizer has them often lack what the whole model is called.
    roots = ["", *(f"{top}." for top in tops[:_ROOTS])]
    places = []
    for key in keys:
        _, state, rest = f".{key}".partition(".state.")
        place = _with_parameter(rest, taken, roots) if state else ""
        taken.add(place)
        places.append(place or key)
    return places


def _with_parameter(rest: str, taken: Collection[str], roots: list[str]) -> str:
    """The place of `layers.0.wq.exp_avg`, or of Megatron's `exp_avg.layers.0.wq`; "" if it has none."""
    before, _, last = rest.rpartition(".")
    first, _, after = rest.partition(".")
    parted = ((before, last), (after, first))
    for root in roots:
        for name, slot in parted:
            parameter, place = root + name, f"{root}{name}.{slot}"
            # A slot's own name is no parameter's, though a key may be called so.
            if parameter in taken and place not in taken and (name == before or "." in name):
                if root != roots[0]:
                    roots.remove(root)
                    roots.insert(0, root)
                return place
    return ""


def _tree(metadata: Metadata, places: Sequence[str], moved: int) -> Inventory:
    """The columns; a line comes to be when the first key at or below it does, after the one that holds it."""
    known: dict[str, int] = {}
    paths: list[str] = []
    names: list[str] = []
    parents: list[int] = []
    key = []
    for number, place in enumerate(places):
        missing = []
        above = place
        while above and above not in known:
            head, name = _parted(above)
            missing.append((above, head, name))
            above = head
        for path, head, name in reversed(missing):
            known[path] = len(paths)
            paths.append(path)
            names.append(name)
            parents.append(known[head] if head else -1)
            key.append(-1)
        key[known[place]] = number
    lone = _lone(parents, key)
    for i, up in enumerate(parents):
        if up >= 0 and lone[up]:
            names[i], parents[i] = f"{names[up]}.{names[i]}", parents[up]
    kept = np.flatnonzero(~lone)
    renumbered = np.cumsum(~lone) - 1
    parent = np.array(parents, np.int64)[kept]
    parent = np.where(parent < 0, -1, renumbered[parent]) if len(kept) else parent
    depth, at, size = _laid_out(parent)
    order = np.argsort(at)
    ids = kept[order].tolist()
    return Inventory(
        metadata,
        tuple(names[i] for i in ids),
        tuple(paths[i] for i in ids),
        np.where(parent < 0, -1, at[parent])[order] if len(at) else parent,
        depth[order],
        (at + size)[order],
        np.array(key, np.int64)[ids],
        moved,
    )


def _lone(parents: Sequence[int], key: Sequence[int]) -> Bools:
    """The branches with one line below them: that one takes their name before its own."""
    parent = np.array(parents, np.int64)
    below = np.bincount(parent[parent >= 0], minlength=len(parent))
    lone: Bools = (below == 1) & (np.array(key, np.int64) < 0)
    return lone


def _parted(path: str) -> tuple[str, str]:
    """What is above a place, and its own name; a name that begins with its only dot is all its own."""
    head, _, name = path.rpartition(".")
    if head.count(".") >= DEEPEST:
        *parts, name = path.split(".", DEEPEST)
        head = ".".join(parts)
    return (head, name) if head else ("", path)


def _laid_out(parent: Ints) -> tuple[Ints, Ints, Ints]:
    """For lines of which each comes after its parent: depth, place with all below it following, size."""
    n = len(parent)
    depth, size = np.zeros(n, np.int64), np.ones(n, np.int64)
    levels, level = [], np.flatnonzero(parent < 0)
    by_parent = np.argsort(parent, kind="stable")
    first = np.searchsorted(parent[by_parent], np.arange(n + 1))
    while len(level):
        levels.append(level)
        depth[level] = len(levels) - 1
        counts = first[level + 1] - first[level]
        starts = np.repeat(first[level] - np.r_[0, np.cumsum(counts)[:-1]], counts)
        level = by_parent[starts + np.arange(counts.sum())]
    for level in reversed(levels[1:]):
        np.add.at(size, parent[level], size[level])
    before = np.cumsum(size[by_parent]) - size[by_parent]
    # Siblings lie together, in the order in which they came.
    eldest = np.searchsorted(parent[by_parent], parent[by_parent])
    at = np.empty(n, np.int64)
    at[by_parent] = before - before[eldest] if n else before
    for level in levels[1:]:
        at[level] += at[parent[level]] + 1
    return depth, at, size


def matching(keys: Sequence[str], query: str) -> list[bool]:
    """Which of some keys a query finds, as `Inventory.found` says."""
    return _hits(query.strip(), keys, [key.lower() for key in keys])


def _hits(query: str, keys: Sequence[str], folded: Sequence[str]) -> list[bool]:
    if len(query) > 1 and query[0] == query[-1] == "/":
        try:
            search = re.compile(query[1:-1], re.IGNORECASE).search
        except re.error as error:
            raise CheckpointError(f"no regular expression: {query}: {error}", [query]) from error
        return [search(key) is not None for key in keys]
    query = query.lower()
    if "*" in query or "?" in query:
        # A glob may begin anywhere: said so to the matcher, which would else try every place by itself.
        match = re.compile(fnmatch.translate(f"*{query}")).match
        sure = "" if "[" in query else max(re.split(r"[*?]", query), key=len)
        return [sure in key and match(key) is not None for key in folded]
    return [query in key for key in folded]
