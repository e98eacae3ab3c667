"""`explore`: a checkpoint in a notebook; its keys, one tensor, and below them a sheet for each question.

It puts the panels together. All of them look at one `Session`; what they show is decided in `explorer`.
"""

from __future__ import annotations

import os
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as ui
import numpy as np

from ckptlab.errors import CheckpointError
from ckptlab.explorer.scene import count
from ckptlab.explorer.session import RECIPES, Session
from ckptlab.metadata import human_bytes
from ckptlab.storage import Checkpoint, open_checkpoint
from ckptlab.widgets.keys import KeysPanel
from ckptlab.widgets.panels import MUTED, PLAIN, SECTION, card, fade, heading
from ckptlab.widgets.run import RunPanel
from ckptlab.widgets.sheets import Sheets
from ckptlab.widgets.view import SceneView, with_picture

_GAP = "12px"


class Explorer(ui.VBox):
    """Linked views of one checkpoint. `session` is what is looked at; `close()` ends its ranks."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.session = Session(checkpoint.metadata)
        self.link = f"explorer-{id(self):x}"
        self.keys_panel = KeysPanel(self.session, checkpoint)
        self.stored_view = SceneView(link=self.link)
        self.target_view = SceneView(hint="", link=self.link)
        self._target = ui.VBox([self.target_view])
        self.recipe = ui.Dropdown(options=[*RECIPES, "as typed"], description="Target", **_field("1 1 270px"))
        self.mesh = ui.Text(
            self.session.mesh, description="Mesh", continuous_update=False, **_field("1 1 210px")
        )
        self.placements = ui.Text(
            self.session.placements, description="Placements", continuous_update=False, **_field("2 1 330px")
        )
        self.problem = ui.HTML()
        self.run_panel = RunPanel(self.session, os.path.realpath(checkpoint.path))
        self.sheets = Sheets({"What if, and run": self._what_if})
        super().__init__(
            [ui.HTML(_headline(checkpoint)), self._top(), self.sheets],
            layout=ui.Layout(grid_gap=_GAP, padding="4px", max_width="1280px"),
        )
        self._wire()
        self._redraw()

    def _top(self) -> ui.Widget:
        keys = ui.VBox([self.keys_panel], layout=ui.Layout(flex="1 1 465px", min_width="280px"))
        stored = ui.VBox([self.stored_view], layout=ui.Layout(flex="1 1 485px", min_width="280px"))
        return ui.HBox([keys, stored], layout=ui.Layout(flex_flow="row wrap", grid_gap="12px 28px"))

    def _what_if(self) -> ui.Widget:
        target = ui.VBox(
            [
                heading("What if", "Choose a target mesh, and a placement for each of its axes."),
                ui.HBox(
                    [self.recipe, self.mesh, self.placements],
                    layout=ui.Layout(flex_flow="row wrap", grid_gap="4px 16px", max_width="980px"),
                ),
                self.problem,
                self._target,
            ],
            layout=ui.Layout(**SECTION),
        )
        return ui.VBox([target, self.run_panel])

    def _wire(self) -> None:
        self.session.listen(self._hear)
        self.recipe.observe(lambda change: self._take(change.new), "value")
        for field in (self.mesh, self.placements):
            field.observe(lambda _: self._typed(), "value")
        for field in (self.recipe, self.mesh, self.placements):
            # Cancel can be pressed just while a run is on; the target stays what is being loaded.
            ui.dlink((self.run_panel.stop, "disabled"), (field, "disabled"), lambda idle: not idle)

    def _hear(self, changed: frozenset[str]) -> None:
        if "fqn" in changed:
            self._redraw()
        elif changed & {"mesh", "placements"}:
            self._retarget(foretell=True)

    def _redraw(self) -> None:
        if self.session.fqn:
            self.stored_view.scene = self.session.stored_scene()
        self._retarget()

    def _take(self, recipe: str) -> None:
        if recipe in RECIPES:
            with self.hold_trait_notifications():
                self.mesh.value, self.placements.value = RECIPES[recipe]

    def _typed(self) -> None:
        typed = (self.mesh.value, self.placements.value)
        self.recipe.value = next((name for name, target in RECIPES.items() if target == typed), "as typed")
        self.session.change(mesh=typed[0], placements=typed[1])

    def _retarget(self, foretell: bool = False) -> None:
        """Draw the target; a target that makes no sense is said, and cannot be run."""
        try:
            if self.session.fqn:
                self.target_view.scene = self.session.target_scene()
            if foretell:
                self.run_panel.foretell()
            self._allow(True, "")
        except CheckpointError as error:
            self._allow(False, card(error))

    def _allow(self, sense: bool, said: str) -> None:
        """What stands below a target that makes no sense is of the one before: it fades."""
        self.problem.value = said
        fade(self._target, not sense)
        self.run_panel.allow(sense)

    def close(self) -> None:
        """End the ranks and the widgets."""
        self.run_panel.close_ranks()
        self.keys_panel.close()
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


def explore(checkpoint: str | os.PathLike[str] | Checkpoint) -> Explorer:
    """Look at a checkpoint, given by path or open, in a notebook; plan a load, and run it on real ranks.

    Raises `PathError` if there is none at the path. Ranks begin to start at once, in the background.
    """
    opened = checkpoint if isinstance(checkpoint, Checkpoint) else open_checkpoint(checkpoint)
    explorer = Explorer(opened)
    explorer.run_panel.warm()
    return explorer


def _headline(checkpoint: Checkpoint) -> str:
    metadata = checkpoint.metadata
    objects = f" and {count(len(metadata.objects), 'object')}" if metadata.objects else ""
    name, path = escape(Path(checkpoint.path).name), escape(checkpoint.path)
    files = count(int(np.count_nonzero(np.bincount(metadata.chunks.file))), "file")
    return (
        f"<div style='{PLAIN};line-height:1.4'><b style='font-size:18px'>{name}</b>&ensp;"
        f"<span style='{MUTED};font-size:12px;overflow-wrap:anywhere'>{path}</span></div>"
        f"<div style='{PLAIN};line-height:1.4'>{count(len(metadata.tensors), 'tensor')}{objects}, "
        f"{human_bytes(metadata.nbytes)}: {count(len(metadata.chunks), 'chunk')} in {files}.</div>"
    )


def _field(flex: str) -> dict[str, Any]:
    """How a field with its description before it is laid out."""
    layout = ui.Layout(flex=flex, width="auto", margin="0")
    return {"layout": layout, "style": {"description_width": "initial"}}
