"""The mesh that saved a checkpoint, as it is recorded, and as its pieces and their writers tell it.

It owns one drawing and its words. What is inferred, `explorer.inferred` decides.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from html import escape
from textwrap import dedent
from typing import Any

import ipywidgets as ui

from ckptlab.events import Event
from ckptlab.explorer.inferred import inferred, inferred_scene, known
from ckptlab.explorer.scene import count
from ckptlab.explorer.session import Session
from ckptlab.metadata import Metadata
from ckptlab.storage import Checkpoint, open_checkpoint
from ckptlab.widgets.panels import MUTED, PLAIN, heading, said
from ckptlab.widgets.view import SceneView, with_picture
from ckptlab.widgets.work import Work

_SHOWN = 6

AT_ONCE = 50_000
"""Chunks up to which a mesh is looked for at once; of more, on a thread that can be ended."""


class InferredPanel(ui.VBox):
    """Each mesh that explains the chunks, how sure that is and why, with the session's tensor on it."""

    def __init__(self, session: Session, link: str = "") -> None:
        self.session = session
        self.view = SceneView(hint="", link=link)
        self.work = Work("Infer", "search", "Look for meshes that explain the chunks and their writers")
        self._why = ui.HTML()
        self._asking = ui.VBox([self.work.row, self.work.status])
        self._answer = ui.VBox([self.view, self._why], layout=ui.Layout(grid_gap="6px"))
        self._deaf = session.listen(self._hear)
        self.work.button.on_click(lambda _: self._look())
        title = heading("Layout inferred", "From the boxes of the chunks and the ranks that wrote them.")
        super().__init__([title, ui.HTML(_recorded(session.metadata)), self._asking, self._answer])
        self.layout.grid_gap = "6px"
        self._show(known(session.metadata) is not None or len(session.metadata.chunks) <= AT_ONCE)
        if not self._told:
            self._look()

    def close(self) -> None:
        """End the search and the widgets; the session is listened to no more."""
        self._deaf()
        self.work.cancel()
        self.view.close()
        super().close()

    def _hear(self, changed: frozenset[str]) -> None:
        if "fqn" in changed and self._told:
            self._show(True)

    def _look(self) -> None:
        """Infer on a thread."""

        def work(_: Callable[[Event], None]) -> str:
            self.work.status.value = said("Trying meshes ...")
            inferred(self.session.metadata, self.work.share)
            self._show(True)
            return ""

        self.work.begin(work)

    def _show(self, told: bool) -> None:
        """The answer, if there is one, and the reasons, which may be folded away; else what asks for it."""
        self._told = told
        self._asking.layout.display = "none" if told else None
        self._answer.layout.display = None if told else "none"
        if not told:
            return
        self.view.scene = inferred_scene(self.session.metadata, self.session.fqn)
        # Of tens of thousands of ranks only words are left.
        self.view.layout.display = None if self.view.scene.panels else "none"
        words = escape(dedent("\n".join(self.view.scene.text.splitlines()[1:])))
        self._why.value = (
            f"<details open style='{PLAIN};line-height:1.5'><summary>what speaks for and against</summary>"
            f"<div style='white-space:pre-wrap;font-size:12px;padding:4px 16px'>{words}</div></details>"
        )

    def __repr__(self) -> str:
        return self.view.scene.text if self._told else "no mesh inferred yet"

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = dict(super()._repr_mimebundle_(**kwargs) or {})
        return with_picture(bundle, self.view.scene) if self._told else bundle


def inferred_view(checkpoint: str | os.PathLike[str] | Checkpoint) -> InferredPanel:
    """The meshes that may have saved a checkpoint, given by path or open, by themselves."""
    opened = checkpoint if isinstance(checkpoint, Checkpoint) else open_checkpoint(checkpoint)
    return InferredPanel(Session(opened.metadata))


def _recorded(metadata: Metadata) -> str:
    """The layouts that the writer recorded, the most used first; to be held against what is inferred."""
    used = Counter(metadata.layouts.values()).most_common()
    told = [f"{layout!r} for {count(n, 'tensor')}" for layout, n in used[:_SHOWN]]
    told += [f"and {len(used) - _SHOWN} more"] if len(used) > _SHOWN else []
    lines = "".join(f"<div>{escape(line)}</div>" for line in told)
    style = f"{PLAIN};font-size:12px;line-height:1.5"
    if not lines:
        return f"<div style='{MUTED};font-size:12px'>The writer recorded no mesh.</div>"
    return f"<div style='{style}'><b>The writer recorded</b>{lines}</div>"
