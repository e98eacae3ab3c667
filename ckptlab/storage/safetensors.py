"""safetensors: one file, many with an index, or the pieces that each rank of a sharded save wrote.

Reads headers only, and checks every claim in them. Writing is in `safetensors_write`. It
knows no torch, no rank of this process and no plan.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NoReturn, TypeGuard

from ckptlab.errors import CheckpointError, CorruptError
from ckptlab.layout import Box, Boxes
from ckptlab.metadata import ITEMSIZE, ChunkColumns, Metadata, Tensor, Tensors, human_bytes
from ckptlab.storage.files import Files, inside
from ckptlab.storage.opened import Checkpoint
from ckptlab.storage.template import contiguous
from ckptlab.storage.torch_save import Payload, gc_paused

SUFFIX = ".safetensors"
INDEX_SUFFIX = ".safetensors.index.json"
INDEX_FILE = f"model{INDEX_SUFFIX}"
SINGLE_FILE = f"model{SUFFIX}"

DTYPES: Mapping[str, str] = {
    "U64": "uint64", "I64": "int64", "F64": "float64", "C64": "complex64", "F32": "float32",
    "U32": "uint32", "I32": "int32", "BF16": "bfloat16", "F16": "float16", "U16": "uint16", "I16": "int16",
    "F8_E5M2FNUZ": "float8_e5m2fnuz", "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
"""Dtypes by the name that a header gives them, in the order in which the safetensors library writes them."""

_MAX = 2**63 - 1
_LONGEST = 100_000_000
_FIRST_READ = 1 << 16
_OF_TORCH = "DCP_"
_SHARDING = f"{_OF_TORCH}SHARDING_INFO"
_RANK_FILE = re.compile(r"shard-(\d{1,9})-.*")


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: its elements are the `length` bytes from byte `start` of the data."""

    tensor: Tensor
    start: int
    length: int


@dataclass(frozen=True)
class Header:
    """What one file says: its tensors, in the order of their bytes from `data_start` on, and its notes."""

    entries: tuple[Entry, ...]
    notes: Mapping[str, str]
    data_start: int


@dataclass(frozen=True)
class _Piece:
    """What file number `file` holds of a tensor: a part that begins at `offset` of it, if it is sharded."""

    tensor: Tensor
    offset: tuple[int, ...]
    file: int
    start: int
    length: int
    sharded: bool

    @property
    def stop(self) -> tuple[int, ...]:
        return tuple(a + n for a, n in zip(self.offset, self.tensor.shape, strict=True))


def open_files(path: str, files: Files, names: Sequence[str]) -> Checkpoint:
    """The tensors of these files together; `path` is for messages.

    Pieces by rank do not say how many ranks there were: without the last one's file, a tensor ends early.
    Raises `CorruptError` for a file that is damaged or makes a claim that is not true, and for a tensor that
    two files hold whole; `CheckpointError` for a dtype that is not supported.
    """
    with gc_paused():
        return _open(path, files, names, {})


def open_index(path: str, files: Files, index: str) -> Checkpoint:
    """The tensors of the files that an index names; `CorruptError` if it names one that is not there."""
    listed = read_index(files, index)
    with gc_paused():
        return _open(path, files, sorted(set(listed.values())), listed)


def read_index(files: Files, index: str) -> Mapping[str, str]:
    """The file of each tensor, as an index in HuggingFace's manner says; `CorruptError` if one is missing."""
    where = f"{files.root}/{index}"
    size = files.size(index)
    if size > _LONGEST:
        raise CorruptError(f"{where}: is {human_bytes(size)} long, which no index is", [index])
    top = _parse(files.read(index, 0, size), where)
    listed = top.get("weight_map") if isinstance(top, dict) else None
    if not isinstance(listed, dict) or not all(type(name) is str for name in listed.values()):
        raise CorruptError(f"{where}: has no weight_map, which says what file each tensor is in", [index])
    there = set(files.names())
    for name in sorted(set(listed.values())):
        inside(name, where)
        if name not in there and "/" not in name:
            n = sum(other == name for other in listed.values())
            raise CorruptError(
                f"{files.root}: {name} is missing; {n} tensors are in it, says {index}", [name]
            )
    return listed


def _open(path: str, files: Files, names: Sequence[str], listed: Mapping[str, str]) -> Checkpoint:
    pieces: dict[str, list[_Piece]] = {}
    notes: dict[str, str] = {}
    for number, name in enumerate(names):
        where = f"{files.root}/{name}"
        header = read_header(files, name)
        notes |= header.notes
        offsets = _offsets(header, where)
        for entry in header.entries:
            fqn = entry.tensor.fqn
            if listed.get(fqn, name) != name:
                continue
            offset = offsets.get(fqn) or (0,) * len(entry.tensor.shape)
            start = header.data_start + entry.start
            piece = _Piece(entry.tensor, offset, number, start, entry.length, fqn in offsets)
            pieces.setdefault(fqn, []).append(piece)
    for fqn, name in listed.items():
        if fqn not in pieces:
            raise CorruptError(f"{files.root}/{name}: has no tensor {fqn!r}, though the index says so", [fqn])
    if _SHARDING in notes:
        notes = {key: value for key, value in notes.items() if not key.startswith(_OF_TORCH)}
    return _checkpoint(path, files, names, pieces, notes)


def _checkpoint(
    path: str,
    files: Files,
    names: Sequence[str],
    pieces: Mapping[str, Sequence[_Piece]],
    notes: Mapping[str, str],
) -> Checkpoint:
    tensors, columns, payloads = [], ChunkColumns(), []
    for fqn, parts in pieces.items():
        tensors.append(_whole(fqn, parts, files.root, names))
        columns.add(
            _boxes(parts),
            [part.file for part in parts],
            [part.start for part in parts],
            [part.length for part in parts],
        )
        payloads += [_payload(part.tensor.dtype, part.tensor.shape, part.length) for part in parts]
    metadata = Metadata(
        Tensors.of(tensors),
        columns.build(),
        tuple(names),
        tuple(_writer(name) for name in names),
        paths={fqn: (fqn,) for fqn in pieces},
    )
    return Checkpoint(path, "safetensors", metadata, files, tuple(payloads), {}, notes=notes)


def _whole(fqn: str, parts: Sequence[_Piece], root: str, names: Sequence[str]) -> Tensor:
    """The tensor that the parts make up, which reaches as far as they do."""
    first, *rest = parts
    if not rest and not first.sharded:
        return first.tensor
    for part in rest:
        both = f"{names[first.file]} and {names[part.file]}"
        if not (first.sharded and part.sharded):
            raise CorruptError(f"{root}: tensor {fqn!r} is in {both}", [fqn])
        if part.tensor.dtype != first.tensor.dtype or len(part.offset) != len(first.offset):
            raise CorruptError(f"{root}: {both} contradict each other about tensor {fqn!r}", [fqn])
    shape = tuple(max(ends) for ends in zip(*(part.stop for part in parts), strict=True))
    if not _fits(shape, first.tensor.dtype):
        raise CorruptError(f"{root}: tensor {fqn!r} of {list(shape)} is larger than any memory", [fqn])
    return first.tensor._replace(shape=shape)


def _boxes(parts: Sequence[_Piece]) -> Boxes:
    if len(parts) == 1 and not any(parts[0].offset):
        return _alone(parts[0].tensor.shape)
    return Boxes.of([Box(part.offset, part.tensor.shape) for part in parts])


@lru_cache(maxsize=4096)
def _alone(shape: tuple[int, ...]) -> Boxes:
    return Boxes.of([Box((0,) * len(shape), shape)])


@lru_cache(maxsize=4096)
def _payload(dtype: str, shape: tuple[int, ...], length: int) -> Payload:
    return Payload(0, length, dtype, shape, contiguous(shape), 0)


def _offsets(header: Header, where: str) -> Mapping[str, tuple[int, ...]]:
    """Where in the whole tensor each tensor of a file begins, if torch's sharded writer noted it."""
    if _SHARDING not in header.notes:
        return {}
    told = _parse(header.notes[_SHARDING].encode("utf-8", "surrogatepass"), f"{where}: {_SHARDING}")
    found = {}
    for entry in header.entries:
        fqn, record = entry.tensor.fqn, told.get(entry.tensor.fqn) if isinstance(told, dict) else None
        offset = record.get("saved_offsets") if isinstance(record, dict) else None
        if not _counts(offset) or len(offset) != len(entry.tensor.shape):
            raise CorruptError(f"{where}: {_SHARDING} does not say where {fqn!r} belongs: {offset!r}", [fqn])
        found[fqn] = tuple(offset)
    return found


def read_header(files: Files, name: str) -> Header:
    """The header of one file, every claim in it checked against the others and against the file's size."""
    where, size = f"{files.root}/{name}", files.size(name)
    first = files.read(name, 0, min(size, _FIRST_READ))
    if size < 8:
        raise CorruptError(f"{where}: no safetensors file: it has {size} bytes", [name])
    length = int.from_bytes(first[:8], "little")
    if length > min(_LONGEST, size - 8) or first[8:9] != b"{":
        raise CorruptError(
            f"{where}: no safetensors file, or a damaged one: its header claims {length} bytes and begins "
            f"with {first[8:9]!r}; the file has {size}",
            [name],
        )
    rest = 8 + length - len(first)
    text = first[8 : 8 + length] + (files.read(name, len(first), rest) if rest > 0 else b"")
    entries, notes = _entries(_parse(text, where), size - 8 - length, where)
    return Header(entries, notes, 8 + length)


def _entries(top: object, size: int, where: str) -> tuple[tuple[Entry, ...], Mapping[str, str]]:
    """The tensors and the notes of a header, in front of `size` bytes of data."""
    if not isinstance(top, dict):
        _fail(where, "its header is no JSON object")
    notes = top.pop("__metadata__", {})
    if not isinstance(notes, dict) or not all(type(value) is str for value in notes.values()):
        _fail(where, f"its __metadata__ is not text by name: {notes!r:.80}")
    entries = sorted(
        (_entry(fqn, record, where) for fqn, record in top.items()), key=lambda e: (e.start, e.length)
    )
    end = 0
    for entry in entries:
        if entry.start != end:
            what = "overlaps the one before it" if entry.start < end else f"leaves a hole from byte {end} on"
            _fail(where, f"tensor {entry.tensor.fqn!r} begins at byte {entry.start} of the data and {what}")
        end += entry.length
    if end != size:
        what = "it was cut short" if end > size else "what is behind it belongs to no tensor"
        _fail(where, f"its last tensor ends at byte {end} of the data, which is {size} bytes long: {what}")
    return tuple(entries), notes


def _entry(fqn: str, record: object, where: str) -> Entry:
    if not isinstance(record, dict):
        _fail(where, f"says {record!r:.80} of tensor {fqn!r}")
    name, shape, places = record.get("dtype"), record.get("shape"), record.get("data_offsets")
    if not _counts(shape):
        _fail(where, f"tensor {fqn!r} has the shape {shape!r:.80}")
    if not _counts(places) or len(places) != 2 or places[0] > places[1]:
        _fail(where, f"tensor {fqn!r} lies at {places!r:.80}, which is no range of bytes")
    if type(name) is not str or name not in DTYPES:
        raise CheckpointError(f"{where}: {fqn!r} is {name!r:.40}, a dtype that is not supported", [fqn])
    tensor = Tensor(fqn, DTYPES[name], tuple(shape))
    length = places[1] - places[0]
    if tensor.nbytes != length or (not length and not _fits(tensor.shape, tensor.dtype)):
        _fail(where, f"tensor {fqn!r} of {name} {list(shape)} takes {tensor.nbytes} bytes, not {length}")
    return Entry(tensor, places[0], length)


def _parse(text: bytes, where: str) -> object:
    """JSON of which no key stands twice."""
    try:
        return json.loads(text.decode(), object_pairs_hook=lambda pairs: _once(pairs, where))
    except CheckpointError:
        raise
    # RecursionError: brackets within brackets, deeper than any header has them.
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{where}: damaged, no JSON: {str(error)[:200]}") from error


def _once(pairs: list[tuple[str, object]], where: str) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        _fail(where, f"names {twice!r} twice")
    for name in found:
        # JSON can spell half a character, which no file or terminal takes.
        name.encode()
    return found


def _fits(shape: Sequence[int], dtype: str) -> bool:
    """Whether places in such a tensor can be counted, dims without elements taken as 1."""
    return math.prod(max(n, 1) for n in shape) * ITEMSIZE[dtype] <= _MAX and all(n <= _MAX for n in shape)


def _counts(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)


def _writer(name: str) -> int:
    """The rank that wrote a file, by the name that torch's sharded writer gives; -1 if it does not tell."""
    found = _RANK_FILE.fullmatch(name)
    return int(found[1]) - 1 if found else -1


def _fail(where: str, what: str) -> NoReturn:
    raise CorruptError(f"{where}: damaged or contradicts itself: {what}")
