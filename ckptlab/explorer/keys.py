"""The picture of the keys: one line for each visible row of the inventory's tree.

Plain data: no torch and no drawing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ckptlab.explorer.inventory import Node, Row
from ckptlab.explorer.scene import CLOSED, LEAF, NEUTRAL, OPEN, Fact, Marks, Panel, Tree, count, words
from ckptlab.metadata import human_shape

MOST = 400
"""Lines that are shown at once; more are told of, to be searched for."""


def keys_panel(rows: Sequence[Row], chosen: str = "") -> Panel:
    """The rows as a table with a tree in its first column; `chosen` is the fqn to mark."""
    shown = rows[:MOST]
    nodes = [row.node for row in shown]
    facts = (
        words("shape", [human_shape(n.shape) if n.kind == "tensor" else "" for n in nodes]),
        words("dtype", [n.dtype if n.kind != "branch" else "" for n in nodes]),
        Fact("bytes", "bytes", np.array([n.nbytes for n in nodes], np.int64)),
        Fact("chunks", "count", np.array([n.chunks for n in nodes], np.int64)),
        words("files", [_files(n) for n in nodes]),
    )
    drawn = Marks(
        np.zeros((len(nodes), 4), np.float32),
        np.full(len(nodes), NEUTRAL, np.int16),
        np.zeros(len(nodes), np.uint8),
        np.zeros(len(nodes) + 1, np.int32),
        np.zeros(0, np.int32),
        tuple(n.name + (f"  ({count(n.keys, 'key')})" if n.kind == "branch" else "") for n in nodes),
        facts,
    )
    fold = [LEAF if not r.node.children else OPEN if r.open else CLOSED for r in shown]
    place = next((i for i, n in enumerate(nodes) if n.fqn == chosen and n.kind != "branch"), -1)
    left = len(rows) - len(shown)
    caption = (
        f"{count(left, 'more line')}: search to find what you want."
        if left
        else ""
        if rows
        else "No key has that in its name."
    )
    tree = Tree(np.array([r.depth for r in shown], np.int16), np.array(fold, np.uint8), place)
    return Panel("keys", "rows", "Keys", caption, 1.0, 1.0, drawn, tree=tree)


def _files(node: Node) -> str:
    return node.files[0] if len(node.files) == 1 else f"{len(node.files)} files"
