"""Sheets of which one is seen at a time; each is made when it is first looked at.

Plain ipywidgets; it knows no checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import ipywidgets as ui


class Sheets(ui.Tab):
    """A tab for each title. What a maker returns stays; one that has not been looked at costs nothing."""

    def __init__(self, makers: Mapping[str, Callable[[], ui.Widget]]) -> None:
        self._makers = dict(makers)
        pages = [ui.VBox(layout=ui.Layout(min_width="0")) for _ in makers]
        super().__init__(pages, titles=tuple(makers), selected_index=0)
        self.observe(lambda change: self._make(change.new), "selected_index")
        self._make(0)

    def show(self, title: str) -> ui.Widget:
        """Turn to a sheet; what is on it."""
        self.selected_index = self.titles.index(title)
        return self.children[self.selected_index].children[0]

    def _make(self, index: int | None) -> None:
        if index is not None and not self.children[index].children:
            self.children[index].children = (self._makers[self.titles[index]](),)
