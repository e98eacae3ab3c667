"""The `.metadata` that stock torch would write, made without torch and without one object a chunk.

It knows only how stock's records are spelled in a pickle; what to save was decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np

from ckptlab.layout import Boxes
from ckptlab.layout.box import Ints
from ckptlab.metadata import Metadata, Tensor, grouped
from ckptlab.storage import opcodes

METADATA_MODULE = "torch.distributed.checkpoint.metadata"
PLACES_MODULE = "torch.distributed.checkpoint.filesystem"

_END = b"u" + opcodes.SET_STATE

Part = bytes | memoryview


def write_metadata(metadata: Metadata, checkpoint_id: str) -> bytes:
    """The `.metadata` that stock torch would write: the same objects once it is unpickled.

    Layouts are not in it; see `write_sidecar`.
    """
    entries: list[Part] = []
    storage: list[Part] = []
    shared = opcodes.Shared()
    record = _Recorder(shared)
    for fqn, extent in metadata.objects.items():
        name = shared(opcodes.text(fqn))
        entries += [name, record.new("BytesStorageMetadata")]
        index = record("MetadataIndex", fqn=name, index=opcodes.NONE)
        file = shared(opcodes.text(metadata.files[extent.file]))
        storage += [index, record.place(file, extent.start, extent.length)]
    fqns = metadata.tensors.names
    numbers = shared.several(opcodes.texts(fqns))
    names = dict(zip(fqns, opcodes.fetches(numbers), strict=True))
    chunks, made = metadata.chunks, [b""] * len(fqns)
    offsets = np.empty(len(chunks), np.int64)
    kinds = metadata.tensors.kinds.tolist()
    alike = zip(kinds, chunks.corner.tolist(), np.diff(chunks.first).tolist(), strict=True)
    for rows in grouped(alike):
        # Of tensors of one dtype and shape that are cut alike the same is said.
        said, fetched = record.tensor(metadata.tensors[rows[0]], metadata.boxes(int(rows[0])))
        offsets[chunks.first[rows][:, None] + np.arange(len(fetched))] = fetched
        for row in rows.tolist():
            made[row] = said
    entries += chain.from_iterable(zip(names.values(), made, strict=True))
    storage.append(record.places(metadata, numbers, offsets))
    paths: list[Part] = []
    for fqn, path in metadata.paths.items():
        name = names.get(fqn) or shared(opcodes.text(fqn))
        if path == (fqn,):
            paths += name, name, opcodes.ONE_TUPLE
            continue
        steps = [opcodes.integer(s) if isinstance(s, int) else shared(opcodes.text(s)) for s in path]
        paths += [name, opcodes.tuple_of(steps)]
    storage_meta = record(
        "StorageMeta",
        checkpoint_id=opcodes.text(checkpoint_id),
        save_id=opcodes.text(metadata.save_id) if metadata.save_id is not None else opcodes.NONE,
        load_id=opcodes.NONE,
        modules=opcodes.EMPTY_LIST,
    )
    # The large parts are put together once, at the very end.
    body = record.parts(
        "Metadata",
        state_dict_metadata=[b"}(", *entries, b"u"],
        planner_data=[b"}(", *paths, b"u"],
        storage_data=[b"}(", *storage, b"u"],
        storage_meta=[storage_meta],
        version=[opcodes.text("1.0.0")],
    )
    return opcodes.framed([shared.definitions, *body, opcodes.STOP])


class _Recorder:
    """Opcodes that make stock torch's own records."""

    def __init__(self, shared: opcodes.Shared) -> None:
        self._shared = shared
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

    def parts(self, kind: str, **state: Sequence[Part]) -> list[Part]:
        """The same, in parts that need only be joined."""
        parts: list[Part] = [self.new(kind), b"}("]
        for key, value in state.items():
            parts += [self._key(key), *value]
        return [*parts, _END]

    def new(self, kind: str, module: str = METADATA_MODULE) -> bytes:
        """A record without state."""
        return self._shared(opcodes.named(module, kind)) + opcodes.EMPTY_TUPLE + opcodes.NEW

    def size(self, dims: Sequence[int]) -> bytes:
        """A torch.Size."""
        return self._shared(self._size(dims))

    def _size(self, dims: Sequence[int]) -> bytes:
        made = opcodes.tuple_of([opcodes.tuple_of([opcodes.integer(n) for n in dims])])
        return self._torch_size + made + opcodes.CALL

    def tensor(self, tensor: Tensor, boxes: Boxes) -> tuple[bytes, Ints]:
        """What is said of a tensor and its chunks; and by which number the offset of each is fetched."""
        head, then = self._chunk
        offsets, shapes = boxes.offsets.tolist(), boxes.shapes.tolist()
        each = zip(offsets, shapes, strict=True)
        made = self(
            "TensorStorageMetadata",
            properties=self._dtype(tensor.dtype),
            size=self.size(tensor.shape),
            chunks=opcodes.list_of(head + self.size(o) + then + self.size(s) + _END for o, s in each),
        )
        return made, np.array([self._shared.number(self._size(o)) for o in offsets], np.int64)

    def places(self, metadata: Metadata, names: Ints, offsets: Ints) -> Part:
        """Which chunk lies where: an index and a place for each, by turns; names and offsets by number."""
        chunks = metadata.chunks
        files = np.array([self._shared.number(opcodes.text(name)) for name in metadata.files], np.int64)
        count = np.diff(chunks.first)
        rows = opcodes.Rows(len(chunks))
        fqn, index, offset = self._index
        file, start, length = self._place
        rows.same(fqn)
        rows.fetch(np.repeat(names, count))
        rows.same(index)
        rows.integer(np.arange(len(chunks)) - np.repeat(chunks.first[:-1], count))
        rows.same(offset)
        rows.fetch(offsets)
        rows.same(_END + file)
        rows.fetch(files[chunks.file])
        rows.same(start)
        rows.integer(chunks.start)
        rows.same(length)
        rows.integer(chunks.length)
        rows.same(_END)
        return rows.opcodes()

    def place(self, file: bytes, start: int, length: int) -> bytes:
        """Where a chunk lies."""
        head, offset, size = self._place
        return head + file + offset + opcodes.integer(start) + size + opcodes.integer(length) + _END

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
