"""One person looking at one checkpoint: what is open, chosen and asked, and the scenes of it.

Views that share a session listen to it: what one chooses, all show. It knows no torch, no
widget and no process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ckptlab.explorer.scene import Scene
from ckptlab.explorer.scenes import stored_scene
from ckptlab.explorer.tensor import Colours, Look
from ckptlab.explorer.whatif import Target, foretell, target
from ckptlab.layout import Layout
from ckptlab.metadata import Metadata
from ckptlab.plan.far import Far
from ckptlab.plan.forecast import Forecast

Listener = Callable[[frozenset[str]], object]
"""Is given the names of the session's fields that have just changed."""


@dataclass
class Session:
    """State of one explorer. Read its fields; set them by `change`, or by a verb that does.

    `fqn` is the chosen tensor ("" if there is none), `rank` the rank that is kept lit and `file` the
    file that is looked into (-1: none). Of the chosen tensor `dims` are drawn along y and x (None: as
    the view sees fit), at the index `at[d]` of each other dim d (`()`: at their beginning). `mesh` and
    `placements` are the target as typed, `rules` pairs of a key pattern and its own placements. `hosts` is
    the number of ranks on each host (0: nobody knows). `far` says how the chunks lie in far files, None
    if they are local.
    """

    metadata: Metadata = field(repr=False)
    fqn: str = ""
    mesh: str = "shard=4"
    placements: str = "Shard(0)"
    rules: tuple[tuple[str, str], ...] = ()
    rank: int = -1
    file: int = -1
    dims: tuple[int, int] | None = None
    at: tuple[int, ...] = ()
    colours: Colours = "rank"
    hosts: int = 0
    far: Far | None = field(default=None, repr=False)
    _foretold: tuple[object, Forecast] | None = field(default=None, repr=False)
    _listeners: list[Listener] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        if not self.fqn and self.metadata.tensors:
            # The first matrix shows more than a bias would.
            matrix = next((t for t in self.metadata.tensors if len(t.shape) > 1), self.metadata.tensors[0])
            self.fqn = matrix.fqn

    def listen(self, listener: Listener) -> Callable[[], None]:
        """From now on call `listener` after every change; what is returned ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener) if listener in self._listeners else None

    def change(self, **fields: object) -> None:
        """Set fields, then tell every listener once which of them are not what they were."""
        changed = {name for name, value in fields.items() if getattr(self, name) != value}
        for name in changed:
            setattr(self, name, fields[name])
        if changed:
            for listener in tuple(self._listeners):
                listener(frozenset(changed))

    def choose(self, fqn: str) -> None:
        """Look at a tensor, whole; `CheckpointError` if there is none of that name."""
        chosen = self.metadata.tensor(fqn).fqn
        if chosen != self.fqn:
            self.change(fqn=chosen, dims=None, at=())

    @property
    def layout(self) -> Layout:
        """The target; raises `LayoutError` for what was typed wrongly."""
        return Layout.parse(self.mesh, self.placements)

    @property
    def target(self) -> Target:
        """The target of every tensor, by the rules; raises `LayoutError` for what was typed wrongly."""
        return target(self.metadata, self.mesh, self.placements, self.rules)

    @property
    def foretold(self) -> Forecast:
        """What loading every tensor on the target would cost."""
        asked = (self.mesh, self.placements, self.rules)
        if self._foretold is None or self._foretold[0] != asked:
            # A run redraws it many times a second.
            self._foretold = (asked, foretell(self.metadata, self.target, self.far))
        return self._foretold[1]

    def stored_scene(self) -> Scene:
        """The chosen tensor as it is stored; `LayoutError` for dims or an index that it has not."""
        return stored_scene(self.metadata, self.fqn, Look(self.dims, self.at, self.colours), self.hosts)
