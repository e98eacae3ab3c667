"""The scenes that people ask for: a tensor as stored, a layout as taught, a load foretold and run.

Each puts panels side by side under one legend and says the same in words. Plain data: no
torch and no drawing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ckptlab.explorer.mesh import mesh_panel
from ckptlab.explorer.scene import FILLED, HATCHED, NEUTRAL, OUTLINED, Key, Panel, Scene
from ckptlab.explorer.tensor import held_panel, stored_panel
from ckptlab.explorer.traffic import Ran, traffic_panel
from ckptlab.layout import Layout, Mesh, Replicate, overlaps
from ckptlab.metadata import Metadata, Tensor
from ckptlab.plan.forecast import Forecast
from ckptlab.plan.holding import fitted

SHARES = Key("outline: ranks that hold the same", NEUTRAL, OUTLINED)


def stored_scene(metadata: Metadata, fqn: str, dims: tuple[int, int] | None = None) -> Scene:
    """A tensor of a checkpoint: the mesh that saved it, and its chunks by the rank that wrote each."""
    tensor = metadata.tensor(fqn)
    layout = metadata.layouts.get(fqn)
    if layout is None:
        layout = _writers_mesh(metadata)
        mesh = mesh_panel(layout, None, {}, "The ranks that wrote (no mesh recorded)")
    else:
        mesh = mesh_panel(
            layout, tensor.shape, _stored_owners(metadata, fqn, layout), "The mesh that saved it"
        )
    panels = (mesh, stored_panel(metadata, fqn, dims))
    legend = (
        Key("colour: the rank that wrote it", 0, FILLED),
        Key("hatched: holds a copy, wrote none", 0, HATCHED),
        SHARES,
    )
    return _scene(f"{fqn} in the checkpoint", panels, _seen(legend, panels))


def layout_scene(
    layout: Layout, tensor: Tensor, dims: tuple[int, int] | None = None, title: str = ""
) -> Scene:
    """A tensor on a mesh: what each rank holds of it. Needs no checkpoint."""
    chosen = fitted(layout, tensor.shape)
    owners = {rank: group[0] for group in chosen.replicas(tensor.shape) for rank in group}
    panels = (
        mesh_panel(chosen, tensor.shape, owners, "The mesh"),
        held_panel(tensor, chosen, "Its shards, as held", dims, "tensor"),
    )
    legend = (
        Key("colour: the first rank that holds it", 0, FILLED),
        Key("hatched: holds a copy of it", 0, HATCHED),
        SHARES,
    )
    title = title or f"{tensor.fqn} under {', '.join(map(str, chosen.placements))}"
    return _scene(title, panels, _seen(legend, panels))


def traffic_scene(foretold: Forecast, ran: Sequence[Ran] = ()) -> Scene:
    """A load, foretold; and as far as it has run."""
    legend = (
        Key("outline: foretold", NEUTRAL, OUTLINED),
        Key("filled: read", 0, FILLED),
        Key("thin: what stock DCP would read", NEUTRAL, HATCHED),
    )
    return _scene("The load", (traffic_panel(foretold, ran),), legend)


def _writers_mesh(metadata: Metadata) -> Layout:
    """The ranks that wrote files in a row, for checkpoints that record no mesh."""
    ranks = tuple(sorted({r for r in metadata.writers if r >= 0})) or (0,)
    return Layout(Mesh((len(ranks),), ("writer",), ranks), (Replicate(),))


def _stored_owners(metadata: Metadata, fqn: str, layout: Layout) -> Mapping[int, int]:
    """For each rank of the mesh, the rank that wrote what it held (the first, if it held several chunks)."""
    row = metadata.rows[fqn]
    writer = metadata.chunk_writers(row)
    shards = layout.shards(metadata.tensors[row].shape)
    meet = overlaps(shards.boxes, metadata.boxes(row))
    owners: dict[int, int] = {}
    for shard, chunk in zip(meet.a.tolist(), meet.b.tolist(), strict=True):
        owners.setdefault(int(shards.rank[shard]), int(writer[chunk]))
    return {rank: owner for rank, owner in owners.items() if owner >= 0}


def _seen(legend: tuple[Key, ...], panels: tuple[Panel, ...]) -> tuple[Key, ...]:
    """The lines of the legend that some mark is in need of."""
    styles = {int(style) for panel in panels for style in np.unique(panel.marks.style)}
    return tuple(key for key in legend if key.style in styles)


def _scene(title: str, panels: tuple[Panel, ...], legend: tuple[Key, ...]) -> Scene:
    return Scene(title, panels, legend, "\n".join([title, *(line for p in panels for line in _lines(p))]))


def _lines(panel: Panel, most: int = 16) -> list[str]:
    """A panel in words: its title and caption, then a line for each of its first marks."""
    lines = [f"  {panel.title}", f"    {panel.caption}"]
    drawn = panel.marks
    if panel.kind == "bars":
        said: dict[float, list[str]] = {}
        for note in panel.notes:
            said.setdefault(note.y, []).append(note.text)
        lines += [f"    {': '.join(words)}" for words in list(said.values())[:most]]
        return lines
    shown = [i for i in range(len(drawn)) if drawn.labels and drawn.labels[i]][:most]
    for i in shown:
        facts = [f"{fact.label} {value}" for fact in drawn.facts if (value := fact.show(i))]
        lines.append(f"    {drawn.labels[i]}: {', '.join(facts)}")
    if len(drawn) > len(shown) and len(shown) == most:
        lines.append(f"    ... and {len(drawn) - most} more")
    return lines
