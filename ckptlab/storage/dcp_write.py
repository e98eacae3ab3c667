"""The `.metadata` that stock torch would write, made without torch and without one object a chunk.

It knows only how stock's records are spelled in a pickle; what to save was decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

from ckptlab.metadata import Metadata, Tensor
from ckptlab.storage import opcodes

METADATA_MODULE = "torch.distributed.checkpoint.metadata"
PLACES_MODULE = "torch.distributed.checkpoint.filesystem"

_END = b"u" + opcodes.SET_STATE


def write_metadata(metadata: Metadata, checkpoint_id: str) -> bytes:
    """The `.metadata` that stock torch would write: the same objects once it is unpickled.

    Layouts are not in it; see `write_layouts`.
    """
    entries, storage = [], []
    shared = opcodes.Shared()
    record = _Recorder(shared)
    files = [shared(opcodes.text(name)) for name in metadata.files]
    for fqn, extent in metadata.objects.items():
        name = shared(opcodes.text(fqn))
        entries += [name, record.new("BytesStorageMetadata")]
        index = record("MetadataIndex", fqn=name, index=opcodes.NONE)
        storage += [index, record.place(files[extent.file], extent.start, extent.length)]
    chunks = metadata.chunks
    for row, tensor in enumerate(metadata.tensors):
        name, boxes, rows = shared(opcodes.text(tensor.fqn)), metadata.boxes(row), metadata.chunk_rows(row)
        offsets = [record.size(offset) for offset in boxes.offsets.tolist()]
        sizes = [record.size(shape) for shape in boxes.shapes.tolist()]
        entries += [name, record.tensor(tensor, offsets, sizes)]
        places = zip(
            chunks.file[rows].tolist(), chunks.start[rows].tolist(), chunks.length[rows].tolist(), strict=True
        )
        for i, (offset, (file, start, length)) in enumerate(zip(offsets, places, strict=True)):
            storage += [record.index(name, offset, i), record.place(files[file], start, length)]
    paths = []
    for fqn, path in metadata.paths.items():
        steps = [opcodes.integer(s) if isinstance(s, int) else shared(opcodes.text(s)) for s in path]
        paths += [shared(opcodes.text(fqn)), opcodes.tuple_of(steps)]
    body = record(
        "Metadata",
        state_dict_metadata=opcodes.dict_of(entries),
        planner_data=opcodes.dict_of(paths),
        storage_data=opcodes.dict_of(storage),
        storage_meta=record(
            "StorageMeta",
            checkpoint_id=opcodes.text(checkpoint_id),
            save_id=opcodes.text(metadata.save_id) if metadata.save_id is not None else opcodes.NONE,
            load_id=opcodes.NONE,
            modules=opcodes.EMPTY_LIST,
        ),
        version=opcodes.text("1.0.0"),
    )
    return opcodes.framed(shared.definitions + body + opcodes.STOP)


class _Recorder:
    """Opcodes that make stock torch's own records."""

    def __init__(self, shared: opcodes.Shared) -> None:
        self._shared = shared
        self._sizes: dict[tuple[int, ...], bytes] = {}
        self._properties: dict[str, bytes] = {}
        self._torch_size = shared(opcodes.named("torch", "Size"))
        place = self._head("_StorageInfo", PLACES_MODULE)
        key = self._key
        self._place = (place + key("relative_path"), key("offset"), key("length"))
        self._index = (self._head("MetadataIndex") + key("fqn"), key("index"), key("offset"))
        self._chunk = (self._head("ChunkStorageMetadata") + key("offsets"), key("sizes"))

    def __call__(self, kind: str, **state: bytes) -> bytes:
        """A record with this state."""
        return (
            self.new(kind) + opcodes.dict_of(self._key(k) + v for k, v in state.items()) + opcodes.SET_STATE
        )

    def new(self, kind: str, module: str = METADATA_MODULE) -> bytes:
        """A record without state."""
        return self._shared(opcodes.named(module, kind)) + opcodes.EMPTY_TUPLE + opcodes.NEW

    def size(self, dims: Sequence[int]) -> bytes:
        """A torch.Size."""
        known = self._sizes.get(key := tuple(dims))
        if known is None:
            made = opcodes.tuple_of([opcodes.tuple_of([opcodes.integer(n) for n in dims])])
            known = self._sizes[key] = self._shared(self._torch_size + made + opcodes.CALL)
        return known

    def tensor(self, tensor: Tensor, offsets: Sequence[bytes], sizes: Sequence[bytes]) -> bytes:
        """What is said of a tensor and its chunks."""
        head, then = self._chunk
        chunks = (head + o + then + s + _END for o, s in zip(offsets, sizes, strict=True))
        return self(
            "TensorStorageMetadata",
            properties=self._dtype(tensor.dtype),
            size=self.size(tensor.shape),
            chunks=opcodes.list_of(chunks),
        )

    def place(self, file: bytes, start: int, length: int) -> bytes:
        """Where a chunk lies."""
        head, offset, size = self._place
        return head + file + offset + opcodes.integer(start) + size + opcodes.integer(length) + _END

    def index(self, fqn: bytes, offset: bytes, number: int) -> bytes:
        """Which chunk of a tensor."""
        head, index, at = self._index
        return head + fqn + index + opcodes.integer(number) + at + offset + _END

    def _dtype(self, dtype: str) -> bytes:
        if dtype not in self._properties:
            strided = opcodes.tuple_of([opcodes.text("torch.strided")])
            contiguous = opcodes.tuple_of([opcodes.integer(0)])
            layout = opcodes.named("torch.serialization", "_get_layout") + strided
            memory = opcodes.named(METADATA_MODULE, "_MEM_FORMAT_ENCODING") + contiguous
            state = [
                opcodes.named("torch", dtype),
                self._shared(layout + opcodes.CALL),
                opcodes.FALSE,
                self._shared(memory + opcodes.CALL),
                opcodes.FALSE,
            ]
            made = self.new("TensorProperties") + opcodes.tuple_of(state) + opcodes.SET_STATE
            self._properties[dtype] = self._shared(made)
        return self._properties[dtype]

    def _head(self, kind: str, module: str = METADATA_MODULE) -> bytes:
        return self.new(kind, module) + b"}("

    def _key(self, name: str) -> bytes:
        return self._shared(opcodes.text(name))
