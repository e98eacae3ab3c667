"""`explore`: a checkpoint in a notebook; its keys, one tensor, and below them a sheet for each question.

It puts the panels together. All of them look at one `Session`; what they show is decided in `explorer`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as ui
import numpy as np

from ckptlab.doctor import diagnose
from ckptlab.explorer.far import far_of
from ckptlab.explorer.scene import count
from ckptlab.explorer.session import Session
from ckptlab.live import Ranks
from ckptlab.metadata import human_bytes
from ckptlab.storage import Checkpoint, open_checkpoint
from ckptlab.widgets.doctor import DoctorPanel
from ckptlab.widgets.files import FilesPanel
from ckptlab.widgets.inferred import InferredPanel
from ckptlab.widgets.keys import KeysPanel
from ckptlab.widgets.opening import opening
from ckptlab.widgets.panels import MUTED, PLAIN
from ckptlab.widgets.run import RunPanel, path_of
from ckptlab.widgets.sheets import Sheets
from ckptlab.widgets.tensor import TensorPanel
from ckptlab.widgets.values import ValuesPanel
from ckptlab.widgets.view import with_picture
from ckptlab.widgets.whatif import WhatIfPanel

SMALL = 50_000
"""Chunks up to which the first sheet is made at once; of more, nothing is foretold before it is asked for."""


class Explorer(ui.VBox):
    """Linked views of one checkpoint. `session` is what is looked at, `sheets` hold the panels below.

    `close()` ends its ranks.
    """

    def __init__(self, checkpoint: Checkpoint, ranks: Ranks | None = None, target: Any = None) -> None:
        self.checkpoint, self._ranks, self._target = checkpoint, ranks, target
        self.session = Session(checkpoint.metadata, far=far_of(checkpoint))
        if ranks is not None:
            self.session.mesh = f"shard={ranks.world}"
        self.link = f"explorer-{id(self):x}"
        self.keys_panel = KeysPanel(self.session, checkpoint)
        self.tensor_panel = TensorPanel(self.session, self.link)
        makers = self._makers()
        first = next(iter(makers)) if len(checkpoint.metadata.chunks) <= SMALL else None
        self.sheets = Sheets(makers, first)
        super().__init__(
            [ui.HTML(_headline(checkpoint)), self._top(), self.sheets],
            layout=ui.Layout(grid_gap="12px", padding="4px", max_width="1280px"),
        )

    def _top(self) -> ui.Widget:
        if not self.session.fqn:
            return self.keys_panel
        wide = {"flex": "1 1 485px", "min_width": "min(280px, 100%)"}
        sides = [ui.VBox([side], layout=ui.Layout(**wide)) for side in (self.keys_panel, self.tensor_panel)]
        return ui.HBox(sides, layout=ui.Layout(flex_flow="row wrap", grid_gap="12px 28px"))

    def _makers(self) -> dict[str, Callable[[], ui.Widget]]:
        """What is on each sheet; nothing about tensors where there is none."""
        session, checkpoint, link = self.session, self.checkpoint, self.link
        tensors: dict[str, Callable[[], ui.Widget]] = {
            "What if": lambda: WhatIfPanel(session, link),
            "Run": self._run,
            "Files": lambda: FilesPanel(session, checkpoint, link),
            "Values": lambda: ValuesPanel(session, checkpoint, link),
            "Layout": lambda: InferredPanel(session, link),
        }
        doctor = {"Doctor": self._doctor} if self._target is not None else {}
        return {**doctor, **(tensors if session.fqn else {"Files": tensors["Files"]})}

    def _doctor(self) -> DoctorPanel:
        return DoctorPanel(diagnose(self.checkpoint, self._target), path_of(self.checkpoint))

    def _run(self) -> RunPanel:
        panel = RunPanel(self.session, path_of(self.checkpoint), link=self.link, ranks=self._ranks)
        # Ranks take seconds to start; whoever comes here is likely to want them.
        panel.warm()
        return panel

    def close(self) -> None:
        """End the ranks and the widgets."""
        for panel in (self.keys_panel, self.tensor_panel, *self.sheets.all_made):
            panel.close()
        super().close()

    def __repr__(self) -> str:
        return "\n".join(
            [repr(self.checkpoint), self.session.stored_scene().text if self.session.fqn else ""]
        )

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = dict(super()._repr_mimebundle_(**kwargs) or {})
        if self.session.fqn:
            bundle = with_picture(bundle, self.session.stored_scene())
        return {**bundle, "text/plain": repr(self)}


def explore(
    checkpoint: str | os.PathLike[str] | Checkpoint, ranks: Ranks | None = None, target: Any = None
) -> Explorer:
    """Look at a checkpoint, given by path or open, in a notebook; plan a load, and run it on real ranks.

    With a `target`, as `ckptlab.diagnose` takes it, the first sheet says what keeps it from loading.
    `ranks` makes the ranks of the sheet Run elsewhere than on this machine: `ClusterRanks` of an ipyparallel
    client. Raises `PathError` if there is none at the path, `CheckpointError` for one that cannot be read;
    in a notebook a card says so, and which files are there.
    """
    if isinstance(checkpoint, Checkpoint):
        return Explorer(checkpoint, ranks, target)
    with opening(os.fspath(checkpoint)):
        return Explorer(open_checkpoint(checkpoint), ranks, target)


def _headline(checkpoint: Checkpoint) -> str:
    metadata = checkpoint.metadata
    objects = f" and {count(len(metadata.objects), 'object')}" if metadata.objects else ""
    name, path = escape(Path(checkpoint.path).name), escape(checkpoint.path)
    used = np.zeros(len(metadata.files), bool)
    used[metadata.chunks.file] = True
    files = count(int(used.sum()), "file")
    return (
        f"<div style='{PLAIN};line-height:1.4'><b style='font-size:18px'>{name}</b>&ensp;"
        f"<span style='{MUTED};font-size:12px;overflow-wrap:anywhere'>{path}</span></div>"
        f"<div style='{PLAIN};line-height:1.4'>{count(len(metadata.tensors), 'tensor')}{objects}, "
        f"{human_bytes(metadata.nbytes)}: {count(len(metadata.chunks), 'chunk')} in {files}.</div>"
    )
