"""The panel of two checkpoints: a heat map over layers, and a table of what differs.

It owns a button, a bar of progress and a thread. What is told, `explorer` works out.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import ipywidgets as ui

from ckptlab.events import Event
from ckptlab.explorer.compare import Rename, compare
from ckptlab.explorer.compare_result import Change, Comparison
from ckptlab.explorer.compare_scene import Cell, heat_panel, heat_scene
from ckptlab.explorer.compare_table import Changes
from ckptlab.metadata import Keys
from ckptlab.storage import Checkpoint, open_checkpoint
from ckptlab.widgets.panels import heading, said
from ckptlab.widgets.table import Answers, TableView
from ckptlab.widgets.view import SceneView, with_picture
from ckptlab.widgets.work import Work

HINT = "Point at a tile: what is in it. A click chooses its line below."


class ComparePanel(ui.VBox):
    """Two checkpoints side by side. Keys, shapes and dtypes are compared at once, values on a click.

    `comparison` is what is known so far; `ask(progress)` gets to know the values, too.
    """

    def __init__(self, comparison: Comparison, ask: Callable[[Callable[[Event], None]], Comparison]) -> None:
        self.comparison, self._ask = comparison, ask
        self.work = Work("Compare values", "exchange", "Read all tensors of both, a tile at a time")
        self.view = SceneView(hint=HINT, layout=ui.Layout(width="100%"))
        self.detail = ui.HTML(layout=ui.Layout(width="auto"))
        self.changes = Changes(self.comparison)
        answers = Answers(press=self._press, search=self._search, switch=self._switch)
        self.table = TableView(
            self.changes, "changes", answers, search="search keys", switch="equal ones too", most=10
        )
        self._cells: list[Cell] = []
        sides = (f"{name} {of.path} ({of.format})" for name, of in (("a", comparison.a), ("b", comparison.b)))
        super().__init__(
            [
                heading("Compare", "; ".join(sides)),
                self.work.row,
                self.work.status,
                self.view,
                self.detail,
                self.table,
            ],
            layout=ui.Layout(grid_gap="6px"),
        )
        self.work.button.on_click(lambda _: self.begin())
        self.view.observe(lambda change: self._picked(change.new), "picked")
        self._draw()
        self.work.status.value = self._status()

    def begin(self) -> None:
        """Compare the values, on a thread."""
        self.work.begin(self._work)

    def _work(self, progress: Callable[[Event], None]) -> str:
        self.work.status.value = said("Reading both ...")
        self.comparison = self._ask(progress)
        self._draw()
        return self._status()

    def _status(self) -> str:
        verdict, *rest = self.comparison.headline()
        verdict = verdict.rpartition(": ")[2]
        good = self.comparison.equal if self.comparison.read or not self.comparison.equal else None
        return said(f"{verdict}. {'; '.join(line.strip() for line in rest)}.", good)

    def _draw(self) -> None:
        self._cells = heat_panel(self.comparison)[1]
        self.view.scene = heat_scene(self.comparison)
        self.view.layout.display = None if self._cells else "none"
        self.changes = Changes(self.comparison, self.changes.every, self.changes.query)
        self.table.table = self.changes
        self.table.refresh()
        self._tell(())

    def _picked(self, picked: dict[str, Any]) -> None:
        if picked:
            self._choose(self._cells[picked["mark"]].changes)

    def _press(self, line: int) -> None:
        self._choose((self.changes.at(line),))

    def _choose(self, changes: tuple[Change, ...]) -> None:
        """Mark the first of some keys, and tell of them."""
        self.changes.picked = changes[0]
        if self.changes.chosen < 0 and not self.changes.query:
            self.changes.show(every=True)
            self.table.switched = True
        self.table.refresh(show=True)
        self._tell(changes)

    def _tell(self, changes: tuple[Change, ...]) -> None:
        shown = [f"{change.key}: {change.words or change.state}" for change in changes[:3]]
        more = f" ... and {len(changes) - 3:,} more" if len(changes) > 3 else ""
        self.detail.value = said(f"{'. '.join(shown)}{more}") if shown else ""

    def _search(self, query: str) -> None:
        self.changes.search(query)
        self.table.refresh()

    def _switch(self, on: bool) -> None:
        self.changes.show(on)
        self.table.refresh()

    def close(self) -> None:
        """End what is at work, and the widgets."""
        self.work.cancel()
        super().close()

    def __repr__(self) -> str:
        return repr(self.comparison)

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = dict(super()._repr_mimebundle_(**kwargs) or {})
        return {**with_picture(bundle, self.view.scene), "text/plain": repr(self)}


def compare_view(
    a: str | os.PathLike[str] | Checkpoint,
    b: str | os.PathLike[str] | Checkpoint,
    *,
    keys: Keys | None = None,
    rename: Rename | None = None,
    rtol: float | None = None,
    atol: float | None = None,
) -> ComparePanel:
    """Two checkpoints compared, as `ckptlab.compare` does it; values are read when the button is pressed.

    Raises `PathError` where there is no checkpoint, `CheckpointError` for keys that neither has.
    """
    one, other = (x if isinstance(x, Checkpoint) else open_checkpoint(x) for x in (a, b))

    same = partial(compare, one, other, keys=keys, rename=rename, rtol=rtol, atol=atol)
    return ComparePanel(same(values=False), lambda progress: same(progress=progress))
