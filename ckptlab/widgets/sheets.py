"""Sheets of which one is seen at a time; each is made when it is first looked at.

Plain ipywidgets; it knows no checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import ipywidgets as ui


class Sheets(ui.Tab):
    """A tab for each title. What a maker returns stays; a sheet that nobody has looked at costs nothing.

    `first` is the sheet that is seen at once (None: none is).
    """

    def __init__(self, makers: Mapping[str, Callable[[], ui.Widget]], first: str | None = None) -> None:
        self._makers = dict(makers)
        pages = [ui.VBox(layout=ui.Layout(min_width="0")) for _ in makers]
        super().__init__(pages, titles=tuple(makers))
        # By this the script knows whose tabs the keys were pressed on.
        self.add_class("ckl-sheets")
        self.selected_index = None
        self.observe(lambda change: self._turned(change.new), "selected_index")
        if first is not None:
            self.show(first)

    def show(self, title: str) -> ui.Widget:
        """Turn to a sheet; what is on it."""
        self.selected_index = self.titles.index(title)
        return self.made(title)

    def made(self, title: str) -> ui.Widget:
        """What is on a sheet, whether it is looked at or not."""
        page = self.children[self.titles.index(title)]
        if not page.children:
            page.children = (self._makers[title](),)
        return page.children[0]

    @property
    def all_made(self) -> Iterable[ui.Widget]:
        """What is on the sheets that were looked at."""
        return [page.children[0] for page in self.children if page.children]

    def _turned(self, index: int | None) -> None:
        if index is not None:
            self.made(self.titles[index])
