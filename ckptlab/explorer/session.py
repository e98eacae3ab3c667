"""One person looking at one checkpoint: what is open, chosen and asked, and the scenes of it.

All that the panels show is decided here, so that it can be asserted without a browser. It
knows no torch, no widget and no process.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from ckptlab.explorer.inventory import Node, Row, inventory, visible
from ckptlab.explorer.keys import keys_panel
from ckptlab.explorer.scene import Scene, count
from ckptlab.explorer.scenes import layout_scene, stored_scene, traffic_scene
from ckptlab.explorer.traffic import Ran
from ckptlab.layout import Layout
from ckptlab.metadata import Metadata
from ckptlab.plan.forecast import Forecast, forecast
from ckptlab.plan.holding import holdings

RECIPES: dict[str, tuple[str, str]] = {
    "FSDP on 4: rows": ("shard=4", "Shard(0)"),
    "FSDP on 2: rows": ("shard=2", "Shard(0)"),
    "HSDP 2 x 2: rows, two copies": ("replicate=2, shard=2", "Replicate, Shard(0)"),
    "TP on 4: columns": ("tp=4", "Shard(1)"),
    "2 x 2: rows and columns": ("dp=2, tp=2", "Shard(0), Shard(1)"),
    "FSDP + TP 2 x 2: rows of rows": ("dp=2, tp=2", "StridedShard(0, split_factor=2), Shard(0)"),
    "one process": ("rank=1", "Replicate"),
    "a copy on each of 4": ("replicate=4", "Replicate"),
}
"""Targets by name: mesh and placements as `Layout.parse` reads them."""


@dataclass
class Session:
    """State of one explorer. `mesh` and `placements` are as typed; `fqn` is the chosen tensor."""

    metadata: Metadata
    query: str = ""
    fqn: str = ""
    mesh: str = "shard=4"
    placements: str = "Shard(0)"
    opened: set[str] = field(default_factory=set)
    _foretold: tuple[Layout, Forecast] | None = None

    def __post_init__(self) -> None:
        if not self.fqn and self.metadata.tensors:
            # The first matrix shows more than a bias would.
            matrices = [t.fqn for t in self.metadata.tensors if len(t.shape) > 1]
            self.choose(matrices[0] if matrices else self.metadata.tensors[0].fqn)

    @cached_property
    def tree(self) -> Node:
        """All keys."""
        return inventory(self.metadata)

    @property
    def rows(self) -> list[Row]:
        """The lines of the tree that are visible now."""
        return visible(self.tree, self.query, frozenset(self.opened))

    def choose(self, fqn: str) -> None:
        """Look at a tensor, and open the branches above it."""
        self.fqn = self.metadata.tensor(fqn).fqn
        self.opened |= set(_above(self.tree, self.fqn))

    def press(self, line: int) -> None:
        """A line of the tree was pressed: fold or unfold a branch, choose a tensor."""
        node = self.rows[line].node
        if node.kind == "tensor":
            self.fqn = node.fqn
        elif node.kind == "branch":
            self.opened ^= {node.fqn}

    @property
    def layout(self) -> Layout:
        """The target; raises `LayoutError` for what was typed wrongly."""
        return Layout.parse(self.mesh, self.placements)

    @property
    def foretold(self) -> Forecast:
        """What loading every tensor on the target would cost."""
        layout = self.layout
        if self._foretold is None or self._foretold[0] != layout:
            # A run redraws it many times a second.
            wants = holdings(self.metadata.tensors, layout)
            self._foretold = (layout, forecast(self.metadata, wants, max(layout.mesh.rank_list) + 1))
        return self._foretold[1]

    def keys_scene(self) -> Scene:
        """The tree."""
        panel = keys_panel(self.rows, self.fqn)
        return Scene("", (panel,), (), count(len(self.metadata.tensors), "tensor"))

    def stored_scene(self) -> Scene:
        """The chosen tensor as it is stored."""
        return stored_scene(self.metadata, self.fqn)

    def target_scene(self) -> Scene:
        """The chosen tensor on the target mesh."""
        return layout_scene(
            self.layout, self.metadata.tensor(self.fqn), title=f"{self.fqn} on the target mesh"
        )

    def traffic_scene(self, ran: tuple[Ran, ...] = ()) -> Scene:
        """The load of all tensors, foretold, and run as far as `ran` tells."""
        return traffic_scene(self.foretold, ran)


def _above(node: Node, fqn: str) -> list[str]:
    """The branches that lead to a key."""
    for child in node.children:
        if child.fqn == fqn and child.kind != "branch":
            return []
        if child.kind == "branch" and any(leaf.fqn == fqn for leaf in child.leaves()):
            return [child.fqn, *_above(child, fqn)]
    return []
