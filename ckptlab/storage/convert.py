"""From any checkpoint that can be opened to a new one in any format, as a stream.

At no time is more of the elements in memory than a few blocks, and nothing half-written
becomes visible. It knows no torch and no rank.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ckptlab.errors import CheckpointError, PathError
from ckptlab.events import Phase, Progress, Trace, silent
from ckptlab.metadata import Keys, Tensor, meant, near
from ckptlab.storage.archive import Archive, reading_zip
from ckptlab.storage.checkpoint import open_checkpoint
from ckptlab.storage.convert_to import WRITERS, Job
from ckptlab.storage.opened import Checkpoint, Format
from ckptlab.storage.plain import FAITHFUL, pickled
from ckptlab.storage.safetensors import SUFFIX
from ckptlab.storage.safetensors_write import parse_size, unfit
from ckptlab.storage.target import TORCH_SUFFIXES, target_at
from ckptlab.storage.torch_file_write import object_archive
from ckptlab.storage.torch_save import restricted_load

_SHOWN = 5


@dataclass(frozen=True)
class Converted:
    """What a conversion wrote: tensors and objects, `nbytes` of elements, the files, seconds by phase.

    `dropped` are the keys of objects that the format cannot hold, left out because that was asked for.
    """

    path: str
    format: Format
    tensors: int
    objects: int
    dropped: tuple[str, ...]
    nbytes: int
    files: tuple[str, ...]
    seconds: Mapping[Phase, float]


def convert(
    source: str | os.PathLike[str] | Checkpoint,
    target: str | os.PathLike[str],
    *,
    format: Format | None = None,
    keys: Keys | None = None,
    objects: Literal["refuse", "drop"] = "refuse",
    max_shard_size: int | str = "5GB",
    overwrite: bool = False,
    sync: bool = True,
    progress: Progress = silent,
) -> Converted:
    """Write the checkpoint at `source` to `target` in another format, every tensor whole.

    `format` need not be given where the name of the target tells: `x.safetensors`, `x.pt`. A safetensors
    target of another name is a directory, whose parts hold at most `max_shard_size`. Objects that the
    format cannot hold are refused, or dropped if you say so. Paths may be URLs. The crc of every stored chunk
    is checked on the way; `sync` waits until the disk has it all.

    Raises `PathError` for a target that is the source, that is there already (unless `overwrite`), or that
    does not fit the format; `CheckpointError` for keys that are not there and for what the format cannot
    hold. Until the new checkpoint is whole, what was at `target` is as it was.
    """
    trace = Trace(0, progress)
    with trace.phase("metadata"):
        opened = source if isinstance(source, Checkpoint) else open_checkpoint(source)
        place = target_at(target, format or _by_name(target), opened, overwrite, sync, trace)
    with trace.phase("plan"):
        tensors, names = _chosen(opened, keys)
        _refuse_dtypes(opened, tensors, place.format)
        spelled, dropped = _objects(opened, names, place.format, objects)
        job = Job(opened, tensors, spelled, parse_size(max_shard_size))
    nbytes = sum(tensor.nbytes for tensor in tensors)
    try:
        place.make()
        with trace.phase("write", nbytes):
            written = WRITERS[place.format](job, place)
        with trace.phase("commit"):
            written.publish()
    except OSError as error:
        place.discard()
        raise CheckpointError(f"{place.path} cannot be written: {error}", [place.path]) from error
    except BaseException:
        place.discard()
        raise
    place.clear(written.names)
    return Converted(
        place.path, place.format, len(tensors), len(spelled), dropped, nbytes, written.names, trace.seconds
    )


def _by_name(target: str | os.PathLike[str]) -> Format:
    name = os.fspath(target)
    if name.endswith(SUFFIX):
        return "safetensors"
    if name.endswith(TORCH_SUFFIXES):
        return "torch"
    raise PathError(f'{name}: its name tells no format; give format="dcp" or format="safetensors"', [name])


def _chosen(checkpoint: Checkpoint, keys: Keys | None) -> tuple[tuple[Tensor, ...], list[str]]:
    """The tensors, and the names of the objects, that `keys` mean."""
    every = checkpoint.keys()
    chosen, missing = (list(every), []) if keys is None else meant(every, keys)
    if missing and not isinstance(keys, str | re.Pattern):
        missing = sorted(missing)
        words = [f"{key!r}{near(key, list(every))}" for key in missing[:_SHOWN]]
        raise CheckpointError(f"{checkpoint.path} has no {'; no '.join(words)}", missing)
    if not chosen:
        said = f" that are {keys!r}" if isinstance(keys, str) else ""
        raise CheckpointError(f"{checkpoint.path} has no keys{said}: there is nothing to convert", [keys])
    found = set(chosen)
    tensors = tuple(tensor for tensor in checkpoint.metadata.tensors if tensor.fqn in found)
    return tensors, [fqn for fqn in checkpoint.metadata.objects if fqn in found]


def _refuse_dtypes(checkpoint: Checkpoint, tensors: Sequence[Tensor], format: Format) -> None:
    wrong = unfit(tensors) if format == "safetensors" else []
    if wrong:
        words = [f"{tensor.fqn} ({tensor.dtype})" for tensor in wrong]
        raise CheckpointError(f"safetensors has no such dtype: {_some(words)}", [t.fqn for t in wrong])


def _objects(
    checkpoint: Checkpoint, names: Sequence[str], format: Format, how: Literal["refuse", "drop"]
) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """The objects as the format spells them, and those that it cannot hold."""
    spelled: dict[str, bytes] = {}
    wrong: dict[str, str] = {}
    for fqn in names:
        try:
            spelled[fqn] = _spelled(checkpoint, fqn, format)
        except CheckpointError as error:
            wrong[fqn] = str(error)
    if wrong and how == "refuse":
        if format == "safetensors":
            what = f"safetensors holds tensors only, and these are objects: {_some(list(wrong))}"
        else:
            what = f"cannot be written: {_some([f'{fqn}: {why}' for fqn, why in wrong.items()])}"
        raise CheckpointError(f'{checkpoint.path}: {what}; leave them out by objects="drop"', list(wrong))
    return spelled, tuple(wrong)


def _spelled(checkpoint: Checkpoint, fqn: str, format: Format) -> bytes:
    """One object: for DCP a `torch.save` archive of its own, for a `torch.save` file its opcodes."""
    if format == "safetensors":
        raise CheckpointError("an object", [fqn])
    if checkpoint.values is not None:
        value = checkpoint.values[fqn]
        return object_archive(value) if format == "dcp" else pickled(value)
    extent = checkpoint.metadata.objects[fqn]
    name = checkpoint.metadata.files[extent.file]
    data = checkpoint.files.read(name, extent.start, extent.length)
    if format == "dcp":
        return data
    where = f"at byte {extent.start} of {name}"
    with reading_zip(where):
        archive = Archive(lambda start, n: data[start : start + n], len(data))
        return pickled(restricted_load(archive.content("data.pkl"), FAITHFUL, where))


def _some(words: Sequence[str]) -> str:
    return f"{', '.join(words[:_SHOWN])}{f' and {len(words) - _SHOWN} more' if len(words) > _SHOWN else ''}"
