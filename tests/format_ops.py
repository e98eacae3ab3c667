"""What ranks do in the tests of other formats: save pieces as safetensors, load any format onto a mesh."""

from __future__ import annotations

import torch.distributed.checkpoint as stock_dcp
from crosswise_ops import LAYOUTS, SHAPES, compare, cut, full, poisoned
from seed_ops import quiet

import ckptlab
from ckptlab.engine.verify import verify_loaded

SOURCES = [layout for layout in LAYOUTS if layout not in ("stripes", "fsdp_tp")]


def names():
    return {f"{layout}.{shape}": shape for layout in SOURCES for shape in SHAPES}


def whole_state():
    return {name: full(name, shape) for name, shape in names().items()}


def save_pieces(ctx, path):
    """Stock torch writes a safetensors file a rank."""
    with quiet():
        state = {name: cut(ctx, full(name, shape), name.split(".")[0]) for name, shape in names().items()}
        writer = stock_dcp.HuggingFaceStorageWriter(path, save_distributed=True)
        stock_dcp.save(state, storage_writer=writer)


def load_onto(ctx, path, targets):
    """Load a checkpoint of `whole_state` under each layout, by `ckptlab.load` as it is."""
    out = {}
    with quiet():
        for target in targets:
            wanted = {name: cut(ctx, full(name, shape), target) for name, shape in names().items()}
            loaded = {name: poisoned(cut(ctx, full(name, shape), target)) for name, shape in names().items()}
            report = ckptlab.load(loaded, path)
            found = compare({target: wanted}, {target: loaded})
            verdict = verify_loaded(loaded, path)
            out[target] = (found, report.nbytes, verdict.elements, verdict.different)
            broken = poisoned(loaded["rows.(8, 8)"])
            assert verify_loaded({"rows.(8, 8)": broken}, path).different == ("rows.(8, 8)",)
    return out
