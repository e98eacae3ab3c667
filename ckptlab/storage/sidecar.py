"""The file beside `.metadata` that says what stock torch does not record: mesh and placements.

Stock readers never look at it, and without it all still works. It belongs to one save, by
its id; another save's, or a damaged one, counts as none. It opens no file itself.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from ckptlab.errors import LayoutError
from ckptlab.layout import Layout, Mesh, Replicate, parse_placements
from ckptlab.metadata import Metadata

LAYOUT_PREFIX = ".ckptlab-"

_VERSION = 1
_MOST_RANKS = 1 << 20


def layout_file(save_id: str | None) -> str:
    """The name of a save's layouts file: its own, so that an older save's outlives a newer one that fails."""
    return f"{LAYOUT_PREFIX}{save_id}.json"


def write_layouts(metadata: Metadata) -> bytes:
    """The layouts of `metadata` as JSON, each distinct one once, with the names of its tensors."""
    named: dict[Layout, list[str]] = {}
    for fqn, layout in metadata.layouts.items():
        named.setdefault(layout, []).append(fqn)
    records = [
        {
            "mesh": {"shape": layout.mesh.shape, "axes": layout.mesh.axes, "ranks": layout.mesh.ranks},
            "placements": ", ".join(map(repr, layout.placements)),
            "tensors": fqns,
        }
        for layout, fqns in named.items()
    ]
    return json.dumps(
        {"version": _VERSION, "save_id": metadata.save_id, "layouts": records}, separators=(",", ":")
    ).encode()


def read_layouts(data: bytes, save_id: str | None, metadata: Metadata) -> Mapping[str, Layout]:
    """Layout by fqn, for tensors of `metadata` that it fits; empty if it is another save's or damaged."""
    layouts: dict[str, Layout] = {}
    try:
        top = json.loads(data)
        if save_id is None or top["save_id"] != save_id or top["version"] != _VERSION:
            return {}
        for record in top["layouts"]:
            layout = _layout(record["mesh"], record["placements"])
            for fqn in record["tensors"]:
                if fqn in metadata.rows and _fits(layout, len(metadata.tensor(fqn).shape)):
                    layouts[fqn] = layout
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError):
        return {}
    return layouts


def _layout(mesh: Mapping[str, list[int]], placements: str) -> Layout:
    shape = tuple(map(int, mesh["shape"]))
    if math.prod(shape) > _MOST_RANKS:
        raise LayoutError(f"a mesh of {shape}")
    return Layout(
        Mesh(shape, tuple(map(str, mesh["axes"])), tuple(mesh["ranks"])), parse_placements(placements)
    )


def _fits(layout: Layout, ndim: int) -> bool:
    return all(isinstance(p, Replicate) or -ndim <= p.dim < ndim for p in layout.placements)
