"""Is what was loaded what is stored? Bit for bit, by a second way to the same bytes.

Stored chunks are decoded whole by torch's own reader, and a rank's elements are found by
torch's own indexing of the whole tensor where it can: nothing of the plan or of the ranged
reads is used. It changes nothing.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ckptlab.engine.ranks import Team
from ckptlab.engine.state import expand, flatten, hold
from ckptlab.events import Progress, Trace, silent
from ckptlab.storage.checkpoint import Checkpoint, open_checkpoint


@dataclass(frozen=True)
class Verdict:
    """What one rank found: elements compared, and the keys of which some differ."""

    rank: int
    elements: int
    different: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Every element is, bit for bit, the stored one."""
        return not self.different


def verify_loaded(
    state_dict: Mapping[str, Any],
    path: str,
    *,
    process_group: Any = None,
    no_dist: bool = False,
    progress: Progress = silent,
) -> Verdict:
    """Compare every local element of the state's tensors with the stored ones; each rank its own.

    Reads whole chunks, one at a time. Keys that the checkpoint has not, and objects, are passed over.
    """
    team = Team.of(process_group, alone=no_dist)
    trace = Trace(team.rank, progress)
    checkpoint = open_checkpoint(path)
    checkpoint.settle()
    elements, different = 0, []
    leaves = flatten(expand(state_dict))
    known = checkpoint.metadata.rows
    tensors = {k: v.value for k, v in leaves.items() if isinstance(v.value, torch.Tensor) and k in known}
    wanted = hold(tensors, team.global_rank, team.ranks)
    total = sum(
        int(h.mine.boxes.numel.sum()) * h.memory[0].element_size() for h in wanted.values() if h.memory
    )
    with trace.phase("verify", total):
        for fqn, held in wanted.items():
            for i in range(len(held.mine)):
                box = held.mine.boxes[i]
                local = held.piece_of(box).cpu()
                stored = _stored(checkpoint, fqn, box.slices, box.shape)
                elements += box.numel
                if stored is None or not _same_bits(stored, local):
                    different.append(fqn)
                trace.moved(box.numel * local.element_size())
    return Verdict(team.rank, elements, tuple(dict.fromkeys(different)))


def _stored(
    checkpoint: Checkpoint, fqn: str, where: tuple[slice, ...], shape: tuple[int, ...]
) -> torch.Tensor | None:
    """The stored elements at `where`, put together from whole chunks; None if some are stored nowhere."""
    metadata = checkpoint.metadata
    row = metadata.rows[fqn]
    dtype = getattr(torch, metadata.tensors[row].dtype)
    whole, known = torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=torch.bool)
    boxes = metadata.boxes(row)
    for i, chunk in enumerate(range(*metadata.chunk_rows(row).indices(len(metadata.chunks)))):
        low = [max(s.start, o) for s, o in zip(where, boxes[i].offset, strict=True)]
        high = [min(s.stop, e) for s, e in zip(where, boxes[i].stop, strict=True)]
        if any(a >= b for a, b in zip(low, high, strict=True)):
            continue
        tensor = _chunk(checkpoint, chunk)
        there = tuple(slice(a - s.start, b - s.start) for a, b, s in zip(low, high, where, strict=True))
        here = tuple(slice(a - o, b - o) for a, b, o in zip(low, high, boxes[i].offset, strict=True))
        whole[there], known[there] = tensor[here], True
    return whole if bool(known.all()) else None


def _chunk(checkpoint: Checkpoint, chunk: int) -> torch.Tensor:
    """A whole stored chunk."""
    metadata = checkpoint.metadata
    name = metadata.files[metadata.chunks.file[chunk]]
    data = checkpoint.files.read(name, int(metadata.chunks.start[chunk]), int(metadata.chunks.length[chunk]))
    if checkpoint.payloads is None:
        tensor: torch.Tensor = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        return tensor
    payload = checkpoint.payloads[chunk]
    dtype = getattr(torch, payload.dtype)
    numel = payload.nbytes // dtype.itemsize
    if not numel:
        return torch.empty(payload.shape, dtype=dtype)
    flat = torch.frombuffer(bytearray(data[payload.start :]), dtype=dtype, count=numel)
    return flat.as_strided(payload.shape, payload.strides, payload.storage_offset)


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(
        a.contiguous().reshape(-1).view(torch.uint8), b.contiguous().reshape(-1).view(torch.uint8)
    )
