"""What ranks do in the tests that carry tensors of every layout and dtype between ckptlab and stock DCP.

Tensors are cut by torch's own `distribute_tensor`, never by ckptlab's geometry. A target is poisoned
before it is loaded.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as stock_dcp
from seed_ops import kind_of, mesh_of, quiet, same
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.placement_types import _StridedShard

import ckptlab.dcp as our_dcp

DCP = {"ours": our_dcp, "stock": stock_dcp}

LAYOUTS = {
    "rows": ((4,), (Shard(0),)),
    "columns": ((4,), (Shard(1),)),
    "copies": ((4,), (Replicate(),)),
    "hsdp": ((2, 2), (Replicate(), Shard(0))),
    "hsdp_columns": ((2, 2), (Shard(1), Replicate())),
    "tiles": ((2, 2), (Shard(0), Shard(1))),
    "tiles_turned": ((2, 2), (Shard(1), Shard(0))),
    "nested": ((2, 2), (Shard(0), Shard(0))),
    "fsdp_tp": ((2, 2), (_StridedShard(0, split_factor=2), Shard(0))),
    "stripes": ((4,), (_StridedShard(0, split_factor=2),)),
}
"""Of "stripes" every rank holds two pieces that do not touch, which stock DCP has no words for."""

CUBES = {
    "hsdp_tp": ((2, 2, 2), (Replicate(), _StridedShard(0, split_factor=2), Shard(0))),
    "hsdp_tp_columns": ((2, 2, 2), (Replicate(), Shard(0), Shard(1))),
    "cube": ((2, 2, 2), (Shard(0), Shard(1), Shard(2))),
    "thrice": ((2, 2, 2), (Shard(0), Shard(0), Shard(0))),
    "thrice_turned": (
        (2, 2, 2),
        (_StridedShard(0, split_factor=4), _StridedShard(0, split_factor=2), Shard(0)),
    ),
    "fsdp_ep_copies": ((2, 2, 2), (Shard(1), Replicate(), Shard(0))),
    "eighths": ((8,), (Shard(0),)),
}
"""Those of eight ranks, on meshes of three axes but for the last."""

SHAPES = [(8, 8), (7, 5), (3, 2), (1, 9), (5,), (0, 4), (), (3, 4, 5)]

DTYPES = [
    "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "bfloat16",
    "float32", "float64", "complex32", "complex64", "complex128", "float8_e4m3fn", "float8_e4m3fnuz",
    "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu",
]  # fmt: skip

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.complex128}


class Counter:
    """A `Stateful` with a tensor, numbers and text."""

    def __init__(self, count, where):
        self.count, self.where = count, where

    def state_dict(self):
        return {"count": self.count, "where": self.where, "table": torch.arange(6.0) * self.count}

    def load_state_dict(self, state):
        self.count, self.where, self.table = state["count"], state["where"], state["table"]


@dataclass(frozen=True)
class Compared:
    """How many tensors and local elements were compared on a rank, and the keys of which some differ."""

    tensors: int
    elements: int
    different: tuple[str, ...]


def full(name, shape, dtype="float32"):
    """The whole tensor of this name, the same on every rank; bits of every kind, NaNs too."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    kind, high = getattr(torch, dtype), 2 if dtype == "bool" else 256
    raw = torch.randint(0, high, (*shape, kind.itemsize), generator=generator, dtype=torch.uint8)
    return raw.view(kind).reshape(shape)


def cut(ctx, tensor, layout):
    """A DTensor of it, its bits cut whatever its dtype; placements of a dim that it has not replicate it."""
    mesh_shape, placements = (LAYOUTS | CUBES)[layout]
    fitted = [p if isinstance(p, Replicate) or p.dim < tensor.ndim else Replicate() for p in placements]
    mesh = mesh_of(kind_of(ctx), mesh_shape)
    bits = tensor.view(_BITS[tensor.element_size()]).to(ctx.device)
    made = distribute_tensor(bits, mesh, fitted, src_data_rank=None)
    return DTensor.from_local(
        made.to_local().clone().view(tensor.dtype),
        mesh,
        fitted,
        run_check=False,
        shape=tensor.shape,
        stride=tensor.stride(),
    )


def poisoned(tensor):
    bits = (tensor.to_local() if isinstance(tensor, DTensor) else tensor).view(_BITS[tensor.element_size()])
    bits.reshape(-1).view(torch.uint8).fill_(0xA5 if tensor.dtype is not torch.bool else 0)
    return tensor


def grid(ctx, layouts, target=None):
    """A tensor of every shape for each layout; all under the `target` layout if there is one."""
    return {
        layout: {str(shape): cut(ctx, full(f"{layout}{shape}", shape), target or layout) for shape in SHAPES}
        for layout in layouts
    }


def compare(wanted, loaded):
    different, elements = [], 0
    for layout, tensors in wanted.items():
        for name, tensor in tensors.items():
            mine, theirs = tensor.to_local(), loaded[layout][name].to_local()
            elements += mine.numel()
            if not same(mine, theirs) or tensor.placements != loaded[layout][name].placements:
                different.append(f"{layout} {name} as {tensor.placements}")
    return Compared(sum(map(len, wanted.values())), elements, tuple(different))


def from_any_to_any(ctx, path, saver, loader, sources, targets):
    """Save a grid of layouts once, then load all of it under each target layout."""
    with quiet():
        DCP[saver].save(grid(ctx, sources), checkpoint_id=path)
    return load_grid(ctx, path, loader, sources, targets)


def load_grid(ctx, path, loader, sources, targets):
    """Load all of a grid of the layouts `sources` under each target layout."""
    out = {}
    with quiet():
        for target in targets:
            wanted, loaded = grid(ctx, sources, target), grid(ctx, sources, target)
            for tensors in loaded.values():
                for tensor in tensors.values():
                    poisoned(tensor)
            DCP[loader].load(loaded, checkpoint_id=path)
            out[target] = compare(wanted, loaded)
    return out


def every_dtype(ctx, path, saver, loader):
    """Tensors of every dtype, as DTensors and plain, from HSDP to tiles."""

    def state(layout):
        dtensors = {d: cut(ctx, full(d, (6, 5), d), layout) for d in DTYPES}
        plain = {d: full(f"plain {d}", (3, 2), d).to(ctx.device) for d in DTYPES}
        return {"sharded": dtensors, "plain": plain}

    with quiet():
        DCP[saver].save(state("hsdp"), checkpoint_id=path)
        wanted, loaded = state("tiles"), state("tiles")
        for tensors in loaded.values():
            for tensor in tensors.values():
                poisoned(tensor)
        DCP[loader].load(loaded, checkpoint_id=path)
    different = [d for d in DTYPES if not same(wanted["plain"][d], loaded["plain"][d])]
    return compare({"sharded": wanted["sharded"]}, loaded), different


def state_of_all_kinds(ctx, seed):
    """Nested dicts and lists, plain tensors, objects, a Stateful; the same on every rank."""
    return {
        "step": 7 * seed,
        "name": f"run {seed}",
        "nothing": None,
        "rates": [0.1 * seed, 0.2, (3, 4)],
        "empty": {},
        "none": [],
        "layers": [
            {"weight": full(f"w{seed}", (4, 3)), "seen": seed},
            {"weight": cut(ctx, full(f"d{seed}", (5, 4)), "hsdp"), "seen": {"inner": [seed, seed + 1]}},
            [full(f"l{seed}", (2,)), seed],
        ],
        "groups": {0: {"lr": 0.5 * seed}, 1: {"lr": 0.25 * seed}},
        "scalar": torch.tensor(3.5 * seed),
        "transposed": full(f"t{seed}", (3, 4)).t(),
        "counter": Counter(seed, f"rank of {seed}"),
    }


def plain(value):
    """A state in values that compare and travel."""
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [type(value).__name__, *map(plain, value)]
    if isinstance(value, DTensor):
        return plain(value.to_local())
    if isinstance(value, torch.Tensor):
        contiguous = value.contiguous()
        return str(value.dtype), tuple(value.shape), contiguous.reshape(-1).view(torch.uint8).tolist()
    return plain(value.state_dict()) if isinstance(value, Counter) else value


def all_kinds(ctx, path, saver, loader):
    """Saved, expected and loaded state of all kinds."""
    with quiet():
        saved, target = state_of_all_kinds(ctx, 1), state_of_all_kinds(ctx, 2)
        before = plain(target)
        DCP[saver].save(saved, checkpoint_id=path)
        DCP[loader].load(target, checkpoint_id=path)
    return plain(saved), before, plain(target)


def said_by_stock(ctx, path, saver):
    """What stock's own reader says of a checkpoint of all kinds."""
    with quiet():
        DCP[saver].save({**state_of_all_kinds(ctx, 1), **grid(ctx, ["tiles"])}, checkpoint_id=path)
    dist.barrier()
    return stock_dcp.FileSystemReader(path).read_metadata()


def saved_stripes(ctx, path):
    """Whether stock takes a tensor of which each rank holds two separate pieces; its refusal in words."""
    state = {"stripes": cut(ctx, full("stripes", (16, 2)), "stripes")}
    with quiet():
        try:
            stock_dcp.save(state, checkpoint_id=path)
        except stock_dcp.CheckpointException as error:  # a BaseException
            return str(error)
    return ""


def several_files(ctx, path):
    """Saved by three threads a rank, a file each, without waiting for the disk: as stock loads it."""
    with quiet():
        our_dcp.save(
            grid(ctx, ["tiles", "hsdp"]),
            storage_writer=our_dcp.FileSystemWriter(path, thread_count=3, sync_files=False),
        )
    dist.barrier()
    names = sorted(name for name in os.listdir(path) if name.startswith(f"__{ctx.rank}_"))
    return names, load_grid(ctx, path, "stock", ["tiles", "hsdp"], ["columns"])["columns"]
