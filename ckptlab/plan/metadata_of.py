"""The metadata that a save of given tensors would leave, before or without saving it.

For what-if pictures and lessons; lengths are those of the elements, without wrapping.
No bytes, no files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from ckptlab.layout import Layout
from ckptlab.metadata import ITEMSIZE, Metadata, Tensor, Tensors
from ckptlab.plan.holding import fitted, holdings
from ckptlab.plan.save import plan_save


def metadata_of(tensors: Iterable[Tensor], layout: Layout) -> Metadata:
    """The tensors saved under one layout: one file a rank, chunks one behind the other.

    >>> from ckptlab.layout import Layout
    >>> saved = metadata_of([Tensor("w", "float32", (4, 4))], Layout.parse("2", "Shard(0)"))
    >>> len(saved.chunks), saved.writers, saved.chunks.length.tolist()
    (2, (0, 1), [32, 32])
    """
    rows = Tensors.of(tensors)
    world = max(layout.mesh.rank_list) + 1
    plan = plan_save(holdings(rows, layout), world)
    chunks, _ = plan.chunks(lambda dtype, shape: math.prod(shape) * ITEMSIZE[dtype])
    layouts: Mapping[str, Layout] = {t.fqn: fitted(layout, t.shape) for t in rows}
    files = tuple(f"rank {rank}" for rank in range(world))
    return Metadata(rows, chunks, files, tuple(range(world)), layouts=layouts)
