"""What a stock `.metadata` names, each thing by a stand-in that keeps its state and does nothing.

It knows names alone, of all versions of torch that wrote such files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ckptlab.storage.dcp_write import METADATA_MODULE, PLACES_MODULE
from ckptlab.storage.torch_save import DTYPES, Called, StandIn


class TopEntry(StandIn):
    """Metadata: all of it."""

    state_dict_metadata: object = None
    planner_data: object = None
    storage_data: object = None
    storage_meta: object = None


class TensorEntry(StandIn):
    """TensorStorageMetadata."""

    properties: object = None
    size: object = None
    chunks: object = None


class BytesEntry(StandIn):
    """BytesStorageMetadata: an object."""


class PropertiesEntry(StandIn):
    """TensorProperties."""

    state: object = None

    def __setstate__(self, state: object) -> None:
        self.__dict__["state"] = state


class ChunkEntry(StandIn):
    """ChunkStorageMetadata: a box."""

    offsets: Sequence[int] = ()
    sizes: Sequence[int] = ()


class IndexEntry(StandIn):
    """MetadataIndex: which chunk."""

    fqn: str = ""
    offset: Sequence[int] | None = None
    index: object = None


class PlaceEntry(StandIn):
    """_StorageInfo: where it lies."""

    relative_path: str = ""
    offset: int = -1
    length: int = -1
    transform_descriptors: object = None


class MetaEntry(StandIn):
    """StorageMeta."""

    save_id: object = None


class Ignored(Called):
    """What is of no use here."""


_SHARDED = "torch.distributed._shard.sharded_tensor.metadata"

STOCK: Mapping[tuple[str, str], object] = {
    **DTYPES,
    ("torch", "Size"): tuple,
    ("collections", "OrderedDict"): dict,
    (METADATA_MODULE, "Metadata"): TopEntry,
    (METADATA_MODULE, "TensorStorageMetadata"): TensorEntry,
    (METADATA_MODULE, "BytesStorageMetadata"): BytesEntry,
    (METADATA_MODULE, "ChunkStorageMetadata"): ChunkEntry,
    (METADATA_MODULE, "MetadataIndex"): IndexEntry,
    (METADATA_MODULE, "StorageMeta"): MetaEntry,
    (METADATA_MODULE, "TensorProperties"): PropertiesEntry,
    (METADATA_MODULE, "_MEM_FORMAT_ENCODING"): Ignored,
    (_SHARDED, "TensorProperties"): PropertiesEntry,
    (_SHARDED, "MEM_FORMAT_ENCODING"): Ignored,
    (PLACES_MODULE, "_StorageInfo"): PlaceEntry,
    ("torch.serialization", "_get_layout"): Ignored,
    **{
        (module, kind): Ignored
        for module in ("pathlib", "pathlib._local")
        for kind in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
    },
}  # fmt: skip
"""All that a `.metadata` may name, for an allow-list."""
