"""Where every element of every tensor lives: boxes, meshes, placements and layouts.

Pure geometry on the standard library and numpy. It knows no files, no torch and no
"me": a rank is always an argument.
"""

from ckptlab.layout.box import Box, Boxes, Overlaps, overlaps
from ckptlab.layout.layout import Distinct, Layout, Shards
from ckptlab.layout.mesh import Mesh
from ckptlab.layout.placement import Placement, Replicate, Shard, StridedShard, parse_placements

__all__ = [
    "Box",
    "Boxes",
    "Distinct",
    "Layout",
    "Mesh",
    "Overlaps",
    "Placement",
    "Replicate",
    "Shard",
    "Shards",
    "StridedShard",
    "overlaps",
    "parse_placements",
]
