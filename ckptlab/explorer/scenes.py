"""The scenes that people ask for: a tensor as stored, a layout as taught, a load foretold and run.

Each puts panels side by side under one legend and says the same in words. Plain data: no
torch and no drawing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ckptlab.explorer.held import held
from ckptlab.explorer.inferred import inferred, known
from ckptlab.explorer.mesh import mesh_panel
from ckptlab.explorer.scene import FILLED, GROUND, HATCHED, NEUTRAL, OUTLINED, Key, Panel, Scene, count
from ckptlab.explorer.tensor import Look, held_panel, owners_of, stored_panel
from ckptlab.explorer.traffic import Ran, traffic_panel
from ckptlab.layout import Layout, Mesh, Replicate
from ckptlab.metadata import Metadata, Tensor, human_bytes
from ckptlab.plan.forecast import Forecast
from ckptlab.plan.holding import fitted

SOON = 20_000
"""Chunks up to which a mesh that nobody recorded is inferred at once; of more, once it was asked for."""

LIKELY = 0.5
"""An inferred mesh that is believed less is not drawn as the mesh that saved."""

_COPY = Key("hatched: one of several copies", 0, HATCHED)
_SAME = Key("outline: ranks that hold the same", NEUTRAL, OUTLINED)
_EMPTY = Key("hollow: holds nothing of it", NEUTRAL, OUTLINED)
_HOST = Key("ground: ranks of one host", NEUTRAL, GROUND)


def stored_scene(metadata: Metadata, fqn: str, look: Look | None = None, hosts: int = 0) -> Scene:
    """A tensor of a checkpoint: the mesh that saved it, and its chunks, by writing rank or by file.

    `hosts` is the number of ranks on each host (0: nobody knows). Raises `LayoutError` for a look or
    hosts that make no sense.
    """
    look = look or Look()
    layout, title = _saved_on(metadata, fqn)
    if layout is None:
        drawn, shape = _writers_mesh(metadata), None
        owners = {} if look.by == "rank" else _own_files(metadata, fqn)
    else:
        drawn, shape = layout, metadata.tensor(fqn).shape
        owners = owners_of(metadata, fqn, layout, look.by)
    wrote = _wrote(metadata)
    also = {"wrote, in all": [wrote.get(rank, "nothing") for rank in drawn.mesh.rank_list]}
    panels = (
        mesh_panel(drawn, shape, owners, title, hosts=hosts, also=also),
        stored_panel(metadata, fqn, look, layout=layout),
    )
    by = "the rank that wrote it" if look.by == "rank" else "the file that it lies in"
    return _scene(f"{fqn} in the checkpoint", panels, _legend(f"colour: {by}", panels))


def layout_scene(
    layout: Layout, tensor: Tensor, look: Look | None = None, title: str = "", hosts: int = 0
) -> Scene:
    """A tensor on a mesh: what each rank holds of it. Needs no checkpoint."""
    chosen = fitted(layout, tensor.shape)
    mine = held(chosen, tensor.shape)
    owners = dict(zip(mine.rank.tolist(), mine.owner.tolist(), strict=True))
    panels = (
        mesh_panel(chosen, tensor.shape, owners, "The mesh", hosts=hosts),
        held_panel(tensor, chosen, "Its shards, as held", look, "tensor"),
    )
    title = title or f"{tensor.fqn} under {', '.join(map(str, chosen.placements))}"
    return _scene(title, panels, _legend("colour: the first rank that holds it", panels))


def mesh_scene(layout: Layout, title: str = "", hosts: int = 0) -> Scene:
    """A mesh by itself, of no tensor in particular."""
    panel = mesh_panel(layout, None, {}, "The mesh", hosts=hosts)
    return _scene(title or repr(layout.mesh), (panel,), _legend("colour: the rank", (panel,)))


def traffic_scene(foretold: Forecast, ran: Sequence[Ran] = ()) -> Scene:
    """A load, foretold; and as far as it has run."""
    legend = (
        Key("outline: foretold", NEUTRAL, OUTLINED),
        Key("filled: read", 0, FILLED),
        Key("thin: what stock DCP would read", NEUTRAL, HATCHED),
    )
    return _scene("The load", (traffic_panel(foretold, ran),), legend)


def _saved_on(metadata: Metadata, fqn: str) -> tuple[Layout | None, str]:
    """The layout that a tensor was saved on, as recorded or as inferred, if either is known; and a title."""
    metadata.tensor(fqn)
    if metadata.layouts:
        layout = metadata.layouts.get(fqn)
        return (
            layout,
            "The mesh that saved it" if layout else "The ranks that wrote (no mesh recorded for it)",
        )
    found = inferred(metadata) if len(metadata.chunks) <= SOON else known(metadata)
    if found and found.best.certainty >= LIKELY and (layout := found.best.layouts.get(fqn)):
        return layout, f"The mesh that saved it, inferred: {found.best.sure}, {found.best.certainty:.0%}"
    return None, "The ranks that wrote (no mesh recorded)"


def _writers_mesh(metadata: Metadata) -> Layout:
    """The ranks that wrote files in a row, for checkpoints that record no mesh."""
    ranks = tuple(sorted({r for r in metadata.writers if r >= 0})) or (0,)
    return Layout(Mesh((len(ranks),), ("writer",), ranks), (Replicate(),))


def _own_files(metadata: Metadata, fqn: str) -> dict[int, int]:
    """For each rank that wrote something of the tensor, the first file that it wrote it to."""
    row = metadata.rows[fqn]
    files = metadata.chunks.file[metadata.chunk_rows(row)].tolist()
    return dict(reversed(list(zip(metadata.chunk_writers(row).tolist(), files, strict=True))))


def _wrote(metadata: Metadata) -> dict[int, str]:
    """What each rank wrote of the whole checkpoint, in words."""
    writer = np.array(metadata.writers, np.int64)
    known = np.flatnonzero(writer >= 0)
    chunks = np.bincount(metadata.chunks.file, minlength=len(writer))[known]
    nbytes = np.bincount(metadata.chunks.file, metadata.chunks.length, len(writer))[known]
    number = np.bincount(writer[known], chunks)
    return {
        rank: f"{human_bytes(int(size))} in {count(int(number[rank]), 'chunk')}"
        for rank, size in enumerate(np.bincount(writer[known], nbytes).tolist())
        if number[rank]
    }


def _legend(colour: str, panels: tuple[Panel, ...]) -> tuple[Key, ...]:
    """The lines of the legend that some mark is in need of."""
    drawn = [(panel.kind, panel.marks) for panel in panels]
    hatched = any((marks.style == HATCHED).any() for _, marks in drawn)
    # An outline of several ranks is a frame round them, one of a single rank an empty cell.
    frames = any(((m.style == OUTLINED) & (np.diff(m.first) > 1)).any() for k, m in drawn if k == "devices")
    hollow = any(((m.style == OUTLINED) & (np.diff(m.first) == 1)).any() for _, m in drawn)
    ground = any((marks.style == GROUND).any() for _, marks in drawn)
    keys = (
        (True, Key(colour, 0, FILLED)),
        (hatched, _COPY),
        (frames, _SAME),
        (hollow, _EMPTY),
        (ground, _HOST),
    )
    return tuple(key for needed, key in keys if needed)


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
