"""The bytes of one rank's files, in the order in which they stand there.

Chunks come straight out of the tensors' own memory, each with its crc, taken while the bytes
are in the cache. It decides nothing: the plan says what is written where.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from ckptlab.engine.ferry import fetched
from ckptlab.engine.held import HeldTensors
from ckptlab.engine.memory import finish, memory_of, on_cpu
from ckptlab.events import Trace
from ckptlab.layout import Box
from ckptlab.layout.box import Ints
from ckptlab.metadata import Metadata
from ckptlab.plan.save import SavePlan, Writes
from ckptlab.storage.crc import crc32, crcs
from ckptlab.storage.files import Buffer, Files, Writer
from ckptlab.storage.template import Template, template

_BLOCK = 1 << 20
_SMALL = 32 << 10
_FEW = 4
_MOST_BUFFERS = 1000


Taken = dict[tuple[str, Box], int]
"""The crc of a tensor's box."""


@dataclass(frozen=True, eq=False)
class Source:
    """What a rank writes from: its tensors, its objects as bytes, and the plan that says what of them.

    `crcs`, if anybody wants to know, takes in that of each box that is written.
    """

    plan: SavePlan
    metadata: Metadata
    held: HeldTensors
    objects: Mapping[str, bytes]
    crcs: Taken | None = None

    @cached_property
    def rows(self) -> Ints:
        """Where each tensor of the plan is in `held`, -1 if it is not."""
        return self.held.rows_of(self.plan.tensors.names)


def write_files(files: Files, mine: Sequence[int], source: Source, sync: bool, trace: Trace) -> None:
    """Write the files of these numbers (in `Metadata.files`), each by a thread of its own.

    A file of which the plan puts nothing is not made. Raises what the first thread to fail raised.
    """
    finish(source.held.locals)
    if len(mine) == 1:
        _write_file(files, mine[0], source, sync, trace)
        return
    with ThreadPoolExecutor(len(mine), "ckptlab-write") as threads:
        written = [threads.submit(_write_file, files, file, source, sync, trace) for file in mine]
    for one in written:
        one.result()


def _write_file(files: Files, file: int, source: Source, sync: bool, trace: Trace) -> None:
    metadata = source.metadata
    here = metadata.chunks.file == file
    objects = {fqn: extent for fqn, extent in metadata.objects.items() if extent.file == file}
    size = int(metadata.chunks.length[here].sum()) + sum(extent.length for extent in objects.values())
    if not size:
        return
    with files.create(metadata.files[file], size) as writer:
        stream = _Stream(writer, trace)
        for group in source.plan.writes:
            _put_group(stream, group, _rows_in(file, metadata, group), source)
        for fqn, extent in sorted(objects.items(), key=lambda item: item[1].start):
            assert extent.start == stream.end
            stream.put(source.objects[fqn])
        stream.flush()
        assert stream.end == size
        if sync:
            writer.sync()


def _rows_in(file: int, metadata: Metadata, group: Writes) -> Ints:
    """Which chunks of a group lie in a file: tensor times boxes plus box, in the order of the file."""
    rows = metadata.chunks.first[group.rows][:, None] + np.arange(len(group.boxes))
    return np.flatnonzero(metadata.chunks.file[rows.ravel()] == file)


class _Stream:
    """Buffers that follow each other in a file, written about a MiB at a time."""

    def __init__(self, writer: Writer, trace: Trace) -> None:
        self._writer, self._trace = writer, trace
        self._waiting: list[Buffer] = []
        self._begin = self.end = 0

    def put(self, buffer: Buffer) -> None:
        self._waiting.append(buffer)
        self.end += len(buffer)
        if self.end - self._begin >= _BLOCK or len(self._waiting) == _MOST_BUFFERS:
            self.flush()

    def flush(self) -> None:
        self._writer.write_at(self._begin, self._waiting)
        self._trace.moved(self.end - self._begin)
        self._begin, self._waiting = self.end, []


def _put_group(stream: _Stream, group: Writes, rows: Ints, source: Source) -> None:
    tensors, columns = np.divmod(rows, len(group.boxes))
    here = source.rows[group.rows[tensors]]
    boxes = {column: group.boxes[column] for column in np.unique(columns).tolist()}
    frames = {column: template(group.dtype, box.shape) for column, box in boxes.items()}
    pieces = _pieces(source.held, here, columns, boxes)
    if len(boxes) == 1 and len(rows) > _FEW and (frame := next(iter(frames.values()))).nbytes <= _SMALL:
        found = _put_small(stream, frame, pieces)
    else:
        # All of them before the first: where big tensors pass through the caches, Python is slow.
        ready = [(frames[c], _ready(piece)) for c, piece in zip(columns.tolist(), pieces, strict=True)]
        found = [_put_chunk(stream, frame, piece) for frame, piece in ready]
    if source.crcs is not None:
        names = (source.held.names[row] for row in here.tolist())
        written = zip(names, (boxes[column] for column in columns.tolist()), strict=True)
        source.crcs.update(zip(written, found, strict=True))


def _pieces(held: HeldTensors, rows: Ints, columns: Ints, boxes: Mapping[int, Box]) -> list[torch.Tensor]:
    """The memory of box `columns[i]` of the tensor at `rows[i]`, for each i; the tensors are of one cut."""
    found: dict[int, torch.Tensor] = {}
    for column, box in boxes.items():
        here = np.flatnonzero(columns == column)
        pieces = held.pieces(rows[here], *held.cuts[rows[here[0]]].place_of(box))
        found |= zip(here.tolist(), pieces, strict=True)
    return [found[i] for i in range(len(rows))]


def _put_small(stream: _Stream, frame: Template, pieces: list[torch.Tensor]) -> list[int]:
    """Many chunks of one dtype and shape, filled in together; the crc of each."""
    step = max(1, _BLOCK // frame.length)
    # New memory would be dearer than what is done in it.
    chunks = frame.blank(min(step, len(pieces)))
    found: list[int] = []
    for start in range(0, len(pieces), step):
        some = pieces[start : start + step]
        # To put them one behind the other is quicker than to stack them, for which each gets a dim more.
        together = on_cpu(torch.cat(some) if some[0].ndim else torch.stack(some))
        payloads = np.frombuffer(memory_of(together), np.uint8).reshape(len(some), -1)
        checks, here = crcs(payloads), chunks[: len(payloads)]
        frame.fill(here, payloads, checks)
        stream.put(here.data.cast("B"))
        stream.flush()
        found += checks.tolist()
    return found


def _ready(piece: torch.Tensor) -> torch.Tensor | memoryview:
    """The bytes of a piece where they lie in memory as they will in the file, else the piece."""
    as_stored = piece.device.type == "cpu" and piece.is_contiguous()
    return memory_of(piece) if as_stored and not (piece.is_conj() or piece.is_neg()) else piece


def _put_chunk(stream: _Stream, frame: Template, piece: torch.Tensor | memoryview) -> int:
    """One chunk; the crc of its elements."""
    stream.put(frame.before)
    crc = 0
    for memory in fetched(piece) if isinstance(piece, torch.Tensor) else (piece,):
        for block in _blocks(memory):
            crc = crc32(block, crc)
            stream.put(block)
        if memory is not piece:
            # What is fetched next may be put in its place.
            stream.flush()
    stream.put(frame.after(crc))
    return crc


def _blocks(memory: memoryview) -> Iterator[memoryview]:
    for start in range(0, len(memory), _BLOCK):
        yield memory[start : start + _BLOCK]
