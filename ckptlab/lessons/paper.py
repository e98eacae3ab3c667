"""Lesson 9: a model of 405 billion parameters on 16,384 ranks, planned and foretold without its weights.

All of it is metadata that no file holds: names, shapes, dtypes and layouts. Torch is imported only to measure
what stock DCP would send.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ckptlab.explorer.whatif import facts, foretell
from ckptlab.layout import Box, Layout
from ckptlab.lessons.ask import WAITING, Verdict, right, wrong
from ckptlab.metadata import ITEMSIZE, Metadata, Tensor, human_bytes
from ckptlab.plan.forecast import Forecast
from ckptlab.plan.holding import fitted, holdings
from ckptlab.plan.metadata_of import metadata_of
from ckptlab.storage.dcp_write import write_metadata

RANKS = 16_384
ROOM = 8 << 30
"""Bytes of a GPU's 80 GiB that the puzzle leaves for weights and moments."""

BEATEN = 1_746_426
"""Chunks that the puzzle must not exceed: what cutting the rows of every tensor in 512 gives."""

_SAMPLE = 64
"""Ranks of the save of which a `.metadata` is really written, to know its bytes a chunk."""

KINDS = {"model": "bfloat16", "optim.exp_avg": "float32", "optim.exp_avg_sq": "float32"}
"""What is saved of each parameter: the weight, and Adam's two moments."""


def llama405b() -> tuple[Tensor, ...]:
    """The tensors of a model of the shapes of Llama 3.1 405B: 1,137 weights, and two moments of each."""
    width, hidden, kv, words, layers = 16_384, 53_248, 1_024, 128_256, 126
    block = {
        "attention.q": (width, width), "attention.k": (kv, width), "attention.v": (kv, width),
        "attention.o": (width, width), "mlp.gate": (hidden, width), "mlp.up": (hidden, width),
        "mlp.down": (width, hidden), "norm1": (width,), "norm2": (width,),
    }  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {"embed": (words, width), "norm": (width,), "head": (words, width)}
    shapes |= {f"layers.{i}.{name}": shape for i in range(layers) for name, shape in block.items()}
    return tuple(
        Tensor(f"{kind}.{name}", dtype, shape)
        for kind, dtype in KINDS.items()
        for name, shape in shapes.items()
    )


@dataclass(frozen=True, eq=False)
class Planned:
    """A save that was planned: what it would leave, and the seconds that the plan took here."""

    metadata: Metadata
    seconds: float

    def __repr__(self) -> str:
        saved = self.metadata
        return (
            f"{len(saved.tensors):,} tensors, {human_bytes(saved.nbytes)}, in {len(saved.chunks):,} chunks "
            f"of {len(saved.files):,} files; planned in {self.seconds:.2f} s"
        )


def plan(tensors: Sequence[Tensor], layout: Layout) -> Planned:
    """Plan a save of the tensors under one layout: who writes which box, and where it lies."""
    began = time.perf_counter()
    metadata = metadata_of(tensors, layout)
    return Planned(metadata, time.perf_counter() - began)


@dataclass(frozen=True, eq=False)
class Foretold:
    """What loading all of it on another layout would cost; `stock` is what stock DCP reads, in bytes."""

    metadata: Metadata
    forecast: Forecast

    @property
    def stock(self) -> int:
        """Bytes that all ranks together read by stock DCP."""
        return int(self.forecast.stock.sum())

    def __repr__(self) -> str:
        told = facts(self.metadata, self.forecast)
        return "\n".join(f"{label:20} {value:>20}   {means}" for label, value, means in told)


def load(metadata: Metadata, layout: Layout) -> Foretold:
    """Foretell a load of every tensor under a layout, for every rank of it."""
    return Foretold(metadata, foretell(metadata, layout))


# ---------------------------------------------------------------- what it costs to coordinate


@dataclass(frozen=True)
class Sent:
    """Bytes that every rank sends to one, before a save on `ranks`: by stock DCP and by ckptlab."""

    ranks: int
    stock: int
    ckptlab: int

    def __repr__(self) -> str:
        lines = [
            f"{name:10} {each:>9,} bytes a rank, {human_bytes(each * self.ranks)} from {self.ranks:,} ranks"
            for name, each in (("stock DCP:", self.stock), ("ckptlab:", self.ckptlab))
        ]
        return "\n".join(lines)


def sent(tensors: Sequence[Tensor], layout: Layout) -> Sent:
    """What rank 0 would send, measured: the objects are made, and packed as torch.distributed packs them."""
    import torch
    from torch.distributed.checkpoint import metadata as stock
    from torch.distributed.checkpoint.planner import SavePlan, TensorWriteData, WriteItem, WriteItemType

    from ckptlab.engine.agree import Told

    items = []
    for tensor, box in _boxes(tensors, layout, 0):
        chunk = stock.ChunkStorageMetadata(torch.Size(box.offset), torch.Size(box.shape))
        properties = stock.TensorProperties(dtype=getattr(torch, tensor.dtype))
        data = TensorWriteData(chunk, properties, torch.Size(tensor.shape))
        index = stock.MetadataIndex(tensor.fqn, chunk.offsets)
        items.append(WriteItem(index, WriteItemType.SHARD, tensor_data=data))
    return Sent(layout.mesh.size, _packed(SavePlan(items)), _packed(Told(bytes(16), bytes(16))))


def _boxes(tensors: Sequence[Tensor], layout: Layout, rank: int) -> Iterator[tuple[Tensor, Box]]:
    for holding in holdings(tensors, layout, [rank]):
        for row in range(len(holding.shards)):
            yield holding.tensor, holding.shards.boxes[row]


def _packed(value: object) -> int:
    """Bytes of an object as a collective of objects sends it."""
    import torch
    from torch.distributed.distributed_c10d import _object_to_tensor

    _, size = _object_to_tensor(value, torch.device("cpu"), None)  # type: ignore[no-untyped-call]
    return int(size.item())


# ---------------------------------------------------------------- where one machine ends


@dataclass(frozen=True)
class Weight:
    """A layout, weighed: `chunks` of all tensors together, and the bytes that the fullest `rank` holds."""

    chunks: int
    fullest: int
    rank: int


def weigh(tensors: Sequence[Tensor], layout: Layout) -> Weight:
    """Count chunks and bytes without planning: tensors of one shape are cut alike."""
    alike: dict[tuple[int, ...], list[int]] = {}
    for tensor in tensors:
        alike.setdefault(tensor.shape, []).append(ITEMSIZE[tensor.dtype])
    chunks, held = 0, np.zeros(max(layout.mesh.rank_list) + 1, np.int64)
    for shape, sizes in alike.items():
        shards = fitted(layout, shape).shards(shape)
        chunks += len(shards.distinct.boxes) * len(sizes)
        held += np.bincount(shards.rank, shards.boxes.numel, len(held)).astype(np.int64) * sum(sizes)
    return Weight(chunks, int(held.max()), int(held.argmax()))


@dataclass(frozen=True)
class Growth:
    """Saves on more and more ranks: chunks, seconds to plan (-1: only counted), bytes of `.metadata`."""

    rows: tuple[tuple[int, int, float, int], ...]

    def __repr__(self) -> str:
        lines = [f"{'ranks':>8} {'chunks':>12} {'to plan':>12} {'.metadata':>12}"]
        for ranks, chunks, seconds, nbytes in self.rows:
            took = f"{seconds:.2f} s" if seconds >= 0 else "not tried"
            lines.append(f"{ranks:8,} {chunks:12,} {took:>12} {human_bytes(nbytes):>12}")
        return "\n".join(lines)


def growth(tensors: Sequence[Tensor], planned: Sequence[int], counted: Sequence[int]) -> Growth:
    """FSDP on so many ranks: some saves planned, some only counted.

    The bytes of `.metadata` are those a chunk of one that is really written, of 64 ranks.
    """
    sample = metadata_of(tensors, _fsdp(_SAMPLE))
    each = len(write_metadata(sample, "x")) / len(sample.chunks)
    rows = []
    for ranks in planned:
        made = plan(tensors, _fsdp(ranks))
        rows.append((ranks, len(made.metadata.chunks), made.seconds))
    rows += [(ranks, weigh(tensors, _fsdp(ranks)).chunks, -1.0) for ranks in counted]
    return Growth(tuple((ranks, chunks, seconds, int(each * chunks)) for ranks, chunks, seconds in rows))


def _fsdp(ranks: int) -> Layout:
    return Layout.parse(str(ranks), "Shard(0)")


# ---------------------------------------------------------------- puzzle


def check_mesh(tensors: Sequence[Tensor], answer: Layout | None) -> Verdict:
    """A layout on all 16,384 ranks, no rank above 8 GiB, in as few chunks as can be."""
    if answer is None:
        return WAITING
    if sorted(answer.mesh.rank_list) != list(range(RANKS)):
        return wrong(f"{answer.mesh} has {answer.mesh.size:,} ranks; all {RANKS:,} must have a place.")
    found = weigh(tensors, answer)
    held = f"rank {found.rank} holds {human_bytes(found.fullest)}"
    if found.fullest > ROOM:
        return wrong(f"{held}, and has room for {human_bytes(ROOM)}. Cut into more pieces, copy less.")
    if found.chunks > BEATEN:
        return wrong(
            f"{held}, which fits; but there are {found.chunks:,} chunks, and {BEATEN:,} are enough. A rank "
            "need not hold so little: copy more, cut less."
        )
    fewest = weigh(tensors, Layout.parse("replicate=32, shard=512", "Replicate, Shard(1)")).chunks
    more = (
        f" Fewer are possible: {fewest:,}. Which tensors are too small to be worth a cut?"
        if found.chunks > fewest
        else " Fewer are hardly possible: what has one dim is not cut at all."
    )
    return right(f"{held}, and there are {found.chunks:,} chunks.{more}")
