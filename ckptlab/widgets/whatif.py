"""The panel that asks "what if": sliders, recipes and rules for a target, and at once what it would cost.

It owns fields and their wiring, and changes nothing but the session's target. What is shown for it,
`explorer.whatif` and `explorer.matrix` decide.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

import ipywidgets as ui

from ckptlab.errors import CheckpointError
from ckptlab.explorer.far import far_of
from ckptlab.explorer.matrix import matrix_scene
from ckptlab.explorer.session import Session
from ckptlab.explorer.tensor import Look
from ckptlab.explorer.whatif import (
    CHOICES,
    RECIPES,
    Costs,
    axes,
    facts,
    named,
    resized,
    tensor_scene,
    typed,
)
from ckptlab.storage import Checkpoint, open_checkpoint
from ckptlab.widgets.panels import MUTED, PLAIN, card, fade, heading
from ckptlab.widgets.table import Answers, TableView
from ckptlab.widgets.view import SceneView, with_picture

AXES = 4
_TYPED = "as typed"
_SOON = 0.12
"""Seconds after which a slider that has come to rest is answered."""

_SIZES = (*range(1, 17), *(n for k in range(4, 14) for n in (2**k, 3 * 2 ** (k - 1)) if n > 16), 16384)
"""Numbers of ranks that a slider offers."""

_WRAP = {"flex_flow": "row wrap", "grid_gap": "4px 14px", "align_items": "center"}


class _Axis(ui.HBox):
    """One axis of the mesh: its name, its size, and what it does to tensors."""

    def __init__(self, change: Callable[[], None]) -> None:
        self.name = ui.Text(
            continuous_update=False, placeholder="name", layout=ui.Layout(width="72px", margin="0")
        )
        self.size = ui.SelectionSlider(
            options=_SIZES, description="size", layout=ui.Layout(flex="1 1 200px", width="auto", margin="0"),
            style={"description_width": "28px"},
        )  # fmt: skip
        self.does = ui.Dropdown(options=CHOICES, layout=ui.Layout(width="126px", margin="0"))
        for field, said in ((self.name, "Name of the axis"), (self.does, "What the axis does to tensors")):
            field.tooltip = said
        super().__init__(
            [self.name, self.size, self.does],
            layout=ui.Layout(flex="1 1 400px", max_width="520px", min_width="0", flex_flow="row wrap"),
        )
        for field in (self.name, self.size, self.does):
            field.observe(lambda _: change(), "value")

    def show(self, name: str, size: int, does: str) -> None:
        """Show an axis; one that is none of the choices cannot be chosen here."""
        if size not in self.size.options:
            self.size.options = sorted({*_SIZES, size})
        self.name.value, self.size.value = name, size
        self.does.options = CHOICES if does else (*CHOICES, _TYPED)
        self.does.value = does or _TYPED

    @property
    def said(self) -> tuple[str, int, str]:
        """Name, size and choice."""
        return self.name.value, int(self.size.value), str(self.does.value)


class WhatIfPanel(ui.VBox):
    """A target, put together by recipe, by axis, by rules or as text; and what loading on it would cost."""

    def __init__(self, session: Session, link: str = "") -> None:
        self._session, self._quiet = session, False
        self._later = _Later()
        self.recipe = ui.Dropdown(options=[*RECIPES, _TYPED], description="Recipe", **_field("0 1 210px"))
        self.ranks = ui.SelectionSlider(options=_SIZES, description="Ranks", **_field("1 1 260px", "480px"))
        self.axes = [_Axis(self._chosen) for _ in range(AXES)]
        self.more = ui.Button(
            description="axis", icon="plus", tooltip="One more axis of the mesh", **_small()
        )
        self.fewer = ui.Button(description="axis", icon="minus", tooltip="Without the last axis", **_small())
        self.mesh = ui.Text(description="Mesh", continuous_update=False, **_field("1 1 230px"))
        self.placements = ui.Text(description="Placements", continuous_update=False, **_field("2 1 330px"))
        self.rule = ui.Button(
            description="rule", icon="plus", tooltip="Other placements for some keys", **_small()
        )
        self.rules = ui.VBox(layout=ui.Layout(grid_gap="2px", flex="1 1 280px", min_width="0"))
        self.problem = ui.HTML()
        self.facts = ui.HTML()
        self.each = ui.Checkbox(
            description="each rank by itself", indent=False, layout=ui.Layout(width="auto")
        )
        self.by_file = ui.Checkbox(description="by file", indent=False, layout=ui.Layout(width="auto"))
        self.table: TableView | None = None
        self._table = ui.VBox(layout=ui.Layout(min_width="0"))
        self.matrix = SceneView(hint="", link=link)
        self.tensor = SceneView(hint="", link=link)
        self._answer = ui.VBox(layout=ui.Layout(grid_gap="8px"))
        super().__init__(self._sections(), layout=ui.Layout(grid_gap="6px"))
        self._wire()
        self._show_target()
        self._ask()

    def _sections(self) -> list[ui.Widget]:
        wrap = ui.Layout(**_WRAP)
        ranks = ui.VBox(
            [self._table, self.each], layout=ui.Layout(flex="3 1 460px", min_width="min(260px, 100%)")
        )
        matrix = ui.VBox(
            [self.matrix, self.by_file], layout=ui.Layout(flex="2 1 300px", min_width="min(240px, 100%)")
        )
        self._answer.children = [
            self.facts,
            ui.HBox(
                [ranks, matrix],
                layout=ui.Layout(flex_flow="row wrap", grid_gap="8px 28px", align_items="flex-start"),
            ),
            self.tensor,
        ]
        return [
            heading(
                "What if",
                "Choose a target; what loading on it would cost is foretold from the metadata alone.",
            ),
            ui.HBox([self.recipe, self.ranks], layout=wrap),
            ui.HBox([*self.axes, ui.HBox([self.more, self.fewer])], layout=wrap),
            ui.HBox([self.mesh, self.placements], layout=wrap),
            ui.HBox([self.rule, self.rules], layout=ui.Layout(**{**_WRAP, "align_items": "flex-start"})),
            self.problem,
            self._answer,
        ]

    def _wire(self) -> None:
        self._deaf = self._session.listen(self._hear)
        self.recipe.observe(lambda change: self._taken(change.new), "value")
        self.ranks.observe(lambda _: self._resized(), "value")
        self.more.on_click(lambda _: self._add_axis())
        self.fewer.on_click(lambda _: self._drop_axis())
        for field in (self.mesh, self.placements):
            field.observe(lambda _: self._typed(), "value")
        self.rule.on_click(lambda _: self._add_rule("", ""))
        self.each.observe(lambda _: self._list(), "value")
        self.by_file.observe(lambda _: self._draw_matrix(), "value")

    # ---- what was done

    def _taken(self, recipe: str) -> None:
        if not self._quiet and recipe in RECIPES:
            self._set(*RECIPES[recipe](int(self.ranks.value)))

    def _resized(self) -> None:
        if not self._quiet:
            self._later(
                lambda: self._try(
                    lambda: resized(self.mesh.value, self.placements.value, int(self.ranks.value))
                )
            )

    def _chosen(self) -> None:
        if not self._quiet:
            self._later(lambda: self._try(lambda: typed(self._shown_axes())))

    def _add_axis(self) -> None:
        known = [name for name, *_ in self._shown_axes()]
        fresh = next(name for name in ("tp", "dp", "pp", "cp", "ep") if name not in known)
        self._try(lambda: typed([*self._shown_axes(), (fresh, 2, "Replicate")]))

    def _drop_axis(self) -> None:
        self._try(lambda: typed(self._shown_axes()[:-1]))

    def _typed(self) -> None:
        if not self._quiet:
            self._set(self.mesh.value, self.placements.value)

    def _shown_axes(self) -> list[tuple[str, int, str]]:
        return [axis.said for axis in self.axes if axis.layout.display != "none"]

    def _try(self, make: Callable[[], tuple[str, str]]) -> None:
        """Take the target that is made; what cannot be one is said, and nothing changes."""
        try:
            target = make()
        except CheckpointError as error:
            self._allow(card(error))
            return
        self._set(*target)

    def _set(self, mesh: str, placements: str) -> None:
        self._session.change(mesh=mesh, placements=placements)
        # What was said may be of a target that was tried in between.
        self._ask()

    # ---- rules

    def _add_rule(self, pattern: str, placements: str) -> None:
        key = ui.Text(pattern, placeholder="keys: *norm*", continuous_update=False, **_field("1 1 170px"))
        does = ui.Text(
            placements, placeholder="placements: Replicate", continuous_update=False, **_field("2 1 240px")
        )
        gone = ui.Button(
            icon="times", tooltip="Without this rule", layout=ui.Layout(flex="0 0 32px", margin="0")
        )
        row = ui.HBox([key, does, gone], layout=ui.Layout(max_width="560px", grid_gap="4px"))
        gone.on_click(lambda _: self._drop_rule(row))
        for field in (key, does):
            field.observe(lambda _: self._ruled(), "value")
        self.rules.children = (*self.rules.children, row)

    def _drop_rule(self, row: ui.HBox) -> None:
        self.rules.children = tuple(child for child in self.rules.children if child is not row)
        row.close()
        self._ruled()

    def _ruled(self) -> None:
        told = tuple(
            (row.children[0].value.strip(), row.children[1].value.strip()) for row in self.rules.children
        )
        self._session.change(rules=tuple(rule for rule in told if all(rule)))

    # ---- what is shown

    def _hear(self, changed: frozenset[str]) -> None:
        if changed & {"mesh", "placements"}:
            self._show_target()
        if changed & {"mesh", "placements", "rules"}:
            self._ask()
        elif changed & {"fqn", "dims", "at"}:
            self._guarded(self._draw_tensor)

    def _show_target(self) -> None:
        """Put every field where the session's target is."""
        mesh, placements = self._session.mesh, self._session.placements
        with self._unheard():
            self.mesh.value, self.placements.value = mesh, placements
            self.recipe.value = named(mesh, placements) or _TYPED
            try:
                shown = axes(mesh, placements)
            except CheckpointError:
                return
            for i, axis in enumerate(self.axes):
                axis.layout.display = None if i < len(shown) <= AXES else "none"
                if i < len(shown) <= AXES:
                    axis.show(*shown[i])
            self.more.disabled, self.fewer.disabled = len(shown) >= AXES, not 1 < len(shown) <= AXES
            world = self._session.layout.mesh.size
            if world not in self.ranks.options:
                self.ranks.options = sorted({*_SIZES, world})
            self.ranks.value = world

    def _ask(self) -> None:
        """Foretell the session's target, and show it."""
        self._guarded(self._tell)

    def _tell(self) -> None:
        self.facts.value = _facts_html(facts(self._session.metadata, self._session.foretold))
        self._list()
        self._draw_matrix()
        self._draw_tensor()

    def _list(self) -> None:
        self.costs = Costs(self._session.foretold, self.each.value)
        if self.table is None:
            self.table = TableView(self.costs, "what-if", Answers(press=self._press), most=8)
            self._table.children = [self.table]
        else:
            self.table.table = self.costs
            self.table.refresh()

    def _press(self, line: int) -> None:
        self._session.change(rank=int(self.costs.ranks(line)[0]))

    def _draw_matrix(self) -> None:
        by = "file" if self.by_file.value else "rank"
        self.matrix.scene = matrix_scene(self._session.metadata, self._session.foretold, by)

    def _draw_tensor(self) -> None:
        session = self._session
        if session.fqn:
            look = Look(session.dims, session.at)
            self.tensor.scene = tensor_scene(session.metadata, session.fqn, session.target, look)

    def _guarded(self, show: Callable[[], None]) -> None:
        try:
            show()
        except CheckpointError as error:
            self._allow(card(error))
        else:
            self._allow("")

    def _allow(self, said: str) -> None:
        """What stands below a target that makes no sense is of the one before: it fades."""
        self.problem.value = said
        fade(self._answer, bool(said))

    @contextmanager
    def _unheard(self) -> Iterator[None]:
        self._quiet = True
        try:
            yield
        finally:
            self._quiet = False

    def close(self) -> None:
        """End the widgets; the session is listened to no more."""
        self._deaf()
        super().close()

    def __repr__(self) -> str:
        try:
            told = facts(self._session.metadata, self._session.foretold)
        except CheckpointError as error:
            return str(error)
        head = f"What if: {self._session.mesh}; {self._session.placements}"
        return "\n".join([head, *(f"  {label}: {value} ({means})" for label, value, means in told)])

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = dict(super()._repr_mimebundle_(**kwargs) or {})
        return {**with_picture(bundle, self.matrix.scene), "text/plain": repr(self)}


class _Later:
    """Calls the last of many things asked for in quick succession, when they have come to an end.

    Where no event loop runs there is nothing to wait for.
    """

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self, call: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            call()
        else:
            self._timer = loop.call_later(_SOON, call)


def whatif_view(checkpoint: str | os.PathLike[str] | Checkpoint) -> WhatIfPanel:
    """The panel by itself, for a checkpoint given by path or open. No ranks are started."""
    opened = checkpoint if isinstance(checkpoint, Checkpoint) else open_checkpoint(checkpoint)
    return WhatIfPanel(Session(opened.metadata, far=far_of(opened)))


def _facts_html(told: list[tuple[str, str, str]]) -> str:
    cells = "".join(
        f"<div title='{escape(means, quote=True)}' style='min-width:110px'>"
        f"<div style='{MUTED};font-size:11px;line-height:1.3'>{escape(label)}</div>"
        f"<div style='{PLAIN};font-size:15px;font-weight:600;line-height:1.35'>{escape(value)}</div>"
        f"<div style='{MUTED};font-size:11px;line-height:1.3'>{escape(means)}</div></div>"
        for label, value, means in told
    )
    return (
        "<div role='status' style='display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));"
        f"gap:8px 18px'>{cells}</div>"
    )


def _field(flex: str, most: str | None = None) -> dict[str, Any]:
    return {
        "layout": ui.Layout(flex=flex, width="auto", min_width="0", max_width=most, margin="0"),
        "style": {"description_width": "initial"},
    }


def _small() -> dict[str, Any]:
    return {"layout": ui.Layout(width="70px", margin="0")}
