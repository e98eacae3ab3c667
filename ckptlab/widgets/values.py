"""The panel of values: numbers and a histogram of a tensor or a part of it; a scan for NaN and Inf.

It owns fields and buttons. What is told, `explorer` works out.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from html import escape
from typing import Any

import ipywidgets as ui

from ckptlab.events import Event
from ckptlab.explorer.histogram import values_scene
from ckptlab.explorer.scan import Found, Odd, scan
from ckptlab.explorer.scene import count
from ckptlab.explorer.session import Session
from ckptlab.explorer.values import Values, values_of
from ckptlab.metadata import human_bytes
from ckptlab.storage import Checkpoint, open_checkpoint
from ckptlab.widgets.panels import MUTED, PLAIN, heading, said
from ckptlab.widgets.table import Answers, TableView
from ckptlab.widgets.view import SceneView, with_picture
from ckptlab.widgets.work import Work

AT_ONCE = 8 << 20
"""A chosen tensor of so many bytes or less is looked at unasked, where files are local."""


class ValuesPanel(ui.VBox):
    """The values of the session's chosen tensor, and a scan of the whole checkpoint.

    A tensor that is small is looked at when it is chosen, another when the button is pressed.
    """

    def __init__(self, session: Session, checkpoint: Checkpoint, link: str = "") -> None:
        self._session, self._checkpoint = session, checkpoint
        self.look = Work("Look", "bar-chart", "Read the tensor, or this part of it, and count")
        self.scan = Work("Scan for NaN", "search", "Read every float of the checkpoint")
        self._deaf = session.listen(lambda changed: self._chosen() if "fqn" in changed else None)
        self.part = ui.Text(
            placeholder="all of it; or a part, such as [10:20, ::3]",
            continuous_update=False,
            description="Part",
            layout=ui.Layout(width="auto", flex="1 1 260px", max_width="420px"),
            style={"description_width": "initial"},
        )
        self.by_log = ui.Checkbox(
            value=False, description="log counts", indent=False, layout=ui.Layout(width="auto")
        )
        self.numbers = ui.HTML()
        self.view = SceneView(hint="", link=link, layout=ui.Layout(width="100%"))
        self.seen: Values | None = None
        self.found: list[Odd] = []
        self.table = TableView(Found(self.found), "nan", Answers(press=self._press), most=7)
        self._following = False
        super().__init__(self._sections(), layout=ui.Layout(grid_gap="6px"))
        self._wire()
        self._chosen()

    def _sections(self) -> list[ui.Widget]:
        wrap = {"flex_flow": "row wrap", "grid_gap": "4px 14px", "align_items": "center"}
        room = {"flex": "1 1 420px", "min_width": "min(240px, 100%)", "max_width": "660px"}
        shown = ui.HBox(
            [ui.Box([self.view], layout=ui.Layout(**room)), self.numbers],
            layout=ui.Layout(**{**wrap, "align_items": "flex-start", "grid_gap": "8px 24px"}),
        )
        self._shown = shown
        return [
            heading("Values", "Read as a stream from the files, a block at a time."),
            ui.HBox([self.part, self.by_log], layout=ui.Layout(**wrap)),
            self.look.row,
            self.look.status,
            shown,
            heading("Is every number a number?", "All floats of the checkpoint, read once."),
            self.scan.row,
            self.scan.status,
            self.table,
        ]

    def _wire(self) -> None:
        self.look.button.on_click(lambda _: self._look())
        self.part.observe(lambda _: None if self._following else self._look(), "value")
        self.by_log.observe(lambda _: self._draw(), "value")
        self.scan.button.on_click(lambda _: self._scan())

    # ---- a tensor

    def _chosen(self) -> None:
        """Another tensor is looked at: what stands here is of the one before."""
        self.look.cancel()
        self.seen, fqn = None, self._session.fqn
        self._shown.layout.display = "none"
        self._list()
        self.look.button.disabled = not fqn
        if not fqn:
            self.look.status.value = said("No tensor is chosen.")
            return
        self._following = True
        self.part.value = ""
        self._following = False
        nbytes = self._session.metadata.tensor(fqn).nbytes
        self.look.status.value = said(f"{fqn}, {human_bytes(nbytes)}: not read yet.")
        if nbytes <= AT_ONCE and self._checkpoint.files.mapped:
            self._look()

    def _look(self) -> None:
        fqn, part = self._session.fqn, self.part.value

        def work(progress: Callable[[Event], None]) -> str:
            self.look.status.value = said(f"Reading {fqn} ...")
            self.seen = values_of(self._checkpoint[fqn], part, progress=progress)
            self._draw()
            odd = self.seen.nan or self.seen.inf
            told = f"{fqn}{self.seen.part}: {count(self.seen.count, 'element')}"
            if not odd:
                return said(f"{told}, every one finite." if "float" in self.seen.dtype else f"{told}.")
            return said(f"{told}: {self.seen.nan:,} NaN, {self.seen.inf:,} Inf.", good=False)

        if fqn:
            self.look.begin(work)

    def _draw(self) -> None:
        if self.seen is None:
            return
        self._shown.layout.display = None
        self.view.scene = values_scene(self.seen, self.by_log.value)
        rows = "".join(
            f"<tr><th scope='row' style='{MUTED};font-weight:normal;text-align:left;padding:0 14px 0 0'>"
            f"{escape(label)}</th><td style='text-align:right;padding:0;font-variant-numeric:tabular-nums'>"
            f"{escape(told)}</td></tr>"
            for label, told in self.seen.facts()
        )
        self.numbers.value = f"<table aria-label='numbers' style='{PLAIN};line-height:1.5'>{rows}</table>"

    # ---- the whole checkpoint

    def _scan(self) -> None:
        def work(progress: Callable[[Event], None]) -> str:
            self.found = []
            self._list()
            self.scan.status.value = said("Scanning ...")
            for odd in scan(self._checkpoint, progress):
                self.found.append(odd)
                self._list()
                self.scan.status.value = said(f"Scanning: {count(len(self.found), 'tensor')} so far ...")
            if not self.found:
                return said("Every float of the checkpoint is a finite number.", good=True)
            return said(
                f"{count(len(self.found), 'tensor')} with NaN or Inf; press one to see it.", good=False
            )

        self.scan.begin(work)

    def _list(self) -> None:
        self.table.table = Found(self.found, self._session.fqn)
        self.table.refresh()
        self.table.layout.display = None if self.found else "none"

    def _press(self, line: int) -> None:
        self._session.choose(self.found[line].fqn)

    def close(self) -> None:
        """End what is at work, and the widgets."""
        self._deaf()
        self.look.cancel()
        self.scan.cancel()
        super().close()

    def __repr__(self) -> str:
        return repr(self.seen) if self.seen else "no values read yet"

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = dict(super()._repr_mimebundle_(**kwargs) or {})
        return with_picture(bundle, self.view.scene) if self.seen else bundle


def values_view(checkpoint: str | os.PathLike[str] | Checkpoint, fqn: str = "") -> ValuesPanel:
    """The values of a checkpoint's tensors by themselves; of `fqn` at first.

    Raises `PathError` if there is no checkpoint, `CheckpointError` if it has no such tensor.
    """
    opened = checkpoint if isinstance(checkpoint, Checkpoint) else open_checkpoint(checkpoint)
    session = Session(opened.metadata)
    if fqn:
        session.choose(fqn)
    return ValuesPanel(session, opened)
