"""Pictures one after the other, under a slider. It knows no lesson: what a step shows, its maker says."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import ipywidgets as ui

from ckptlab.lessons.frames import Frame
from ckptlab.widgets.panels import PLAIN
from ckptlab.widgets.view import SceneView, with_picture


class Steps:
    """`slider` says which of `frames` is shown in `view`; `back` and `on` are the buttons beside it."""

    def __init__(self, frames: Sequence[Frame]) -> None:
        self.frames = tuple(frames)
        self.view = SceneView(self.frames[0].scene, hint="")
        self.words = ui.HTML()
        self.slider = ui.IntSlider(
            min=1, max=len(frames), description="step", layout=ui.Layout(width="min(420px, 100%)")
        )
        self.back = ui.Button(icon="chevron-left", tooltip="One step back", layout=ui.Layout(width="40px"))
        self.on = ui.Button(icon="chevron-right", tooltip="One step on", layout=ui.Layout(width="40px"))
        self.back.on_click(lambda _: self._move(-1))
        self.on.on_click(lambda _: self._move(1))
        self.slider.observe(lambda _: self._show(), "value")
        top = ui.HBox([self.back, self.on, self.slider], layout=ui.Layout(flex_flow="row wrap"))
        self.box = ui.VBox([top, self.words, self.view], layout=ui.Layout(grid_gap="4px"))
        self._show()

    def _move(self, way: int) -> None:
        self.slider.value = min(len(self.frames), max(1, self.slider.value + way))

    def _show(self) -> None:
        frame = self.frames[self.slider.value - 1]
        self.view.scene = frame.scene
        self.back.disabled = self.slider.value == 1
        self.on.disabled = self.slider.value == len(self.frames)
        # Two lines are kept free, so that the picture does not jump.
        style = f"{PLAIN};line-height:1.45;min-height:2.9em"
        self.words.value = f"<div style='{style}'><b>{escape(frame.name)}</b>: {escape(frame.words)}</div>"

    def __repr__(self) -> str:
        return "\n".join(f"{i}. {frame.name}: {frame.words}" for i, frame in enumerate(self.frames, 1))

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        shown = self.frames[self.slider.value - 1].scene
        return {
            **with_picture(dict(self.box._repr_mimebundle_(**kwargs) or {}), shown),
            "text/plain": repr(self),
        }


def steps(frames: Sequence[Frame]) -> Steps:
    """The pictures of `frames`, one step after the other."""
    return Steps(frames)
