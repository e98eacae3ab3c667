"""Is what was loaded what is stored? Bit for bit, by a second way to the same bytes.

Stored chunks are decoded whole by torch's own reader, and a rank's elements are found by
torch's own indexing of the whole tensor where it can: nothing of the plan or of the ranged
reads is used. It changes nothing.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ckptlab.engine.applied import applied
from ckptlab.engine.held import Held, hold
from ckptlab.engine.ranks import Team
from ckptlab.engine.state import expand, flatten
from ckptlab.errors import CorruptError
from ckptlab.events import Progress, Trace, silent
from ckptlab.metadata import Tensor
from ckptlab.plan.bind import Bound, bind, told
from ckptlab.plan.transform import Transform
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
    transform: Transform | None = None,
    progress: Progress = silent,
) -> Verdict:
    """Compare every local element of the state's tensors with the stored ones; each rank its own.

    Reads whole chunks, one at a time. Keys that the checkpoint has not, and objects, are passed over.
    With a `transform`, elements are compared with what torch makes of whole stored tensors by it, with one
    whole target in memory at a time; what it lets stay as it was is passed over.
    """
    team = Team.of(process_group, alone=no_dist)
    trace = Trace(team.rank, progress)
    checkpoint = open_checkpoint(path)
    checkpoint.settle()
    elements, different = 0, []
    leaves = flatten(expand(state_dict)).values
    tensors = {fqn: value for fqn, value in leaves.items() if isinstance(value, torch.Tensor)}
    wanted = hold(tensors, team.global_rank, team.ranks)
    pairs, total = _pairs(checkpoint, wanted, transform)
    with trace.phase("verify", total):
        for fqn, local, stored, filled in pairs:
            elements += local.numel() if filled is None else int(filled.count_nonzero())
            if stored is None or not _same_bits(stored, local, filled):
                different.append(fqn)
            trace.moved(local.numel() * local.element_size(), partial(str, fqn))
    return Verdict(team.rank, elements, tuple(dict.fromkeys(different)))


_Pair = tuple[str, torch.Tensor, torch.Tensor | None, torch.Tensor | None]
"""A key, local elements, what is stored for them (None if some is nowhere), which count (None: all)."""


def _pairs(
    checkpoint: Checkpoint, wanted: Mapping[str, Held], transform: Transform | None
) -> tuple[Iterator[_Pair], int]:
    """What is to be compared, shard by shard; and the bytes of all of it."""
    if transform is None:
        some = {fqn: held for fqn, held in wanted.items() if fqn in checkpoint.metadata.rows}
        pairs = _as_stored(checkpoint, some)
    else:
        tensors = {fqn: held.tensor for fqn, held in wanted.items()}
        bound = bind(transform, told(checkpoint.metadata), tensors)
        some = {fqn: wanted[fqn] for fqn in bound.fills}
        pairs = _as_transformed(checkpoint, some, bound)
    nbytes = (h.cut.numel * h.memory[0].element_size() for h in some.values() if h.memory)
    return pairs, sum(nbytes)


def _as_stored(checkpoint: Checkpoint, wanted: Mapping[str, Held]) -> Iterator[_Pair]:
    for fqn, held in wanted.items():
        for i in range(len(held.cut.mine)):
            box = held.cut.mine.boxes[i]
            yield fqn, held.piece_of(box).cpu(), _stored(checkpoint, fqn, box.slices, box.shape), None


def _as_transformed(checkpoint: Checkpoint, wanted: Mapping[str, Held], bound: Bound) -> Iterator[_Pair]:
    for fqn, held in wanted.items():
        parts = [(fill.part, _whole(checkpoint, fill.stored)) for fill in bound.fills[fqn]]
        values, filled = applied(parts, held.tensor)
        for i in range(len(held.cut.mine)):
            box = held.cut.mine.boxes[i]
            yield fqn, held.piece_of(box).cpu(), values[box.slices], filled[box.slices]


def _whole(checkpoint: Checkpoint, tensor: Tensor) -> torch.Tensor:
    """A whole stored tensor; `CorruptError` if some of its elements are stored nowhere."""
    found = _stored(checkpoint, tensor.fqn, tuple(slice(0, n) for n in tensor.shape), tensor.shape)
    if found is None:
        raise CorruptError(f"tensor {tensor.fqn!r} of {checkpoint.path} is not stored whole", [tensor.fqn])
    return found


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


def _same_bits(a: torch.Tensor, b: torch.Tensor, where: torch.Tensor | None) -> bool:
    """Whether the elements are the same, bit for bit; all of them, or those that `where` marks."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    one, other = (it.contiguous().reshape(-1).view(torch.uint8) for it in (a, b))
    if where is None:
        return torch.equal(one, other)
    differ = (one != other).reshape(a.numel(), a.element_size()).any(dim=1)
    return not bool((differ & where.reshape(-1)).any())
