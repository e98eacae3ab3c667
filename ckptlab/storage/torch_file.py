"""A `torch.save` file with a whole (nested) state_dict in it: where each tensor's elements lie.

Only its pickle is read, through an allow-list; the elements stay in the file. Writing one is in
`torch_file_write`. It knows no torch, no rank of this process and no plan.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache

from ckptlab.errors import CheckpointError, CorruptError
from ckptlab.layout import Box, Boxes
from ckptlab.metadata import ITEMSIZE, ChunkColumns, Extent, Metadata, Tensor, Tensors
from ckptlab.storage.archive import Archive, reading_zip
from ckptlab.storage.crc import crc32
from ckptlab.storage.files import Files
from ckptlab.storage.opened import Checkpoint
from ckptlab.storage.plain import FAITHFUL, Dtype, Kept
from ckptlab.storage.torch_save import (
    TENSOR,
    Called,
    Parameter,
    Payload,
    Rebuild2,
    Rebuild3,
    StandIn,
    gc_paused,
    restricted_load,
    tensor_payload,
)
from ckptlab.storage.where import is_url

Path = tuple[str | int, ...]

ZIP = b"PK\x03\x04"
LEGACY = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""What stands behind the protocol in the first pickle of a file that torch wrote before 1.6."""

_MAX = 2**63 - 1
_HEADER = 30
_AT_ONCE = 16
_TIMES = 64
"""Values may be shared within a pickle, but not so that they are this many times longer than it."""


class _Storage(tuple[object, ...], StandIn):
    """A reference to a storage, as its pickle spells it: ("storage", dtype, record, device, elements)."""


class _FromType(Called):
    """torch._tensor._rebuild_from_type_v2: a tensor of a subclass, or with attributes."""


_ALLOWED: Mapping[tuple[str, str], object] = {
    **TENSOR,
    **FAITHFUL,
    ("torch._utils", "_rebuild_parameter_with_state"): Parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _FromType,
    ("torch", "Tensor"): "torch.Tensor",
    ("torch.nn.parameter", "Parameter"): "torch.nn.Parameter",
    ("torch.nn.parameter", "Buffer"): "torch.nn.Buffer",
}
_MADE = (Rebuild2, Rebuild3, Parameter, _FromType)
_LEAVES = frozenset((*_MADE, type(None), bool, int, float, str, bytes, complex, Dtype))


class _Reader:
    """Reads of one file; it remembers the headers of records, which tensors of one storage ask for each."""

    def __init__(self, files: Files, name: str) -> None:
        self._files, self._name = files, name
        self._headers: dict[int, bytes] = {}

    def __call__(self, start: int, n: int) -> bytes:
        if n != _HEADER:
            return self._files.read(self._name, start, n)
        if start not in self._headers:
            self._headers[start] = self._files.read(self._name, start, n)
        return self._headers[start]

    def fetch_headers(self, starts: Sequence[int]) -> None:
        """Get many at once: far away, each request takes its time."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(lambda start: self(start, _HEADER), starts))


@dataclass(frozen=True)
class _Leaf:
    fqn: str
    path: Path
    value: object


def open_torch_file(path: str, files: Files, name: str) -> Checkpoint:
    """The state_dict in a file that `torch.save` wrote; dict keys and list positions make up the keys.

    Objects are the values that are no tensors; they lie in the pickle, and have no bytes of their own.
    Raises `CorruptError` for a damaged file, `UnsafeError` that names what its pickle asks for beyond tensors
    and plain values, `CheckpointError` for what cannot be read in place, with a way out.
    """
    where, size = f"{files.root}/{name}", files.size(name)
    with reading_zip(where), gc_paused():
        reader = _Reader(files, name)
        archive = Archive(reader, size)
        _check_kind(archive, where)
        if is_url(files.root):
            reader.fetch_headers([archive.record(name).header_offset for name in archive.names])
        pickle = archive.content("data.pkl")
        if archive.record("data.pkl").CRC not in (0, crc32(pickle)):
            raise CorruptError(
                f"{where}: damaged, its pickle has not the crc that was stored with it", [name]
            )
        top = restricted_load(pickle, _ALLOWED, where, persistent_load=_storage)
        _check_size(top, len(pickle) * _TIMES, where)
        return _checkpoint(path, files, name, archive, _leaves(top, where))


def open_torch_parts(path: str, files: Files, names: Sequence[str]) -> Checkpoint:
    """The state_dicts in several such files as one; `CorruptError` if two of them hold the same key."""
    parts = [open_torch_file(path, files, name) for name in names]
    columns, owner = ChunkColumns(), dict[str, str]()
    for number, (name, part) in enumerate(zip(names, parts, strict=True)):
        for fqn in part:
            if owner.setdefault(fqn, name) != name:
                raise CorruptError(f"{files.root}: {fqn!r} is in {owner[fqn]} and {name}", [fqn])
        chunks = part.metadata.chunks
        for row in range(len(part.metadata.tensors)):
            columns.add(
                part.metadata.boxes(row), [number], [int(chunks.start[row])], [int(chunks.length[row])]
            )
    metadata = Metadata(
        Tensors.of(tensor for part in parts for tensor in part.metadata.tensors),
        columns.build(),
        tuple(names),
        (-1,) * len(names),
        {fqn: replace(e, file=i) for i, part in enumerate(parts) for fqn, e in part.metadata.objects.items()},
        {fqn: steps for part in parts for fqn, steps in part.metadata.paths.items()},
    )
    payloads = tuple(payload for part in parts for payload in part.payloads or ())
    values = {fqn: value for part in parts for fqn, value in (part.values or {}).items()}
    crcs = tuple(crc for part in parts for crc in part.crcs or ())
    return Checkpoint(path, "torch", metadata, files, payloads, values, crcs)


def _storage(reference: object) -> _Storage:
    if not isinstance(reference, tuple) or len(reference) != 5:
        raise ValueError(f"refers to {reference!r:.80}, which is no storage")
    return _Storage(reference)


def _check_kind(archive: Archive, where: str) -> None:
    if "constants.pkl" in archive:
        raise CheckpointError(
            f"{where}: is a TorchScript program; torch.save(torch.jit.load(...).state_dict()) makes a "
            "checkpoint of it"
        )
    if "byteorder" in archive and archive.content("byteorder") != b"little":
        raise CheckpointError(
            f"{where}: its elements are big-endian, which cannot be read in place; torch.load it and "
            "torch.save it again on this machine"
        )


def _checkpoint(path: str, files: Files, name: str, archive: Archive, leaves: list[_Leaf]) -> Checkpoint:
    tensors, columns, payloads, crcs, values = [], ChunkColumns(), [], [], {}
    for leaf in leaves:
        if not isinstance(leaf.value, _MADE):
            values[leaf.fqn] = leaf.value
            continue
        start, payload, crc = _place(leaf, archive, f"{files.root}/{name}")
        tensors.append(Tensor(leaf.fqn, payload.dtype, payload.shape))
        columns.add(_whole(payload.shape), [0], [start], [payload.nbytes])
        payloads.append(payload)
        crcs.append(crc)
    at = archive.start("data.pkl")
    metadata = Metadata(
        Tensors.of(tensors),
        columns.build(),
        (name,),
        (-1,),
        {fqn: Extent(0, at, 0) for fqn in values},
        {leaf.fqn: leaf.path for leaf in leaves},
    )
    return Checkpoint(path, "torch", metadata, files, tuple(payloads), values, tuple(crcs))


@lru_cache(maxsize=4096)
def _whole(shape: tuple[int, ...]) -> Boxes:
    return Boxes.of([Box((0,) * len(shape), shape)])


def _place(leaf: _Leaf, archive: Archive, where: str) -> tuple[int, Payload, int]:
    """Where the storage of a tensor begins in the file, where its elements lie in it, and its crc."""
    try:
        storage, made = _rebuilt(leaf.value)
        found = tensor_payload(made, archive)
    except ValueError as error:
        raise CheckpointError(
            f"{where}: {leaf.fqn!r} cannot be read in place: {error}; torch.load the file "
            "and torch.save it with a plain tensor there",
            [leaf.fqn],
        ) from error
    dtype = str(found.dtype)
    payload = Payload(0, found.nbytes, dtype, found.shape, found.strides, found.storage_offset)
    # Elements that all lie in one place are cheap to claim.
    if math.prod(payload.shape) * ITEMSIZE[dtype] > _MAX:
        raise CorruptError(
            f"{where}: {leaf.fqn!r} of {list(payload.shape)} is larger than memory", [leaf.fqn]
        )
    return found.start, payload, archive.record(f"data/{storage[2]}").CRC


def _rebuilt(value: object) -> tuple[_Storage, Called]:
    """The tensor itself, and its storage, out of what makes a parameter or a subclass of it."""
    while True:
        match value:
            case Parameter(args=(inner, *_)):
                value = inner
            case _FromType(args=(function, _, (*args,), *_)) if function in (Rebuild2, Rebuild3):
                value = Rebuild2(*args) if function is Rebuild2 else Rebuild3(*args)
            case Rebuild2(args=(_Storage() as storage, *_)) | Rebuild3(args=(_Storage() as storage, *_)):
                return storage, value
            case _:
                raise ValueError("it is no dense tensor")


def _leaves(top: object, where: str) -> list[_Leaf]:
    """Every value under its key; a file that holds but one tensor gives it the key `tensor`."""
    if not isinstance(top, dict | list | tuple):
        top = {"tensor" if isinstance(top, _MADE) else "value": top}
    found: dict[str, _Leaf] = {}
    for path, value in _walk((), top):
        fqn = ".".join(map(str, path))
        if fqn in found:
            raise CheckpointError(
                f"{where}: two values are both called {fqn!r}: {found[fqn].path} and {path}", [fqn]
            )
        found[fqn] = _Leaf(fqn, path, value)
    return list(found.values())


def _walk(path: Path, value: object) -> Iterator[tuple[Path, object]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _walk((*path, str(key)), inner)
    elif isinstance(value, list | tuple) and (not path or _to_enter(value)):
        for i, inner in enumerate(value):
            yield from _walk((*path, i), inner)
    else:
        yield path, value


def _to_enter(value: list[object] | tuple[object, ...]) -> bool:
    """Whether tensors or dicts are in it: other lists and tuples are one value."""
    return any(
        isinstance(inner, (dict, *_MADE)) or (isinstance(inner, list | tuple) and _to_enter(inner))
        for inner in value
    )


def _check_size(top: object, most: int, where: str) -> None:
    """Refuse values that contain themselves, or each other so often that nobody could go through them."""
    known: dict[int, int | None] = {}

    def size(value: object) -> int:
        if type(value) in _LEAVES:
            return 1
        parts = _parts(value)
        if id(value) not in known:
            known[id(value)] = None
            known[id(value)] = 1 + sum(map(size, parts))
        found = known[id(value)]
        if found is None or found > most:
            raise CorruptError(f"{where}: its values contain themselves, or each other without end")
        return found

    try:
        size(top)
    except RecursionError as error:
        raise CorruptError(f"{where}: its values are nested too deep") from error


def _parts(value: object) -> Collection[object]:
    """What a value is made of."""
    if isinstance(value, dict):
        return [*value, *value.values()]
    if isinstance(value, Kept):
        return [*value.args, *value.state]
    if isinstance(value, Called):
        return value.args
    return value if isinstance(value, list | tuple | set) else ()
