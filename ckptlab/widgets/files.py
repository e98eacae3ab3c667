"""The files of a checkpoint as bars of their bytes; a bar that is pressed is looked into.

It owns the widgets and their wiring. What a bar and a table say, `explorer` decides.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from html import escape
from typing import Any

import ipywidgets as ui

from ckptlab.explorer.filemap import PAGE, file_scene, files_scene
from ckptlab.explorer.files import Files, Inside
from ckptlab.explorer.session import Session
from ckptlab.explorer.table import Table
from ckptlab.storage import Checkpoint, open_checkpoint
from ckptlab.widgets.panels import PLAIN, alarm, heading
from ckptlab.widgets.table import Answers, TableView
from ckptlab.widgets.view import SceneView, with_picture

_SHOWN = 6


class FilesPanel(ui.VBox):
    """Files, and what is in the one that is looked into. `view` is the picture, `table` stands below it."""

    def __init__(self, session: Session, checkpoint: Checkpoint, link: str = "") -> None:
        self.session, self.files = session, Files(checkpoint)
        self._first, self._part, self._drawn = 0, (0, 0), files_scene(self.files, 0, session.fqn)
        self.view = SceneView(hint="", link=link)
        self.view.observe(lambda change: self._press(change.new), "picked")
        self.whole = _button("", "arrow-up", "Out: the whole file, then all files", self._leave)
        self.before = _button("", "chevron-left", "Before", lambda: self._turn(-1))
        self.next = _button("", "chevron-right", "Next", lambda: self._turn(1))
        self.where = ui.HTML()
        self._listed = TableView(self.files, "files", Answers(press=self._look), most=_high(self.files))
        self.table = self._listed
        self._below = ui.VBox([self.table])
        self._deaf = session.listen(self._hear)
        say = "Press a bar to look into its file, and there a chunk to see its tensor everywhere."
        buttons = ui.HBox(
            [self.whole, self.before, self.next, self.where], layout=ui.Layout(align_items="center")
        )
        super().__init__(
            [heading("Files", say), *self._notes(), buttons, self.view, self._below],
            layout=ui.Layout(grid_gap="6px"),
        )
        self._look_anew()

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write every file, or every extent of the file that is looked into."""
        self.table.to_csv(path)

    def close(self) -> None:
        """End the widgets; the session is listened to no more."""
        self._deaf()
        for widget in {self._listed, self.table, self.view}:
            widget.close()
        super().close()

    # ---- what is looked at

    def _hear(self, changed: frozenset[str]) -> None:
        if "file" in changed:
            self._look_anew()
        elif changed & {"fqn", "colours"}:
            self._refresh()

    def _look_anew(self) -> None:
        """Another file, or all of them."""
        file = self.session.file
        self.files.file, self._part = file, (0, 0)
        if self.table is not self._listed:
            self.table.close()
        if file < 0:
            self.table = self._listed
        else:
            self._inside = Inside(self.files, file, self.session.fqn)
            answers = Answers(press=self._choose_extent)
            self.table = TableView(self._inside, "extents", answers, most=_high(self._inside))
            self._part = (0, max(int(self.files.size[file]), int(self.files.needed[file])))
        self._below.children = (self.table,)
        self._refresh()

    def _refresh(self) -> None:
        session, file = self.session, self.session.file
        if file < 0:
            self._drawn = files_scene(self.files, self._first, session.fqn, session.colours)
            said = ""
        else:
            self._inside.fqn = session.fqn
            self._drawn = file_scene(self.files, file, *self._part, session.fqn, session.colours)
            said = f"file {self.files.chosen + 1:,} of {len(self.files):,}: {self.files.stands[file]}"
        self.view.scene = self._drawn.scene
        self.table.refresh(show=True)
        self.where.value = f"<span style='{PLAIN}'>{escape(said)}</span>"
        self.whole.disabled = file < 0
        at, step = (self._first, PAGE) if file < 0 else (self.files.chosen, 1)
        self.before.disabled, self.next.disabled = at - step < 0, at + step >= len(self.files)

    def _leave(self) -> None:
        file = self.session.file
        whole = (0, max(int(self.files.size[file]), int(self.files.needed[file])))
        if self._part != whole:
            self._part = whole
            self._refresh()
        else:
            self.session.change(file=-1)

    def _turn(self, way: int) -> None:
        if self.session.file < 0:
            self._first += way * PAGE
            self._refresh()
        else:
            self._look(self.files.chosen + way)

    def _look(self, line: int) -> None:
        self.session.change(file=self.files.order[line])

    # ---- what is pressed

    def _press(self, picked: dict[str, Any]) -> None:
        if not picked:
            return
        drawn, mark = self._drawn, int(picked["mark"])
        # To press here is to look closer; it is no wish to keep a rank lit.
        self.view.rank = -1
        file, tensor = int(drawn.file[mark]), int(drawn.tensor[mark])
        if file != self.session.file:
            self.session.change(file=file)
        elif drawn.number[mark] > 1:
            self._part = (int(drawn.start[mark]), int(drawn.stop[mark]))
            self._refresh()
        self._choose(tensor)

    def _choose_extent(self, at: int) -> None:
        self._choose(int(self._inside.found.tensor[at]))

    def _choose(self, tensor: int) -> None:
        if tensor >= 0:
            self.session.choose(self.session.metadata.tensors[tensor].fqn)

    def _notes(self) -> list[ui.Widget]:
        """What is wrong with the files, or worth telling."""
        notes = self.files.notes
        lines = [f"<div>{escape(note)}</div>" for note in notes[:_SHOWN]]
        more = f"<div>and {len(notes) - _SHOWN} more</div>" if len(notes) > _SHOWN else ""
        return [ui.HTML(alarm("".join(lines) + more))] if notes else []

    def __repr__(self) -> str:
        return self._drawn.scene.text

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = dict(super()._repr_mimebundle_(**kwargs) or {})
        return with_picture(bundle, self._drawn.scene)


def files_view(checkpoint: str | os.PathLike[str] | Checkpoint) -> FilesPanel:
    """The files of a checkpoint, given by path or open, by themselves."""
    opened = checkpoint if isinstance(checkpoint, Checkpoint) else open_checkpoint(checkpoint)
    return FilesPanel(Session(opened.metadata), opened)


def _high(table: Table) -> int:
    """Lines of a table that are seen at once."""
    return min(8, max(2, len(table)))


def _button(text: str, icon: str, tip: str, press: Callable[[], None]) -> ui.Button:
    button = ui.Button(description=text, icon=icon, tooltip=tip, layout=ui.Layout(width="40px"))
    button.on_click(lambda _: press())
    return button
