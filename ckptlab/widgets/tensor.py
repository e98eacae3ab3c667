"""One tensor and the mesh that saved it: which dims are drawn, where in the others, in which colours.

It owns the fields round one drawing. What is drawn, `explorer.scenes` decides.
"""

from __future__ import annotations

import os
from itertools import permutations
from typing import Any, cast

import ipywidgets as ui

from ckptlab.errors import CheckpointError
from ckptlab.explorer.scenes import layout_scene, mesh_scene
from ckptlab.explorer.session import Session
from ckptlab.explorer.tensor import Colours
from ckptlab.layout import Layout
from ckptlab.metadata import Tensor
from ckptlab.storage import Checkpoint, open_checkpoint
from ckptlab.widgets.panels import card
from ckptlab.widgets.view import SceneView, with_picture

_CUT_MOST: tuple[str, tuple[int, ...]] = ("those cut most", ())
_COLOURS = [("writing rank", "rank"), ("file", "file")]


class TensorPanel(ui.VBox):
    """The session's tensor as it is stored, `view`, under fields that say how it is looked at."""

    def __init__(self, session: Session, link: str = "") -> None:
        self.session = session
        self.view = SceneView(link=link)
        self.colours = ui.Dropdown(options=_COLOURS, description="Colour:", **_short("180px"))
        self.hosts = ui.BoundedIntText(min=0, max=1 << 20, description="Ranks a host:", **_short("150px"))
        self.dims = ui.Dropdown(description="Dims:", **_short("170px"))
        self.at: dict[int, ui.IntSlider] = {}
        self._fields = ui.HBox(layout=ui.Layout(flex_flow="row wrap", grid_gap="2px 16px"))
        self.problem = ui.HTML()
        self._deaf = session.listen(self._hear)
        self._silent = False
        self.view.observe(lambda change: session.change(rank=change.new), "rank")
        self.view.observe(lambda change: self._press(change.new), "picked")
        for field in (self.colours, self.hosts, self.dims):
            field.observe(self._ask, "value")
        super().__init__([self._fields, self.problem, self.view], layout=ui.Layout(grid_gap="6px"))
        self._show()
        self.view.rank = session.rank

    def close(self) -> None:
        """End the widgets; the session is listened to no more."""
        self._deaf()
        self.view.close()
        super().close()

    def _hear(self, changed: frozenset[str]) -> None:
        if "rank" in changed:
            self.view.rank = self.session.rank
        if changed & {"fqn", "dims", "at", "colours", "hosts"}:
            self._show()

    def _show(self) -> None:
        """Draw what the session says, and let the fields say it too."""
        if not self.session.fqn:
            return
        try:
            scene = self.session.stored_scene()
        except CheckpointError as error:
            self.problem.value = card(error)
            return
        self.problem.value = ""
        self.view.scene = scene
        self._silent = True
        try:
            self._fit()
        finally:
            self._silent = False

    def _fit(self) -> None:
        """The fields that this tensor needs, at what is drawn."""
        plane = self.view.scene.panels[-1].plane
        assert plane is not None
        ndim = len(plane.shape)
        pairs = [(f"{y} down, {x} across", (y, x)) for y, x in permutations(range(ndim), 2)]
        options = (_CUT_MOST, *pairs)
        if self.dims.options != options:
            self.dims.options = options
        self.dims.value = self.session.dims or ()
        self.colours.value, self.hosts.value = self.session.colours, self.session.hosts
        others = [d for d in range(ndim) if d not in (plane.x, plane.y)]
        wanted = {d: max(0, plane.shape[d] - 1) for d in others}
        if {d: slider.max for d, slider in self.at.items()} != wanted:
            self.at = {d: self._slider(d, most) for d, most in wanted.items()}
        for dim, slider in self.at.items():
            slider.value = plane.at[dim]
        shown = [self.colours, self.hosts, *([self.dims] if ndim > 1 else []), *self.at.values()]
        if list(self._fields.children) != shown:
            self._fields.children = shown

    def _slider(self, dim: int, most: int) -> ui.IntSlider:
        slider = ui.IntSlider(max=most, description=f"dim {dim} at", **_short("300px"))
        slider.observe(self._ask, "value")
        return slider

    def _ask(self, change: Any) -> None:
        """A field was moved: the session changes, and with it every view of it."""
        if self._silent:
            return
        plane = self.view.scene.panels[-1].plane
        assert plane is not None
        dims = self.dims.value or None
        at = tuple(self.at[d].value if d in self.at else 0 for d in range(len(plane.shape)))
        self.session.change(
            colours=cast(Colours, self.colours.value),
            hosts=int(self.hosts.value),
            dims=dims,
            at=at if any(at) else (),
        )

    def _press(self, picked: dict[str, Any]) -> None:
        """A chunk was pressed: the session looks into its file."""
        marks = self.view.scene.panels[-1].marks
        if picked.get("panel") == "tensor" and picked["mark"] < len(marks):
            name = next((f.show(picked["mark"]) for f in marks.facts if f.label == "file"), "")
            if name:
                self.session.change(file=self.session.metadata.files.index(name))

    def __repr__(self) -> str:
        return repr(self.view)

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        return with_picture(dict(super()._repr_mimebundle_(**kwargs) or {}), self.view.scene)


def tensor_view(
    checkpoint: str | os.PathLike[str] | Checkpoint,
    fqn: str = "",
    dims: tuple[int, int] | None = None,
    at: tuple[int, ...] = (),
    colours: Colours = "rank",
    hosts: int = 0,
) -> TensorPanel:
    """One tensor of a checkpoint, given by path or open, and the mesh that saved it, by themselves.

    `dims` are drawn down and across (None: those cut most), at index `at[d]` of each other dim d;
    `colours` tell the writing rank or the file; `hosts` is the number of ranks on each host. Without an
    fqn the first matrix. Raises `CheckpointError` for a name, dims or an index that is not there.
    """
    opened = checkpoint if isinstance(checkpoint, Checkpoint) else open_checkpoint(checkpoint)
    session = Session(opened.metadata, fqn and opened.metadata.tensor(fqn).fqn)
    session.change(dims=dims, at=at, colours=colours, hosts=hosts)
    if session.fqn:
        session.stored_scene()  # what can not be drawn is raised, not shown
    return TensorPanel(session)


def mesh_view(layout: Layout, tensor: Tensor | None = None, hosts: int = 0) -> SceneView:
    """A mesh, and what each of its ranks holds of a tensor; needs no checkpoint and no ranks.

    >>> mesh_view(Layout.parse("replicate=2, shard=2", "Replicate, Shard(0)"))
    Mesh(replicate=2, shard=2)
      The mesh
        replicate 2 x shard 2.
        rank 0: at replicate 0, shard 0
        rank 1: at replicate 0, shard 1
        rank 2: at replicate 1, shard 0
        rank 3: at replicate 1, shard 1
    """
    return SceneView(
        mesh_scene(layout, hosts=hosts) if tensor is None else layout_scene(layout, tensor, hosts=hosts)
    )


def _short(width: str) -> dict[str, Any]:
    layout = ui.Layout(width=width, margin="0")
    return {"layout": layout, "style": {"description_width": "initial"}}
