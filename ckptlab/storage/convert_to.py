"""One checkpoint written in each of the formats, as streams.

Each writer leaves files that nobody takes for a checkpoint, and hands back how to make them one.
It knows no path and no pickle.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ckptlab.layout import Box, Boxes
from ckptlab.metadata import ChunkColumns, Extent, Metadata, Tensor, Tensors
from ckptlab.storage.dcp import METADATA_FILE, data_file
from ckptlab.storage.dcp_write import write_metadata
from ckptlab.storage.opened import Checkpoint, Format
from ckptlab.storage.safetensors import INDEX_FILE
from ckptlab.storage.safetensors_write import part_names, split, write_header, write_index
from ckptlab.storage.target import Target, temporary
from ckptlab.storage.template import template
from ckptlab.storage.torch_file_write import tensor_code, tree_code, write_torch_file


@dataclass(frozen=True)
class Job:
    """What is written: tensors of a source, and objects spelled as the target's format spells them.

    `most` are the bytes of a safetensors part.
    """

    source: Checkpoint
    tensors: tuple[Tensor, ...]
    objects: Mapping[str, bytes]
    most: int

    def path_of(self, fqn: str) -> tuple[str | int, ...]:
        """Where a value belongs in the nested state_dict."""
        return self.source.metadata.paths.get(fqn, (fqn,))


@dataclass(frozen=True)
class Written:
    """The files of a checkpoint that becomes one by `publish`."""

    names: tuple[str, ...]
    publish: Callable[[], None]


def to_safetensors(job: Job, target: Target) -> Written:
    """One file, or parts and an index that makes them a checkpoint."""
    notes = {"format": "pt", **job.source.notes}
    parts = [list(job.tensors)] if target.name else split(job.tensors, job.most)
    names = [target.name] if target.name else part_names(len(parts), target.generation)
    begun = [temporary(name) for name in names]
    for name, tensors in zip(begun, parts, strict=True):
        header, ordered = write_header(tensors, notes)
        with target.file(name, len(header) + sum(tensor.nbytes for tensor in tensors)) as out:
            out.put(header)
            for tensor in ordered:
                out.put_tensor(job.source, tensor.fqn)

    def publish() -> None:
        for before, after in zip(begun, names, strict=True):
            target.rename(before, after)
        if len(names) > 1:
            index = write_index(dict(zip(names, parts, strict=True)))
            target.files.publish(INDEX_FILE, index, target.sync)

    return Written((*names, *([INDEX_FILE] if len(names) > 1 else [])), publish)


def to_torch(job: Job, target: Target) -> Written:
    """One file that holds the nested state_dict."""
    assert target.name is not None
    tensors = {str(number): tensor for number, tensor in enumerate(job.tensors)}
    leaves = {tensor.fqn: tensor_code(tensor, number) for number, tensor in tensors.items()}
    leaves.update(job.objects)
    order = {fqn: i for i, fqn in enumerate(job.source.metadata.paths)}
    fqns = sorted(leaves, key=lambda fqn: order.get(fqn, len(order)))
    code = tree_code({job.path_of(fqn): leaves[fqn] for fqn in fqns})
    name, begun = target.name, temporary(target.name)
    with target.file(begun) as out:
        write_torch_file(code, tensors, out.put, lambda fqn: out.put_tensor(job.source, fqn))
    return Written((name,), lambda: target.rename(begun, name))


def to_dcp(job: Job, target: Target) -> Written:
    """One data file, of which each tensor is one chunk."""
    name = data_file(0, 0, target.generation)
    frames = [template(tensor.dtype, tensor.shape) for tensor in job.tensors]
    columns = ChunkColumns()
    objects = {}
    size = sum(frame.length for frame in frames) + sum(map(len, job.objects.values()))
    with target.file(name, size) as out:
        for tensor, frame in zip(job.tensors, frames, strict=True):
            box = Box((0,) * len(tensor.shape), tensor.shape)
            columns.add(Boxes.of([box]), [0], [out.at], [frame.length])
            out.put(frame.before)
            out.put(frame.after(out.put_tensor(job.source, tensor.fqn)))
        for fqn, archive in job.objects.items():
            objects[fqn] = Extent(0, out.at, len(archive))
            out.put(archive)
    fqns = [*(tensor.fqn for tensor in job.tensors), *job.objects]
    metadata = Metadata(
        Tensors.of(job.tensors),
        columns.build(),
        (name,),
        (0,),
        objects,
        {fqn: job.path_of(fqn) for fqn in fqns},
        save_id=str(uuid.uuid4()),
    )
    data = write_metadata(metadata, target.files.root)
    return Written((name, METADATA_FILE), lambda: target.files.publish(METADATA_FILE, data, target.sync))


WRITERS: Mapping[Format, Callable[[Job, Target], Written]] = {
    "dcp": to_dcp,
    "safetensors": to_safetensors,
    "torch": to_torch,
}
