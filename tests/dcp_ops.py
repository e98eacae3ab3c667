"""A storage of somebody's own, and what ranks do in the tests of torch's names."""

import io

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as stock
from seed_ops import quiet
from torch.distributed.checkpoint.planner import LoadItemType, WriteItemType
from torch.distributed.checkpoint.storage import WriteResult
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.futures import Future

import ckptlab.dcp as dcp
from ckptlab.dcp.format_utils import BroadcastingTorchSaveReader, DynamicMetaLoadPlanner


class Memory(dict):
    """What is stored: bytes by index, and the metadata."""

    metadata = None


def done(value):
    future = Future()
    future.set_result(value)
    return future


class _InMemory:
    def __init__(self, memory):
        self.memory = memory

    def reset(self, checkpoint_id=None):
        pass

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id):
        return False

    def prepare_local_plan(self, plan):
        return plan

    def prepare_global_plan(self, plans):
        return plans


class MemoryWriter(_InMemory, dcp.StorageWriter):
    def set_up_storage_writer(self, is_coordinator):
        pass

    def write_data(self, plan, planner):
        results = []
        for item in plan.items:
            data = planner.resolve_data(item)
            if item.type is not WriteItemType.BYTE_IO:
                buffer = io.BytesIO()
                torch.save(data, buffer)
                data = buffer
            self.memory[item.index] = data.getvalue()
            results.append(WriteResult(item.index, len(data.getvalue()), None))
        return done(results)

    def finish(self, metadata, results):
        self.memory.metadata = metadata


class MemoryReader(_InMemory, dcp.StorageReader):
    def read_metadata(self):
        return self.memory.metadata

    def set_up_storage_reader(self, metadata, is_coordinator):
        pass

    def read_data(self, plan, planner):
        for item in plan.items:
            data = io.BytesIO(self.memory[item.storage_index])
            if item.type is LoadItemType.BYTE_IO:
                planner.load_bytes(item, data)
                continue
            whole = torch.load(data)
            for dim, (start, length) in enumerate(zip(item.storage_offsets, item.lengths, strict=True)):
                whole = whole.narrow(dim, start, length)
            target = planner.resolve_tensor(item)
            target.copy_(whole)
            planner.commit_tensor(item, target)
        return done(None)


def state_on(ctx, full=False):
    """A sharded tensor and a replicated one; the objects are plain."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    values = torch.arange(32.0).reshape(8, 4)
    with quiet():
        shards = distribute_tensor(values if full else torch.zeros(8, 4), mesh, [Shard(0)])
        copies = distribute_tensor(values + 1 if full else torch.zeros(8, 4), mesh, [Replicate()])
    return {"w": shards, "r": copies, "n": {"k": 5 if full else 0}}


def there_and_back(ctx, path, save, load):
    """Save with the arguments `save`, load with `load`; whether all came back, and the files of rank 0."""
    state, target = state_on(ctx, full=True), state_on(ctx)
    with quiet():
        _save(state, path, **save)
        _load(target, path, **load)
    metadata = None
    if save.get("use_collectives", True):
        metadata = stock.FileSystemReader(path).read_metadata()
    return {
        "equal": all(torch.equal(state[k].to_local(), target[k].to_local()) for k in "wr"),
        "plain": target["n"] == state["n"],
        "places": metadata and {i.fqn: p.relative_path for i, p in metadata.storage_data.items()},
    }


def _save(state, path, writer=None, planner=None, coordinator_rank=None, use_collectives=True):
    writer = dcp.FileSystemWriter(path, **(writer or {}))
    planner = dcp.DefaultSavePlanner(**planner) if planner is not None else None
    if coordinator_rank is not None:
        dcp.save_state_dict(state, writer, coordinator_rank=coordinator_rank, planner=planner)
    else:
        dcp.save(state, storage_writer=writer, planner=planner, use_collectives=use_collectives)


def _load(target, path, reader=None, planner=None, coordinator_rank=None):
    reader = dcp.FileSystemReader(path, **(reader or {}))
    planner = dcp.DefaultLoadPlanner(**planner) if planner is not None else None
    if coordinator_rank is not None:
        dcp.load_state_dict(target, reader, coordinator_rank=coordinator_rank, planner=planner)
    else:
        dcp.load(target, storage_reader=reader, planner=planner)


def broadcast_load(ctx, path):
    """Load a torch.save file that the first rank reads: whether all is right, or what was wrong."""
    target, right = state_on(ctx), state_on(ctx, full=True)
    del target["n"]
    try:
        dcp.load(
            target,
            storage_reader=BroadcastingTorchSaveReader(),
            planner=DynamicMetaLoadPlanner(),
            checkpoint_id=path,
        )
    except dcp.CheckpointException as error:
        return str(error)
    return all(torch.equal(target[k].to_local(), right[k].to_local()) for k in "wr")


def optimizer_load(ctx, path, foreign):
    """Save an optimizer's state and load it under the model's sharding: the first moment on this rank."""
    model = {"p": state_on(ctx, full=True)["w"]}
    moments = {
        "state": {"p": {"exp_avg": model["p"] * 3, "step": torch.tensor(7.0)}},
        "param_groups": [{"lr": 0.1}],
    }
    with quiet():
        dcp.save({"optim": moments, "model": model}, checkpoint_id=path)
        reader = (Untouched if foreign else dcp.FileSystemReader)(path)
        loaded = dcp.load_sharded_optimizer_state_dict(model, "optim", reader)["optim"]
    moment = loaded["state"]["p"]["exp_avg"]
    own = moment.to_local() if hasattr(moment, "to_local") else moment.local_shards()[0].tensor
    same = torch.equal(own, model["p"].to_local() * 3)
    return same, float(loaded["state"]["p"]["step"]), loaded["param_groups"]


class Untouched(dcp.FileSystemReader):
    """A reader of somebody's own."""

    def read_data(self, plan, planner):
        return super().read_data(plan, planner)


class Talks:
    """A state that all ranks load together."""

    def __init__(self, said):
        self.said = said

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        told = [None] * dist.get_world_size()
        dist.all_gather_object(told, self.said)
        self.heard = told


def load_in_any_order(ctx, path):
    """Load two such states, which the ranks hold in different order: what each heard."""
    names = "ab" if ctx.rank % 2 else "ba"
    state = {name: Talks(name) for name in names}
    before = dict(state)
    dcp.save(state, checkpoint_id=path)
    dcp.load(state, checkpoint_id=path)
    return {name: it.heard for name, it in state.items()}, all(state[n] is before[n] for n in names)
