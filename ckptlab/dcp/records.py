"""The records of `torch.distributed.checkpoint.metadata`, without running a checkpoint's code.

Torch's reader unpickles `.metadata`, whatever it asks for; here it is read through an
allow-list, and only then turned into torch's records. It opens no file itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    STORAGE_TYPES,
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

from ckptlab.errors import CheckpointError, CorruptError
from ckptlab.metadata import Metadata as Columns
from ckptlab.storage.torch_save import Called, StandIn, restricted_load


def read_records(data: bytes, where: str) -> Metadata:
    """The record that a `.metadata` holds; `where` names it.

    `UnsafeError` if it asks for a name that no such file needs and that was not allowed by
    `torch.serialization.add_safe_globals`, `CorruptError` if it is damaged.
    """
    users = {(kind.__module__, kind.__qualname__): kind for kind in _safe_classes()}
    found = restricted_load(data, {**users, **_ALLOWED}, where)
    try:
        real = _real(found)
    except CheckpointError:
        raise
    except Exception as error:
        raise CorruptError(f"{where}: damaged, a value is not what it must be: {error}") from error
    if not isinstance(real, Metadata):
        raise CorruptError(f"{where}: holds a {type(real).__name__}, not what a checkpoint says of itself")
    return real


def _safe_classes() -> list[type]:
    allowed = torch.serialization.get_safe_globals()
    return [
        it for it in (one[0] if isinstance(one, tuple) else one for one in allowed) if isinstance(it, type)
    ]


class _Metadata(StandIn):
    pass


class _Tensor(StandIn):
    pass


class _Bytes(StandIn):
    pass


class _Properties(StandIn):
    def __setstate__(self, state: object) -> None:
        self.__dict__["state"] = state


class _Chunk(StandIn):
    pass


class _Index(StandIn):
    pass


class _Place(StandIn):
    pass


class _Meta(StandIn):
    pass


class _Path(Called):
    pass


class _Named(Called):
    pass


_META = "torch.distributed.checkpoint.metadata"
_SHARDED = "torch.distributed._shard.sharded_tensor.metadata"
_ALLOWED: Mapping[tuple[str, str], object] = {
    **{("torch", name): it for name, it in vars(torch).items() if isinstance(it, torch.dtype)},
    ("torch", "Size"): tuple,
    ("collections", "OrderedDict"): dict,
    ("torch.serialization", "_get_layout"): _Named,
    (_META, "Metadata"): _Metadata,
    (_META, "TensorStorageMetadata"): _Tensor,
    (_META, "BytesStorageMetadata"): _Bytes,
    (_META, "ChunkStorageMetadata"): _Chunk,
    (_META, "MetadataIndex"): _Index,
    (_META, "StorageMeta"): _Meta,
    (_META, "TensorProperties"): _Properties,
    (_META, "_MEM_FORMAT_ENCODING"): _Named,
    (_SHARDED, "TensorProperties"): _Properties,
    (_SHARDED, "MEM_FORMAT_ENCODING"): _Named,
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"): _Place,
    **{
        (module, kind): _Path
        for module in ("pathlib", "pathlib._local")
        for kind in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
    },
}


def _real(value: Any) -> Any:
    """Torch's own record for each stand-in, in dicts, lists and tuples of any depth."""
    kind = type(value)
    if kind in _MAKE:
        return _MAKE[kind](value)
    if kind is dict:
        return {_real(key): _real(inner) for key, inner in value.items()}
    if kind in (list, tuple, set):
        return kind(map(_real, value))
    return value


def _state(value: Any) -> dict[str, Any]:
    return {name: _real(inner) for name, inner in vars(value).items()}


def _properties(value: Any) -> TensorProperties:
    dtype, layout, requires_grad, memory_format, pin_memory = value.state
    made = TensorProperties(dtype, requires_grad=requires_grad, pin_memory=pin_memory)
    # Pickled by name, or by the number of an enumeration.
    made.layout = _LAYOUTS[layout.args[0]]
    made.memory_format = _FORMATS[memory_format.args[0]]
    return made


def _sized(record: type) -> Callable[[Any], Any]:
    def make(value: Any) -> Any:
        return record(
            **{name: torch.Size(it) if isinstance(it, tuple) else it for name, it in _state(value).items()}
        )

    return make


_LAYOUTS = {str(it): it for it in vars(torch).values() if isinstance(it, torch.layout)}
_FORMATS = {0: torch.contiguous_format, 1: torch.channels_last, 2: torch.preserve_format}
_MAKE: Mapping[type, Callable[[Any], Any]] = {
    _Metadata: lambda it: Metadata(**_state(it)),
    _Tensor: _sized(TensorStorageMetadata),
    _Bytes: lambda it: BytesStorageMetadata(),
    _Properties: _properties,
    _Chunk: _sized(ChunkStorageMetadata),
    _Index: _sized(MetadataIndex),
    _Place: lambda it: _StorageInfo(**_state(it)),
    _Meta: lambda it: StorageMeta(**_state(it)),
    _Path: lambda it: Path(*map(str, it.args)),
}


def stock_metadata(columns: Columns, path: str) -> Metadata:
    """The same as stock objects: one `ChunkStorageMetadata` a chunk, so not for millions of them."""
    entries: dict[str, STORAGE_TYPES] = {}
    places: dict[MetadataIndex, _StorageInfo] = {}
    for row, tensor in enumerate(columns.tensors):
        boxes, rows = columns.boxes(row), columns.chunk_rows(row)
        chunks = [
            ChunkStorageMetadata(torch.Size(b.offset), torch.Size(b.shape))
            for b in map(boxes.__getitem__, range(len(boxes)))
        ]
        properties = TensorProperties(dtype=getattr(torch, tensor.dtype))
        entries[tensor.fqn] = TensorStorageMetadata(properties, torch.Size(tensor.shape), chunks)
        for i, chunk in enumerate(range(rows.start, rows.stop)):
            places[MetadataIndex(tensor.fqn, chunks[i].offsets, i)] = _StorageInfo(
                columns.files[columns.chunks.file[chunk]],
                int(columns.chunks.start[chunk]),
                int(columns.chunks.length[chunk]),
            )
    for fqn, extent in columns.objects.items():
        entries[fqn] = BytesStorageMetadata()
        places[MetadataIndex(fqn)] = _StorageInfo(columns.files[extent.file], extent.start, extent.length)
    meta = StorageMeta(checkpoint_id=path, save_id=columns.save_id)
    return Metadata(entries, dict(columns.paths), places, meta, "1.0.0")


class _Later(Metadata):  # noqa: PLW1641
    """A `Metadata` that is made of columns when it is first asked for something, and then is a plain one."""

    def __init__(self, columns: Columns, path: str) -> None:
        self.__dict__["columns"] = columns, path

    def __getattribute__(self, name: str) -> Any:
        if name in _FIELDS:
            self._make()
        return object.__getattribute__(self, name)

    def __eq__(self, other: object) -> bool:
        self._make()
        return self == other

    def __repr__(self) -> str:
        self._make()
        return repr(self)

    def __reduce_ex__(self, protocol: Any) -> Any:
        self._make()
        return self.__reduce_ex__(protocol)

    def _make(self) -> None:
        known = object.__getattribute__(self, "__dict__")
        known.update(vars(stock_metadata(*known.pop("columns"))))
        object.__setattr__(self, "__class__", Metadata)


_FIELDS = frozenset(it.name for it in fields(Metadata))


def later(columns: Columns, path: str) -> Metadata:
    """As `stock_metadata`, but made only when it is looked at: it may be of millions of chunks."""
    return _Later(columns, path)
