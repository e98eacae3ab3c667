"""How long planning takes at a size that no laptop can save: 405B parameters with Adam, many ranks.

    python tests/bench/plans.py [ranks ...]

One process plays one rank, or the coordinator; processor seconds, the least of several runs. Stock:
`dedup_save_plans`, `create_default_global_save_plan` and its validation, and what `finish` makes of
them (`storage_data`, the pickle); and `create_read_items_for_chunk_list` of every tensor. ckptlab:
`plan_save` with the places in files, `write_metadata`; and `plan_load`.
"""

import gc
import pickle
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import states
import torch
from torch.distributed.checkpoint import metadata as stock
from torch.distributed.checkpoint._dedup_save_plans import dedup_save_plans
from torch.distributed.checkpoint.default_planner import (
    _validate_global_plan,
    create_default_global_save_plan,
)
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.planner import SavePlan, TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from ckptlab.layout import Layout
from ckptlab.plan.holding import holdings
from ckptlab.plan.load import plan_load
from ckptlab.plan.metadata_of import metadata_of
from ckptlab.plan.save import plan_save
from ckptlab.storage.dcp_write import write_metadata
from ckptlab.storage.template import template


def cpu(work, reps):
    """The least processor seconds of several runs."""
    taken = []
    for _ in range(reps):
        gc.collect()
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return min(taken)


def stock_plans(held, world):
    """What each rank's planner would send to the coordinator."""
    plans = [[] for _ in range(world)]
    for holding in held:
        tensor, shards = holding.tensor, holding.shards
        properties = stock.TensorProperties(dtype=getattr(torch, tensor.dtype))
        size = torch.Size(tensor.shape)
        for row, rank in enumerate(shards.rank.tolist()):
            box = shards.boxes[row]
            chunk = stock.ChunkStorageMetadata(torch.Size(box.offset), torch.Size(box.shape))
            index = stock.MetadataIndex(tensor.fqn, chunk.offsets)
            data = TensorWriteData(chunk, properties, size)
            plans[rank].append(WriteItem(index, WriteItemType.SHARD, tensor_data=data))
    return [SavePlan(items) for items in plans]


def stock_coordinator(plans):
    """All that the coordinator does between having the plans and having the bytes of `.metadata`."""
    deduped = dedup_save_plans(plans)
    whole, metadata = create_default_global_save_plan(deduped)
    assert not _validate_global_plan(whole, metadata)
    planned = time.process_time()
    metadata.storage_data = {
        item.index: _StorageInfo(f"__{rank}_0.distcp", 0, 0)
        for rank, plan in enumerate(whole)
        for item in plan.items
    }
    pickle.dumps(metadata)
    return planned, metadata


def save_row(ranks):
    """Save: plans alone, and with `.metadata`."""
    held = holdings(states.llama405b(), Layout.parse(str(ranks), "Shard(0)"))
    plans = stock_plans(held, ranks)
    reps = 3 if ranks <= 64 else 1

    def stock_plan():
        nonlocal planned
        planned = stock_coordinator(plans)[0]

    planned = 0.0
    began = []

    def timed():
        began.append(time.process_time())
        stock_plan()
        began[-1] = planned - began[-1]

    whole = cpu(timed, reps)
    alone = min(began)
    metadata = metadata_of(states.llama405b(), Layout.parse(str(ranks), "Shard(0)"))

    def ours():
        plan_save(held, ranks).chunks(lambda dtype, shape: template(dtype, shape).length)

    plan, record = cpu(ours, 5), cpu(lambda: write_metadata(metadata, "x"), 3)
    chunks = f"{len(metadata.chunks):,}"
    print(
        f"| save plan, {ranks} ranks, {chunks} chunks | {alone:.3f} | {plan:.4f} | {alone / plan:.0f} |\n"
        f"| the same with `.metadata` | {whole:.3f} | {plan + record:.4f} | {whole / (plan + record):.1f} |",
        flush=True,
    )


def load_row(ranks):
    """One rank's load plan, of FSDP on three quarters as many ranks."""
    tensors = states.llama405b()
    saved = metadata_of(tensors, Layout.parse(str(ranks), "Shard(0)"))
    wants = holdings(tensors, Layout.parse(str(ranks * 3 // 4), "Shard(0)"), [ranks // 3])
    ours = cpu(lambda: plan_load(saved, wants), 9)
    stored = {}
    for row, tensor in enumerate(tensors):
        boxes = saved.boxes(row)
        chunks = [
            stock.ChunkStorageMetadata(torch.Size(o), torch.Size(s))
            for o, s in zip(boxes.offsets.tolist(), boxes.shapes.tolist(), strict=True)
        ]
        properties = stock.TensorProperties(dtype=getattr(torch, tensor.dtype))
        stored[tensor.fqn] = stock.TensorStorageMetadata(properties, torch.Size(tensor.shape), chunks)
    local = {
        want.tensor.fqn: [
            stock.ChunkStorageMetadata(torch.Size(o), torch.Size(s))
            for o, s in zip(
                want.shards.boxes.offsets.tolist(), want.shards.boxes.shapes.tolist(), strict=True
            )
        ]
        for want in wants
    }

    def theirs():
        return [
            item
            for fqn, chunks in local.items()
            for item in create_read_items_for_chunk_list(fqn, stored[fqn], chunks)
        ]

    assert len(theirs()) == len(plan_load(saved, wants))
    stock_seconds = cpu(theirs, 3)
    print(
        f"| one rank's load plan, {ranks} ranks, {len(saved.chunks):,} chunks | {stock_seconds:.3f} | "
        f"{ours:.5f} | {stock_seconds / ours:.0f} |",
        flush=True,
    )


def main():
    ranks = [int(word) for word in sys.argv[1:]]
    print("| work | stock, CPU s | ckptlab, CPU s | stock / ckptlab |\n|---|---|---|---|")
    for n in ranks or (64, 256):
        save_row(n)
    for n in ranks or (64, 1024):
        load_row(n)


if __name__ == "__main__":
    main()
