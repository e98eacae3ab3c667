"""Questions of the notebooks, and what is said to an answer.

Each `check_` asks real metadata and real geometry, and says what is wrong, not only that it
is. Plain data: no torch and no drawing.
"""

from __future__ import annotations

from ckptlab.layout import Box, Layout
from ckptlab.metadata import Metadata
from ckptlab.plan.forecast import forecast
from ckptlab.plan.holding import fitted, holdings

WAITING = "Not answered yet."


def check_writer(metadata: Metadata, fqn: str, element: tuple[int, ...], answer: int | None) -> str:
    """Which rank wrote the chunk that holds this element of the tensor?"""
    if answer is None:
        return WAITING
    row = metadata.rows[metadata.tensor(fqn).fqn]
    boxes = metadata.boxes(row)
    one = Box(element, (1,) * len(element))
    inside = next(i for i in range(len(boxes)) if (boxes[i] & one).numel)
    writers = metadata.chunk_writers(row).tolist()
    if answer == writers[inside]:
        return f"Right: {boxes[inside]} was written by rank {answer}."
    wrote = [boxes[i] for i, rank in enumerate(writers) if rank == answer]
    what = f"it wrote {wrote[0]}" if wrote else "it wrote nothing of this tensor"
    return f"No: rank {answer} did not; {what}. Point at the tile that holds {list(element)}."


def check_bytes(metadata: Metadata, layout: Layout, rank: int, answer: int | None) -> str:
    """How many bytes does this rank read when every tensor is loaded under the layout?"""
    if answer is None:
        return WAITING
    foretold = forecast(metadata, holdings(metadata.tensors, layout), layout.mesh.size)
    right = int(foretold.bytes_by_rank[rank])
    if answer == right:
        return f"Right: rank {rank} reads {right:,} bytes, in {int(foretold.reads[rank])} reads."
    whole = metadata.nbytes
    if answer == whole:
        return f"No: {whole:,} bytes are the whole checkpoint; rank {rank} holds only a part of most tensors."
    if answer * layout.mesh.size == whole:
        return (
            f"Nearly: that is {whole:,} bytes divided by {layout.mesh.size}. But some tensors do not divide "
            "evenly, and scalars are on every rank."
        )
    return f"No: {answer:,} is too {'little' if answer < right else 'much'}."


def check_layout(metadata: Metadata, fqn: str, box: Box, answer: Layout | None) -> str:
    """A layout under which rank 3 holds exactly this box of the tensor."""
    if answer is None:
        return WAITING
    tensor = metadata.tensor(fqn)
    if 3 not in answer.mesh.rank_list:
        return f"No: {answer.mesh} has no rank 3."
    mine = fitted(answer, tensor.shape).shards(tensor.shape).of(3)
    held = [mine.boxes[i] for i in range(len(mine))]
    if held == [box]:
        return f"Right: under {answer}, rank 3 holds {box}."
    return f"No: under {answer}, rank 3 holds {held or 'nothing'}, not {box}."
