"""A table in the notebook that sends only the lines in view, however many there are.

It owns traits and their transport, and hands what was pressed to whoever made it. What a line
says, its `Table` decides; how it looks, the script and the stylesheet beside this file.
"""

from __future__ import annotations

import base64
import os
import threading
from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from ckptlab.errors import CheckpointError
from ckptlab.explorer.scene import Scene
from ckptlab.explorer.table import Table, csv_text, table_text
from ckptlab.widgets.still import png

_HERE = Path(__file__).parent
_MOST = 200
"""Lines that are sent at once, whatever is asked for."""


@dataclass(frozen=True)
class Answers:
    """What happens when a visible line is pressed or folded, all are, a query is typed, a box ticked."""

    press: Callable[[int], None] = lambda at: None
    fold: Callable[[int], None] | None = None
    fold_all: Callable[[bool], None] = lambda shut: None
    search: Callable[[str], None] | None = None
    switch: Callable[[bool], None] = lambda on: None


class TableView(anywidget.AnyWidget):
    """Some lines of a table, and how many there are; `refresh()` shows it anew when it has changed.

    `name` is what the CSV file is called, `search` the hint in the field to type in, `switch` the
    words beside a box to tick ("": there is none). `most` is how many lines are seen at once.
    """

    _esm = (_HERE / "table.js").read_text(encoding="utf-8")
    _css = (_HERE / "table.css").read_text(encoding="utf-8")

    head = traitlets.Dict().tag(sync=True)
    page = traitlets.Dict().tag(sync=True)
    query = traitlets.Unicode("").tag(sync=True)
    switched = traitlets.Bool(False).tag(sync=True)
    trouble = traitlets.Unicode("").tag(sync=True)

    def __init__(
        self, table: Table, name: str, answers: Answers, search: str = "", switch: str = "", most: int = 16
    ) -> None:
        self.table, self.name, self._answers = table, name, answers
        self._window, self._token, self._version = (0, most + 12), 0, 0
        # JupyterLab hands its first messages to the main thread, later ones to another (a subshell).
        self._one_at_a_time = threading.RLock()
        self._searched: dict[str, int] = {}
        head = {
            "label": name,
            "columns": [asdict(column) for column in table.columns],
            "tree": answers.fold is not None,
            "search": search,
            "switch": switch,
            "most": most,
        }
        super().__init__(head=head, page=self._page(), layout={"width": "100%"})
        self.on_msg(lambda _, message, buffers: self.hear(message))

    def refresh(self, show: bool = False) -> None:
        """Send the lines in view as they are now; with `show`, bring the chosen one into view."""
        chosen = self.table.chosen
        self._version += 1
        if show and chosen >= 0:
            self._token += 1
            first, count = self._window
            if not first <= chosen < first + count:
                self._window = (max(0, chosen - count // 2), count)
        self.page = self._page()

    def hear(self, message: dict[str, Any]) -> None:
        """What the front end tells: lines that it wants, or what was done to one."""
        with self._one_at_a_time:
            self._do(message)

    def _do(self, message: dict[str, Any]) -> None:
        did, value = next(iter(message.items()))
        if did == "want":
            first, count = value
            self._window = (max(0, int(first)), min(int(count), _MOST))
            self.page = self._page()
        elif did == "csv":
            self.send({"csv": f"{self.name}.csv"}, [csv_text(self.table).encode()])
        elif did == "search":
            # The newest may come first; what was typed before it in the same view is no longer wanted.
            view, nth = message.get("view", ""), message.get("nth", 0)
            if nth >= self._searched.get(view, 0):
                self._searched[view] = nth
                self._search(value)
        else:
            answer = getattr(self._answers, did)
            answer(value)
            self.switched = value if did == "switch" else self.switched

    def _search(self, query: str) -> None:
        assert self._answers.search is not None
        self.query = query
        try:
            self._answers.search(query)
            self.trouble = ""
        except CheckpointError as error:
            # A regular expression that is still being typed may not be one yet.
            self.trouble = str(error)

    def _page(self) -> dict[str, Any]:
        total = len(self.table)
        first, count = self._window
        first = max(0, min(first, total - count))
        return {
            "first": first,
            "total": total,
            "lines": [astuple(line) for line in self.table.lines(first, count)],
            "caption": self.table.caption,
            "show": self.table.chosen,
            "token": self._token,
            "version": self._version,
        }

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write all of the table, not only what is in view."""
        Path(path).write_text(csv_text(self.table), encoding="utf-8")

    def __repr__(self) -> str:
        return table_text(self.table)

    def still(self) -> dict[str, str]:
        """What a reader without a kernel sees: a picture of the first lines, and their words."""
        text = table_text(self.table)
        return {"image/png": base64.b64encode(png(Scene("", (), (), text))).decode(), "text/plain": text}

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle or {}, {})
        return {**data, **self.still()}, metadata
