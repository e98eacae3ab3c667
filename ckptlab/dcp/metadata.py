"""The records of `torch.distributed.checkpoint.metadata`, made from ckptlab's columns.

For code that asks a stock reader what a checkpoint holds. It reads no file itself.
"""

from __future__ import annotations

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    STATE_DICT_TYPE,
    STORAGE_TYPES,
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

from ckptlab.metadata import Metadata as Columns

__all__ = [
    "STATE_DICT_TYPE",
    "BytesStorageMetadata",
    "ChunkStorageMetadata",
    "Metadata",
    "MetadataIndex",
    "StorageMeta",
    "TensorProperties",
    "TensorStorageMetadata",
    "stock_metadata",
]


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
