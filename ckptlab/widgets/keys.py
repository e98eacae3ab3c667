"""The keys of a checkpoint as a searchable tree; what is chosen in it, all views of the session show.

It owns the table and its wiring. Which lines there are, `explorer.keys` decides.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import ipywidgets as ui

from ckptlab.explorer.keys import Keys
from ckptlab.explorer.objects import Objects
from ckptlab.explorer.session import Session
from ckptlab.storage import Checkpoint, open_checkpoint
from ckptlab.widgets.panels import heading
from ckptlab.widgets.table import Answers, TableView

_SEARCH = "search: text, glob* or /regex/"
_BESIDE = "optimizer state beside parameter"


class KeysPanel(ui.VBox):
    """The tree of a checkpoint's keys. `view` is the table, `tree` what it shows."""

    def __init__(self, session: Session, checkpoint: Checkpoint, most: int = 16) -> None:
        self.session, self.objects = session, Objects(checkpoint)
        self.tree = Keys(session.metadata, self.objects)
        high = min(most, max(3, len(self.tree.tree)))
        self.tree.unfold(high)
        if session.fqn:
            self.tree.choose(session.fqn)
        answers = Answers(
            press=self._press,
            fold=lambda at: self._after(self.tree.fold, at),
            fold_all=lambda shut: self._after(self.tree.fold_all, shut),
            search=lambda query: self._after(self.tree.search, query),
            switch=lambda beside: self._after(self.tree.group, beside, show=True),
        )
        switch = _BESIDE if self.tree.keeps_state else ""
        self.view = TableView(self.tree, "keys", answers, _SEARCH, switch, high)
        self.view.refresh(show=True)
        self._deaf = session.listen(self._hear)
        title = heading("Keys", "Press a tensor to see it everywhere; a bar is beside its largest sibling.")
        super().__init__([title, self.view], layout=ui.Layout(grid_gap="6px"))

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write every key that is found, folded away or not."""
        self.view.to_csv(path)

    def close(self) -> None:
        """End the widgets; the session is listened to no more."""
        self._deaf()
        self.view.close()
        super().close()

    def _after(self, verb: Callable[[Any], None], value: Any, show: bool = False) -> None:
        verb(value)
        self.view.refresh(show)

    def _hear(self, changed: frozenset[str]) -> None:
        if "fqn" in changed:
            self._after(self.tree.choose, self.session.fqn, show=True)

    def _press(self, at: int) -> None:
        node = self.tree.node(at)
        if node.kind == "tensor":
            self.session.choose(node.fqn)
        elif node.kind == "object":
            self._after(self.objects.read, node.fqn)
        else:
            self._after(self.tree.fold, at)

    def __repr__(self) -> str:
        return repr(self.view)

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = dict(super()._repr_mimebundle_(**kwargs) or {})
        return {**bundle, **self.view.still()}


def keys_view(checkpoint: str | os.PathLike[str] | Checkpoint, most: int = 16) -> KeysPanel:
    """The keys of a checkpoint, given by path or open, by themselves; `most` lines are seen at once."""
    opened = checkpoint if isinstance(checkpoint, Checkpoint) else open_checkpoint(checkpoint)
    return KeysPanel(Session(opened.metadata), opened, most)
