"""Saves and loads to compare, as one rank runs them: stock DCP, ckptlab, the floor and the limit.

The limit moves the same bytes between the same memory and files with the fewest calls: for a save
`fallocate`, `pwritev` and, if asked, `fsync`; for a load `preadv` into the target where the wanted
bytes are one run, else a copy out of a mapped file.

The floor is the limit and what nobody can leave out who promises what ckptlab does: the crc of each
chunk that is written or read whole, while it is in the cache; of replicas that are compared, also that
of what others write; the record, as bytes that are ready; and as often as ckptlab an agreement of all
ranks. It asks no tensor, makes no plan, finds no chunk, wraps nothing and reads no index.
"""

import mmap
import os
import shutil
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as stock_dcp
from isal import isal_zlib

from ckptlab import engine
from ckptlab.engine.made import blank, device_mesh
from ckptlab.layout import Layout
from ckptlab.plan.holding import Holding, fitted
from ckptlab.plan.load import plan_load
from ckptlab.storage import open_checkpoint
from ckptlab.storage.torch_save import locate

_BLOCK = 1 << 20
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def state_on(tensors, layout, fill):
    """The tensors as DTensors under a layout, each element of another value if `fill`."""
    mesh = device_mesh(layout.mesh, "cpu") if dist.is_initialized() and layout.mesh.size > 1 else None
    state = {}
    rank = dist.get_rank() if mesh else 0
    for tensor in tensors:
        if mesh is None:
            made = torch.zeros(tensor.shape, dtype=getattr(torch, tensor.dtype))
        else:
            made = blank(tensor, fitted(layout, tensor.shape), mesh, "cpu")
        if fill:
            # Replicas are the same; other shards are not.
            torch.manual_seed(sum(fitted(layout, tensor.shape).first_offset(tensor.shape, rank)))
            local = made.to_local() if mesh else made
            local.view(-1).view(torch.uint8).random_(0, 255)
        # As in what a module tells of itself, those that are cut alike then share their spec.
        state[tensor.fqn] = made.detach()
    return state


def stock_save(path, sync):
    def run(state):
        writer = stock_dcp.FileSystemWriter(path, sync_files=sync, overwrite=True)
        stock_dcp.save(state, storage_writer=writer, no_dist=_alone())

    return run


def our_save(path, sync, replicas="check"):
    return lambda state: engine.save(state, path, sync=sync, replicas=replicas)


def stock_load(path):
    return lambda state: stock_dcp.load(state, checkpoint_id=path, no_dist=_alone())


def our_load(path):
    return lambda state: engine.load(state, path)


def save_limit(state, like, path, sync):
    """The bytes that this rank wrote to the checkpoint `like`, from its own memory, without wrapping."""
    pieces, _ = _written(state, like)
    return lambda _: _write_all(pieces, path, "limit", sync)


def save_floor(state, like, path, sync, replicas="check"):
    """The same, with crcs, the record and agreements."""
    pieces, others = _written(state, like)
    compared = others if replicas == "check" else []
    record = Path(like, ".metadata").read_bytes()

    def run(_):
        _agree()
        _write_all(pieces, path, "floor", sync, check=True)
        for piece in compared:
            for block in _blocks(piece):
                isal_zlib.crc32(block)
        _agree()
        if dist.get_rank() == 0:
            file = os.open(Path(path, "record.tmp"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.write(file, record)
            if sync:
                os.fsync(file)
            os.close(file)
            os.replace(Path(path, "record.tmp"), Path(path, "record"))
        _agree()

    return run


def _written(state, like):
    """What this rank wrote to a checkpoint, piece by piece as bytes, and what others wrote of what it has."""
    saved = open_checkpoint(like).metadata
    rank = dist.get_rank()
    mine, others = [], []
    for row, tensor in enumerate(saved.tensors):
        boxes, writers = saved.boxes(row), saved.chunk_writers(row)
        held = _held(tensor.fqn, state[tensor.fqn])
        for i, writer in enumerate(writers.tolist()):
            if writer == rank:
                mine.append(_bytes(held.piece_of(boxes[i])))
            elif boxes[i] in held.cut.mine.boxes:
                others.append(_bytes(held.piece_of(boxes[i])))
    return mine, others


def _write_all(pieces, path, name, sync, check=False):
    """Write pieces into one file, with the fewest calls; or about a MiB at a time, each after its crcs."""
    total = sum(p.nbytes for p in pieces)
    if not total:
        return
    file = os.open(Path(path, f"{name}-{dist.get_rank()}"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.posix_fallocate(file, 0, total)
    at = 0
    for batch in _batches(pieces) if check else (pieces[i : i + 1000] for i in range(0, len(pieces), 1000)):
        if check:
            for block in batch:
                isal_zlib.crc32(block)
        at += _write(file, batch, at)
    if sync:
        os.fsync(file)
    os.close(file)


def _batches(pieces):
    """Blocks of pieces that are written together: about a MiB, of small ones many."""
    batch, size = [], 0
    for block in (block for piece in pieces for block in _blocks(piece)):
        batch.append(block)
        size += len(block)
        if size >= _BLOCK or len(batch) == 1000:
            yield batch
            batch, size = [], 0
    yield batch


def _blocks(piece):
    return (piece[at : at + _BLOCK] for at in range(0, len(piece), _BLOCK))


def _agree():
    """Every rank learns of every rank that it is well."""
    every = torch.empty((dist.get_world_size(), 1024), dtype=torch.uint8)
    dist.gather(torch.zeros(1024, dtype=torch.uint8), list(every) if dist.get_rank() == 0 else None)
    dist.broadcast(every, 0)


def _held(fqn, value):
    return engine.held.hold({fqn: value}, dist.get_rank(), range(dist.get_world_size()))[fqn]


def _write(file, batch, at):
    done = 0
    rest = list(batch)
    while rest:
        wrote = os.pwritev(file, rest, at + done)
        done += wrote
        while rest and wrote >= rest[0].nbytes:
            wrote -= rest.pop(0).nbytes
        if wrote:
            rest[0] = rest[0][wrote:]
    return done


def load_limit(state, path):
    """The bytes that this rank wants of a checkpoint, found beforehand, read into its own memory."""
    runs, boxes = _wanted(state, path)
    names = sorted({name for name, *_ in runs + boxes})

    def run(_):
        files = {name: os.open(Path(path, name), os.O_RDONLY) for name in names}
        for name, at, into, _ in runs:
            done = 0
            while done < into.nbytes:
                done += os.preadv(files[name], [into[done:]], at + done)
        _copy_boxes(files, boxes)

    return run


def load_floor(state, path):
    """The same, with the record's bytes, crcs and agreements."""
    runs, boxes = _wanted(state, path)
    names = sorted({name for name, *_ in runs + boxes})

    def run(_):
        Path(path, ".metadata").read_bytes()
        _agree()
        files = {name: os.open(Path(path, name), os.O_RDONLY) for name in names}
        for name, at, into, whole in runs:
            done = 0
            for block in _blocks(into):
                done += os.preadv(files[name], [block], at + done)
                if whole:
                    isal_zlib.crc32(block)
        _copy_boxes(files, boxes)
        _agree()

    return run


def _wanted(state, path):
    """What this rank wants of a checkpoint: runs of bytes, and boxes that are none."""
    checkpoint = open_checkpoint(path)
    saved = checkpoint.metadata
    runs, boxes = [], []
    for fqn, value in state.items():
        held = _held(fqn, value)
        row = saved.rows[fqn]
        tensor, chunks = saved.tensors[row], saved.boxes(row)
        reads = plan_load(saved, [Holding(tensor, held.cut.mine)]).reads[0]
        for i, chunk in enumerate(reads.chunks[0].tolist()):
            name, base = saved.files[saved.chunks.file[chunk]], int(saved.chunks.start[chunk])
            shape = chunks[chunk - int(saved.chunks.first[row])].shape
            payload = locate(
                lambda at, n, name=name, base=base: checkpoint.files.read(name, base + at, n),
                int(saved.chunks.length[chunk]), tensor.dtype, shape, fqn,
            )  # fmt: skip
            target = held.piece(int(reads.want[i]), reads.target_box(i))
            source = reads.source_box(i)
            whole_rows = source.shape[1:] == shape[1:] and target.is_contiguous()
            if whole_rows:
                at = base + payload.start + source.offset[0] * payload.strides[0] * target.element_size()
                runs.append((name, at, _bytes(target), source.shape == shape))
            else:
                boxes.append((name, base + payload.start, shape, source.slices, target))
    return runs, boxes


def _copy_boxes(files, boxes):
    """Copy boxes out of mapped files, and close all files."""
    views = {}
    for name, at, shape, slices, target in boxes:
        if name not in views:
            views[name] = mmap.mmap(files[name], 0, prot=mmap.PROT_READ)
        into = target.view(_BITS[target.element_size()]).numpy()
        np.copyto(into, np.ndarray(shape, into.dtype, views[name], at)[slices])
    for file in files.values():
        os.close(file)


def layout_of(words):
    """`mesh:placements`, as `2x2:Shard(0), Shard(1)`."""
    mesh, _, placements = words.partition(":")
    return Layout.parse(mesh, placements)


def emptied(path):
    """An empty directory, made by rank 0."""
    if dist.get_rank() == 0:
        shutil.rmtree(path, ignore_errors=True)
        Path(path).mkdir(parents=True)
    dist.barrier()


def _alone():
    return dist.get_world_size() == 1


def _bytes(tensor):
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().data.cast("B")
