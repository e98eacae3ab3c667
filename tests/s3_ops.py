"""What ranks do with checkpoints on a server that speaks S3."""

from __future__ import annotations

import os
from unittest import mock

import torch
import torch.distributed.checkpoint as stock_dcp
from crosswise_ops import cut, full, poisoned
from engine_ops import failure
from seed_ops import quiet, same
from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader, FsspecWriter

import ckptlab
from ckptlab.storage import upload

STATE = {"w": ((9, 4), "hsdp"), "v": ((16, 3), "rows"), "b": ((6, 8), "tiles"), "s": ((), "copies")}


def pid(ctx):
    return os.getpid()


def state(ctx, seed=1, layout=None):
    """Tensors cut in several ways, or all in one, and an object."""
    tensors = {
        fqn: cut(ctx, full(f"{fqn} {seed}", shape), layout or own) for fqn, (shape, own) in STATE.items()
    }
    return {"model": tensors, "step": seed}


def save(ctx, path, seed=1, **options):
    return ckptlab.save(state(ctx, seed), path, **options)


def load(ctx, path, layout=None, **options):
    """Which seed was loaded, by the bits of every tensor and by the object; what it cost."""
    target = {"model": {fqn: poisoned(t) for fqn, t in state(ctx, 0, layout)["model"].items()}, "step": 0}
    report = ckptlab.load(target, path, **options)
    return _seed(ctx, target, layout), report


def _seed(ctx, target, layout):
    for seed in (1, 2, 3):
        wanted = state(ctx, seed, layout)
        equal = all(same(wanted["model"][k].to_local(), t.to_local()) for k, t in target["model"].items())
        if equal and target["step"] == seed:
            return seed
    return 0


def stock_save(ctx, path, seed=1):
    """As stock DCP saves over fsspec."""
    with quiet():
        stock_dcp.save(state(ctx, seed), storage_writer=FsspecWriter(path))


def stock_load(ctx, path):
    """Which seed stock DCP loads over fsspec."""
    target = {"model": {fqn: poisoned(t) for fqn, t in state(ctx, 0)["model"].items()}, "step": 0}
    with quiet():
        stock_dcp.load(target, storage_reader=FsspecReader(path))
    return _seed(ctx, target, None)


def save_fails(ctx, path, seed):
    return failure(lambda: ckptlab.save(state(ctx, seed), path))


def load_fails(ctx, path):
    target = state(ctx)
    for tensor in target["model"].values():
        poisoned(tensor)
    return failure(lambda: ckptlab.load(target, path), list(target["model"].values()))


MIB = 1 << 20
ROWS = 4 * 6 * MIB // 16
"""Rows of the large tensor."""


def save_large(ctx, path, value, block=None):
    """A tensor of 6 MiB a rank, of four columns, sent in blocks of `block` bytes."""
    whole = cut(ctx, torch.full((ROWS, 4), float(value)), "rows")
    with mock.patch.object(upload, "BLOCK", block or upload.BLOCK):
        ckptlab.save({"w": whole}, path)


def load_large(ctx, path, layout="rows"):
    """The one value of the large tensor, and what it cost; None if it has more than one."""
    target = poisoned(cut(ctx, torch.zeros(ROWS, 4), layout))
    report = ckptlab.load({"w": target}, path)
    local = target.to_local()
    value = float(local.view(-1)[0])
    return (value if bool((local == value).all()) else None), report


MIXED = {"w": (1024, 1100), "wide": (8, 140_000), "b": (300,)} | {f"s{i}": (16, 12) for i in range(30)}
"""Large chunks of four ranks, whose columns come together or apart, and many small ones."""


def mixed(ctx, layout):
    """Matrices under one layout, the rest on every rank."""
    return {
        fqn: cut(ctx, full(fqn, shape), layout if len(shape) > 1 else "copies")
        for fqn, shape in MIXED.items()
    }


def save_mixed(ctx, path, by):
    with quiet():
        state = mixed(ctx, "rows") | {f"o{i}": i for i in range(5)}
        if by == "stock":
            stock_dcp.save(state, storage_writer=FsspecWriter(path))
        else:
            ckptlab.save(state, path)


def load_mixed(ctx, path, layout, verify):
    """Whether every bit is as it was, and what the load cost."""
    wanted = mixed(ctx, layout)
    target = {fqn: poisoned(t.clone()) for fqn, t in wanted.items()} | {f"o{i}": -1 for i in range(5)}
    report = ckptlab.load(target, path, verify=verify)
    equal = all(same(t.to_local(), target[fqn].to_local()) for fqn, t in wanted.items())
    return equal and [target[f"o{i}"] for i in range(5)] == [*range(5)], report
