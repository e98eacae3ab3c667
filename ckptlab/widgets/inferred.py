"""The mesh that saved a checkpoint, as it is recorded, and as its pieces and their writers tell it.

It owns one drawing and its words. What is inferred, `explorer.inferred` decides.
"""

from __future__ import annotations

import os
from collections import Counter
from html import escape
from textwrap import dedent
from typing import Any

import ipywidgets as ui

from ckptlab.explorer.inferred import inferred_scene
from ckptlab.explorer.scene import count
from ckptlab.explorer.session import Session
from ckptlab.metadata import Metadata
from ckptlab.storage import Checkpoint, open_checkpoint
from ckptlab.widgets.panels import MUTED, PLAIN, heading
from ckptlab.widgets.view import SceneView, with_picture

_SHOWN = 6


class InferredPanel(ui.VBox):
    """Each mesh that explains the chunks, how sure that is and why, with the session's tensor on it."""

    def __init__(self, session: Session, link: str = "") -> None:
        self.session = session
        self.view = SceneView(inferred_scene(session.metadata, session.fqn), hint="", link=link)
        self._why = ui.HTML()
        self._deaf = session.listen(self._hear)
        title = heading("Layout inferred", "From the boxes of the chunks and the ranks that wrote them.")
        super().__init__([title, ui.HTML(_recorded(session.metadata)), self.view, self._why])
        self.layout.grid_gap = "6px"
        self._tell()

    def close(self) -> None:
        """End the widgets; the session is listened to no more."""
        self._deaf()
        self.view.close()
        super().close()

    def _hear(self, changed: frozenset[str]) -> None:
        if "fqn" in changed:
            self.view.scene = inferred_scene(self.session.metadata, self.session.fqn)
            self._tell()

    def _tell(self) -> None:
        """The reasons; they may be folded away."""
        words = escape(dedent("\n".join(self.view.scene.text.splitlines()[1:])))
        self._why.value = (
            f"<details open style='{PLAIN};line-height:1.5'><summary>what speaks for and against</summary>"
            f"<div style='white-space:pre-wrap;font-size:12px;padding:4px 16px'>{words}</div></details>"
        )

    def __repr__(self) -> str:
        return self.view.scene.text

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        return with_picture(dict(super()._repr_mimebundle_(**kwargs) or {}), self.view.scene)


def inferred_view(checkpoint: str | os.PathLike[str] | Checkpoint) -> InferredPanel:
    """The meshes that may have saved a checkpoint, given by path or open, by themselves."""
    opened = checkpoint if isinstance(checkpoint, Checkpoint) else open_checkpoint(checkpoint)
    return InferredPanel(Session(opened.metadata))


def _recorded(metadata: Metadata) -> str:
    """The layouts that the writer recorded, the most used first; to be held against what is inferred."""
    used = Counter(metadata.layouts.values()).most_common()
    said = [f"{layout!r} for {count(n, 'tensor')}" for layout, n in used[:_SHOWN]]
    said += [f"and {len(used) - _SHOWN} more"] if len(used) > _SHOWN else []
    lines = "".join(f"<div>{escape(line)}</div>" for line in said)
    style = f"{PLAIN};font-size:12px;line-height:1.5"
    if not lines:
        return f"<div style='{MUTED};font-size:12px'>The writer recorded no mesh.</div>"
    return f"<div style='{style}'><b>The writer recorded</b>{lines}</div>"
