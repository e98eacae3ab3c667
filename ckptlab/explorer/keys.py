"""The keys as someone unfolds and searches them: which lines are there to see, and what stands on them.

It reads the values of objects through what it is given for that, and nothing else. Plain data: no
torch and no drawing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np

from ckptlab.explorer.inventory import Bools, Inventory, Node, Sums, inventory
from ckptlab.explorer.scene import count
from ckptlab.explorer.table import CLOSED, LEAF, OPEN, Column, Line
from ckptlab.layout.box import Ints
from ckptlab.metadata import Metadata, human_bytes, human_shape


def _unread(key: str) -> str:
    return ""


@dataclass(frozen=True, eq=False)
class _View:
    """What there is to see now: `lines` of the tree, what each sums up, and the longest bar beside it."""

    tree: Inventory
    open: Bools
    sums: Sums
    lines: Ints
    nbytes: Ints
    most: Ints


@dataclass
class Keys:
    """A `Table` of the tree: a query narrows it, branches fold, `value` tells an object in words.

    Change it by its verbs; what it then shows is asked for a page at a time. With `beside` what an
    optimizer keeps of a parameter stands below that parameter.
    """

    metadata: Metadata = field(repr=False)
    value: Callable[[str], str] = _unread
    fqn: str = ""
    query: str = ""
    beside: bool = False
    _open: set[str] = field(default_factory=set)
    _shut: set[str] = field(default_factory=set)
    _seen: _View | None = None

    columns: ClassVar = (
        Column("key", wide=3.2, least=170),
        Column("bytes", number=True, wide=0.9, least=78, bar=True),
        Column("shape or value", wide=1.6, least=110),
        Column("dtype", wide=0.8, least=70),
        Column("chunks", number=True, wide=0.6, least=64),
        Column("files", number=True, wide=0.5, least=44),
    )

    @cached_property
    def _plain(self) -> Inventory:
        return inventory(self.metadata)

    @cached_property
    def _grouped(self) -> Inventory:
        return inventory(self.metadata, beside=True)

    @property
    def tree(self) -> Inventory:
        """The tree that is shown."""
        return self._grouped if self.beside else self._plain

    @property
    def keeps_state(self) -> bool:
        """Whether there is anything that `beside` would move."""
        return any(".state." in key or key.startswith("state.") for key in self._plain.keys) and bool(
            self._grouped.moved
        )

    # ---- verbs

    def search(self, query: str) -> None:
        """Show what a query finds (see `Inventory.found`), all unfolded; all keys if it is empty."""
        query = query.strip()
        self._seen = self._look(query, set())
        self.query, self._shut = query, set()

    def group(self, beside: bool) -> None:
        """Put the state of an optimizer below the parameters, or where its names say."""
        self.beside, self._seen = beside, None
        if self.fqn:
            self.choose(self.fqn)

    def choose(self, fqn: str) -> None:
        """Mark a key, and unfold all that is above it."""
        self.fqn = fqn
        above = {self.tree.paths[i] for i in self.tree.above(self.tree.line_of[fqn])}
        self._open |= above
        self._shut -= above
        self._seen = None

    def unfold(self, most: int) -> None:
        """Unfold branch after branch, the highest first, as long as no more than `most` lines are seen."""
        tree = self.tree
        below = np.bincount(tree.parent[tree.parent >= 0], minlength=len(tree))
        free = most - int((tree.depth == 0).sum())
        for line in sorted(
            np.flatnonzero(tree.has_below).tolist(), key=lambda line: (tree.depth[line], line)
        ):
            up = int(tree.parent[line])
            if free < below[line]:
                break
            if up < 0 or tree.paths[up] in self._open:
                self._open.add(tree.paths[line])
                free -= int(below[line])
        self._seen = None

    def fold(self, at: int) -> None:
        """Fold or unfold what is below the visible line `at`."""
        seen = self._view
        line = int(seen.lines[at])
        if seen.tree.has_below[line]:
            folds, path = (self._shut if self.query else self._open), seen.tree.paths[line]
            folds ^= {path}
            self._seen = None

    def fold_all(self, shut: bool) -> None:
        """Fold, or unfold, every branch."""
        every = self.tree.places
        self._shut = set(every) if shut else set()
        self._open = set() if shut else set(every)
        self._seen = None

    # ---- what is shown

    @property
    def _view(self) -> _View:
        if self._seen is None:
            self._seen = self._look(self.query, self._shut)
        return self._seen

    def _look(self, query: str, shut: Collection[str]) -> _View:
        tree = self.tree
        found = tree.found(query) if query else None
        sums = tree.sums(found)
        open_ = _mask(tree, self._open) if found is None else (sums.keys > 0) & ~_mask(tree, shut)
        lines = tree.visible(open_)
        lines = lines[sums.keys[lines] > 0]
        own = np.where(tree.key < 0, sums.nbytes, tree.nbytes)
        most = np.zeros(len(tree) + 1, np.int64)
        np.maximum.at(most, tree.parent[lines], own[lines])
        return _View(tree, open_, sums, lines, own, most)

    def __len__(self) -> int:
        return len(self._view.lines)

    @property
    def chosen(self) -> int:
        """Where among the visible lines the chosen key is; -1 if it is not."""
        lines, line = self._view.lines, self.tree.line_of.get(self.fqn, -1)
        at = int(np.searchsorted(lines, line))
        return at if line >= 0 and at < len(lines) and lines[at] == line else -1

    @property
    def caption(self) -> str:
        """How much there is, or was found."""
        roots = self.tree.depth == 0
        every, found = int(self.tree.sums().keys[roots].sum()), int(self._view.sums.keys[roots].sum())
        size = human_bytes(int(self._view.sums.nbytes[roots].sum()))
        if not self.query:
            return f"{count(every, 'key')}, {size}"
        return f"{found:,} of {count(every, 'key')}, {size}" if found else "No key has that in its name."

    def node(self, at: int) -> Node:
        """The visible line `at`, as a record."""
        return self.tree.node(int(self._view.lines[at]), self._view.sums)

    def lines(self, first: int, count: int) -> list[Line]:
        """At most `count` visible lines from `first` on."""
        return [self._line(at) for at in range(max(0, first), min(first + count, len(self)))]

    def _line(self, at: int) -> Line:
        seen, node = self._view, self.node(at)
        line = int(seen.lines[at])
        below = bool(seen.tree.has_below[line])
        name = f"{node.name}  ({count(node.keys, 'key')})" if node.kind == "branch" else node.name
        told = {"branch": "", "tensor": human_shape(node.shape)}.get(node.kind)
        told = self.value(node.fqn) if told is None else told
        most = max(1, int(seen.most[seen.tree.parent[line]]))
        return Line(
            (
                name,
                human_bytes(node.nbytes),
                told,
                node.dtype or ("object" if node.kind == "object" else ""),
                f"{node.chunks:,}",
                str(len(node.files) or ""),
            ),
            int(seen.tree.depth[line]),
            LEAF if not below else OPEN if seen.open[line] else CLOSED,
            int(seen.nbytes[line]) / most,
            node.kind != "branch" and node.fqn == self.fqn,
            f"{node.fqn}: {told}" if node.kind == "object" else node.fqn,
        )

    def records(self) -> Iterator[Sequence[object]]:
        """Every key that is found, folded away or not."""
        yield ("key", "kind", "dtype", "shape", "bytes", "chunks", "files")
        for node in self.tree.leaves(self.query):
            shape, files = " x ".join(map(str, node.shape)), " ".join(node.files)
            yield (node.fqn, node.kind, node.dtype, shape, node.nbytes, node.chunks, files)


def _mask(tree: Inventory, paths: Collection[str]) -> Bools:
    """Which lines are those of `paths`."""
    mask = np.zeros(len(tree), bool)
    mask[[tree.places[path] for path in paths if path in tree.places]] = True
    return mask
