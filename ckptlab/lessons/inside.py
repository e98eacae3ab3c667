"""Lesson 2: inside a checkpoint. Which byte of which file is one element of one tensor?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ckptlab.explorer.files import Files
from ckptlab.layout import Box
from ckptlab.lessons.ask import WAITING, Verdict, right, wrong
from ckptlab.metadata import ITEMSIZE
from ckptlab.storage import Checkpoint


@dataclass(frozen=True)
class Entry:
    """One chunk: which box of its tensor it is, in which file, and at which bytes.

    It takes `length` bytes from `start` on; its elements begin at byte `elements` of the file.
    """

    fqn: str
    box: Box
    file: str
    start: int
    length: int
    elements: int

    def __repr__(self) -> str:
        where = repr(self.box).removeprefix("Box")
        return f"{where} in {self.file}: {self.length} bytes from {self.start}, elements from {self.elements}"


def entries(checkpoint: Checkpoint, fqn: str = "") -> list[Entry]:
    """The chunks of one tensor, or of all of them."""
    metadata, files = checkpoint.metadata, Files(checkpoint)
    chunks, out = metadata.chunks, []
    for row, tensor in enumerate(metadata.tensors):
        if fqn and metadata.tensor(fqn) != tensor:
            continue
        boxes, first = metadata.boxes(row), int(chunks.first[row])
        for i in range(len(boxes)):
            low, _ = files.elements(first + i) or (-1, -1)
            name, start = metadata.files[chunks.file[first + i]], int(chunks.start[first + i])
            out.append(Entry(tensor.fqn, boxes[i], name, start, int(chunks.length[first + i]), low))
    return out


def look(checkpoint: Checkpoint, file: str, byte: int) -> np.float32:
    """The four bytes from `byte` of a file on, taken for one float32."""
    return np.float32(np.frombuffer(checkpoint.files.read(file, byte, 4), "<f4")[0])


def check_byte(
    checkpoint: Checkpoint, fqn: str, element: tuple[int, ...], file: str | None, byte: int | None
) -> Verdict:
    """At which byte of which file does this element of a tensor of float32 begin?"""
    if file is None or byte is None:
        return WAITING
    names = sorted(checkpoint.metadata.files)
    if file not in names:
        return wrong(f"there is no data file {file!r}; there are {', '.join(names)}.")
    size = checkpoint.files.size(file)
    if not 0 <= byte <= size - 4:
        return wrong(f"{file} has {size:,} bytes, and none at {byte:,}.")
    every = entries(checkpoint)
    here = next((e for e in every if e.file == file and e.start <= byte < e.start + e.length), None)
    if here is None:
        return wrong(f"byte {byte:,} of {file} belongs to no chunk.")
    wanted = next(e for e in every if e.fqn == fqn and (e.box & Box(element, (1,) * len(element))).numel)
    if here != wanted:
        return wrong(f"byte {byte:,} of {file} is in chunk {_chunk(here)}. {_other(here, wanted, element)}")
    return _within(checkpoint, here, element, byte)


def _within(checkpoint: Checkpoint, here: Entry, element: tuple[int, ...], byte: int) -> Verdict:
    """The right chunk: and the right element of it?"""
    size = ITEMSIZE[checkpoint.metadata.tensor(here.fqn).dtype]
    index, rest = divmod(byte - here.elements, size)
    hint = _why(here, checkpoint.metadata.tensor(here.fqn).shape, element, index)
    if not 0 <= index < here.box.numel:
        return wrong(
            f"byte {byte:,} is in the right chunk, but in what is wrapped round its elements: "
            f"these are the {here.box.numel * size:,} bytes from {here.elements:,} on.{hint}"
        )
    if rest:
        return wrong(f"byte {byte:,} is in the middle of an element: each has {size} bytes.")
    inner = np.unravel_index(index, here.box.shape)
    found = tuple(int(i) + o for i, o in zip(inner, here.box.offset, strict=True))
    value = look(checkpoint, here.file, byte)
    if found == element:
        return right(f"at byte {byte:,} of {here.file} stands {value:.2f}: {here.fqn}{list(element)}.")
    return wrong(f"there stands {value:.2f}: that is element {list(found)}, not {list(element)}.{hint}")


def _why(here: Entry, shape: tuple[int, ...], element: tuple[int, ...], index: int) -> str:
    """What a reader probably did who came out at element `index` of the chunk."""
    if len(shape) != 2:
        return ""
    row, column = element[0] - here.box.offset[0], element[1] - here.box.offset[1]
    width = here.box.shape[1]
    if index == row * shape[1] + column:
        return f" A row of the tensor has {shape[1]} elements, but a row of this chunk has {width}."
    if index == element[0] * width + element[1]:
        return f" Count rows and columns from the chunk's own corner, which is {list(here.box.offset)}."
    if index == column * here.box.shape[0] + row:
        return " Elements lie row after row, not column after column."
    return ""


def _other(here: Entry, wanted: Entry, element: tuple[int, ...]) -> str:
    if here.fqn != wanted.fqn:
        return f"That is another tensor than {wanted.fqn}."
    return f"It does not hold {list(element)}: compare its rows and columns."


def _chunk(entry: Entry) -> str:
    return repr(entry.box).removeprefix("Box") + f" of {entry.fqn}"
