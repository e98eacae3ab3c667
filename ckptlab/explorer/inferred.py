"""Mesh and placements that a checkpoint does not record, inferred; and a picture of each that may be right.

Plain data: no torch and no drawing. What is inferred from what is decided in `layout.infer`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from weakref import WeakKeyDictionary

import numpy as np

from ckptlab.explorer.mesh import mesh_panel
from ckptlab.explorer.scene import FILLED, HATCHED, NEUTRAL, OUTLINED, Key, Panel, Scene, count
from ckptlab.explorer.tensor import owners_of
from ckptlab.layout import Layout, Replicate
from ckptlab.layout.box import Boxes
from ckptlab.layout.infer import Candidate, Inference, Pieces, infer
from ckptlab.metadata import Metadata

_PANELS = 3
"""So many meshes are drawn; all are told in words."""

_DRAWN = 16_384
"""Ranks up to which a mesh is drawn."""

_known: WeakKeyDictionary[Metadata, Inference] = WeakKeyDictionary()

_LEGEND = (
    Key("colour: the rank that wrote it", 0, FILLED),
    Key("hatched: one of several copies", 0, HATCHED),
    Key("outline: ranks that hold the same", NEUTRAL, OUTLINED),
)


def inferred(metadata: Metadata, heard: Callable[[int, int], object] | None = None) -> Inference:
    """The meshes that may have saved a checkpoint, best first; worked out once for each `Metadata`.

    What the writer recorded in `layouts` is not looked at. `heard(tried, of)` is called meanwhile, again
    from 0 for each part of the search; what it raises ends it.
    """
    if metadata not in _known:
        _known[metadata] = infer(_pieces(metadata), _ranks(metadata), len(metadata.objects), heard=heard)
    return _known[metadata]


def known(metadata: Metadata) -> Inference | None:
    """What `inferred` says, if it has been asked before."""
    return _known.get(metadata)


def inferred_scene(metadata: Metadata, fqn: str = "") -> Scene:
    """Each mesh that may have saved a checkpoint as a panel, with what one tensor is on it.

    Without an fqn, a tensor that is in most pieces. `CheckpointError` for one that is not there.
    """
    found = inferred(metadata)
    if fqn:
        fqn = metadata.tensor(fqn).fqn
    elif metadata.tensors:
        fqn = metadata.tensors[int(np.diff(metadata.chunks.first).argmax())].fqn
    drawn = [one for one in found.candidates[:_PANELS] if one.mesh.size <= _DRAWN]
    panels = tuple(_panel(metadata, fqn, one, f"mesh{i}") for i, one in enumerate(drawn))
    about = "The mesh, inferred" + (f", and {fqn} on it" if fqn else "")
    styles = {int(style) for panel in panels for style in np.unique(panel.marks.style)}
    text = "\n".join([about, *(f"  {line}" for line in str(found).splitlines())])
    return Scene(about, panels, tuple(key for key in _LEGEND if key.style in styles), text)


def _panel(metadata: Metadata, fqn: str, candidate: Candidate, name: str) -> Panel:
    axes = ", ".join(f"{axis}={n}" for axis, n in zip(candidate.mesh.axes, candidate.mesh.shape, strict=True))
    title = f"{axes}: {candidate.sure}, {candidate.certainty:.0%}"
    layout = candidate.layouts.get(fqn)
    if layout is None:
        panel = mesh_panel(
            Layout(candidate.mesh, (Replicate(),) * len(candidate.mesh.shape)), None, {}, title, name
        )
    else:
        shape = metadata.tensor(fqn).shape
        panel = mesh_panel(layout, shape, owners_of(metadata, fqn, layout), title, name)
    part = (
        "" if layout is None or layout.mesh.size == candidate.mesh.size else f"A part of {candidate.mesh!r}. "
    )
    against = f" {count(len(candidate.against), 'piece')} against." if candidate.against else ""
    return replace(panel, caption=f"{part}{panel.caption}{against}")


def _pieces(metadata: Metadata) -> list[Pieces]:
    """The tensors in the order of the state that was saved, where the checkpoint tells it."""
    writers = np.array([*metadata.writers, -1], np.int64)[metadata.chunks.file]
    place = {fqn: i for i, fqn in enumerate(metadata.paths)}
    rows = sorted(
        range(len(metadata.tensors)), key=lambda row: place.get(metadata.tensors[row].fqn, len(place))
    )
    shared: dict[tuple[int, tuple[int, ...], int], Boxes] = {}
    pieces = []
    for row in rows:
        tensor, chunks = metadata.tensors[row], metadata.chunk_rows(row)
        key = (int(metadata.chunks.corner[row]), tensor.shape, chunks.stop - chunks.start)
        if key not in shared:
            shared[key] = metadata.boxes(row)
        pieces.append(Pieces(tensor.fqn, tensor.shape, shared[key], writers[chunks], tensor.nbytes))
    return pieces


def _ranks(metadata: Metadata) -> list[int]:
    """The ranks that wrote any file, if only of objects."""
    return sorted({rank for rank in metadata.writers if rank >= 0})
