"""A tensor in a checkpoint, read when it is indexed: the elements asked for, and no others.

Values are numpy's. It knows no torch, no rank and no plan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import ml_dtypes
import numpy as np
import numpy.typing as npt

from ckptlab.errors import CheckpointError, CorruptError, UnsafeError
from ckptlab.layout import Box, Boxes, overlaps
from ckptlab.metadata import ITEMSIZE, Metadata, Tensor, human_bytes, human_shape, near
from ckptlab.storage.crc import crc32
from ckptlab.storage.files import Files
from ckptlab.storage.index import parse_index, within
from ckptlab.storage.torch_save import Payload, locate, peek_object, stored_crc

Array = npt.NDArray[Any]

_APART = 1 << 20
"""Elements at most so many bytes apart are asked of storage together."""

_BITS: Mapping[int, str] = {1: "u1", 2: "<u2", 4: "<u4", 8: "<u8", 16: "<c16"}


class Opened(Protocol):
    """What is needed of a checkpoint; `Checkpoint` says what each means."""

    @property
    def path(self) -> str: ...  # noqa: D102
    @property
    def metadata(self) -> Metadata: ...  # noqa: D102
    @property
    def files(self) -> Files: ...  # noqa: D102
    @property
    def payloads(self) -> Sequence[Payload] | None: ...  # noqa: D102
    @property
    def values(self) -> Mapping[str, object] | None: ...  # noqa: D102
    @property
    def crcs(self) -> Sequence[int] | None: ...  # noqa: D102
    @property
    def settle(self) -> Callable[[], None]: ...  # noqa: D102


def stored(checkpoint: Opened, key: str) -> Any:
    """The `StoredTensor` of this name, of which nothing is read yet, or the object of this name.

    `CheckpointError` that tells near names if there is neither, `UnsafeError` for an object that is
    not made of plain values.
    """
    metadata = checkpoint.metadata
    if key in metadata.rows:
        return StoredTensor(checkpoint, metadata.rows[key])
    if key in metadata.objects:
        return _object(checkpoint, key)
    names = [*metadata.rows, *metadata.objects]
    below = [repr(name) for name in names if name.startswith(f"{key}.")]
    hint = f"; below it are {', '.join(below[:3])}" if below else near(str(key), names)
    hint += f" and {len(below) - 3} more" if len(below) > 3 else ""
    raise CheckpointError(f"no key {key!r} in {checkpoint.path}{hint}", [key])


def numpy_dtype(dtype: str) -> np.dtype[Any]:
    """The numpy dtype of elements whose dtype torch names so."""
    return np.dtype(getattr(ml_dtypes, dtype, dtype))


@dataclass(frozen=True, eq=False, repr=False)
class StoredTensor:
    """One tensor of a checkpoint; indexing it as numpy does reads those elements into a numpy array.

    Ints, slices of any step and `...` may stand in an index. A chunk that is read whole is checked
    against its stored crc. Elements that lie in one run are one read. Others are copied out of the
    mapped file; of a far one, what lies between them is fetched too where it is less than 1 MiB.
    """

    checkpoint: Opened
    row: int
    _found: dict[int, Payload] = field(default_factory=dict)

    @property
    def _tensor(self) -> Tensor:
        return self.checkpoint.metadata.tensors[self.row]

    @property
    def fqn(self) -> str:
        """Its key."""
        return self._tensor.fqn

    @property
    def dtype(self) -> str:
        """Its dtype as torch names it, without the `torch.`."""
        return self._tensor.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape, in elements."""
        return self._tensor.shape

    @property
    def ndim(self) -> int:
        """Number of dims."""
        return len(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return ITEMSIZE[self.dtype]

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return self._tensor.nbytes

    def numpy(self) -> Array:
        """All of it."""
        whole: Array = self[...]
        return whole

    def __getitem__(self, index: Any) -> Any:
        """The elements at `index`, an array of its own or, if every dim is given by an int, a scalar.

        `SliceError` (an `IndexError`) for an index that the tensor has not or that numpy alone knows,
        `CorruptError` for elements that are stored nowhere or wrongly.
        """
        ranges, view = parse_index(index, self.shape, self.fqn)
        return self.product(ranges)[view]

    def product(self, ranges: Sequence[range]) -> Array:
        """The elements at the product of ascending `ranges`, one a dim."""
        bits = np.empty([len(r) for r in ranges], _BITS[self.itemsize])
        if bits.size:
            self.fill(bits, ranges)
        values: Array = bits.view(numpy_dtype(self.dtype))
        return values

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError(f"tensor {self.fqn!r} is in a file: it cannot be had without a copy")
        return self.numpy() if dtype is None else self.numpy().astype(dtype, copy=False)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError(f"tensor {self.fqn!r} is a scalar: it has no len()")
        return self.shape[0]

    def __repr__(self) -> str:
        metadata = self.checkpoint.metadata
        files = np.unique(metadata.chunks.file[metadata.chunk_rows(self.row)])
        chunks = len(metadata.boxes(self.row))
        layout = metadata.layouts.get(self.fqn)
        return (
            f"StoredTensor {self.fqn}: {self.dtype}, {human_shape(self.shape)}, {human_bytes(self.nbytes)}, "
            f"{chunks} chunk{'s' * (chunks != 1)} in {len(files)} file{'s' * (len(files) != 1)}"
            + (f", saved as {layout!r}" if layout else "")
        )

    def fill(self, bits: Array, ranges: Sequence[range]) -> None:
        """Read the elements at the product of ascending `ranges` into `bits`, of their shape and itemsize."""
        self.checkpoint.settle()
        boxes = self.checkpoint.metadata.boxes(self.row)
        around = Box(tuple(r.start for r in ranges), tuple(r[-1] + 1 - r.start for r in ranges))
        filled, seen = 0, set()
        for i in overlaps(Boxes.of([around], self.ndim), boxes).b.tolist():
            box = boxes[i]
            parts = [within(r, low, high) for r, low, high in zip(ranges, box.offset, box.stop, strict=True)]
            # Old torch lists one chunk for each replica that it left out.
            if not all(part.stop > part.start for part in parts) or box in seen:
                continue
            seen.add(box)
            there: tuple[Any, ...] = (*parts, ...)
            into: Array = bits[there]
            filled += into.size
            inner = [
                range(r[p.start] - low, r[p.stop - 1] - low + 1, r.step)
                for r, p, low in zip(ranges, parts, box.offset, strict=True)
            ]
            self._read(int(self.checkpoint.metadata.chunks.first[self.row]) + i, box, inner, into)
        if filled != bits.size:
            raise CorruptError(
                f"tensor {self.fqn!r} {list(self.shape)}: its chunks hold {filled} of the {bits.size} "
                "elements asked for; the checkpoint is incomplete or contradicts itself",
                [self.fqn],
            )

    def _read(self, chunk: int, box: Box, inner: Sequence[range], into: Array) -> None:
        """Read the elements at the product of `inner`, counted from the chunk's corner."""
        payload, size = self._payload(chunk, box), into.itemsize
        name, base = self._place(chunk)
        first = payload.storage_offset + sum(
            r.start * step for r, step in zip(inner, payload.strides, strict=True)
        )
        strides = [r.step * step for r, step in zip(inner, payload.strides, strict=True)]
        start = base + payload.start + first * size
        if not _one_run(into.shape, strides):
            self._gather(name, start, strides, into)
            return
        target = into if into.flags.c_contiguous else np.empty(into.shape, into.dtype)
        data = target.reshape(-1).view(np.uint8).data
        self.checkpoint.files.read_into(name, start, data)
        if first == 0 and len(data) == payload.nbytes:
            self._check(chunk, box, data)
        if target is not into:
            into[...] = target

    def _gather(self, name: str, start: int, strides: Sequence[int], into: Array) -> None:
        """Copy elements that lie `strides` elements apart, the first at byte `start`."""
        size = into.itemsize
        reach = [(n - 1) * step * size for n, step in zip(into.shape, strides, strict=True)]
        widest = max(range(into.ndim), key=lambda dim: strides[dim] if reach[dim] else -1, default=0)
        between = strides[widest] * size - (sum(reach) - reach[widest] + size) if sum(reach) else 0
        if between > _APART:
            rest = [step for dim, step in enumerate(strides) if dim != widest]
            for i in range(into.shape[widest]):
                part = np.moveaxis(into, widest, 0)[i, ...]
                self._gather(name, start + i * strides[widest] * size, rest, part)
            return
        with self.checkpoint.files.view(name, start, sum(reach) + size) as view:
            into[...] = np.ndarray(into.shape, into.dtype, view, 0, [step * size for step in strides])

    def _payload(self, chunk: int, box: Box) -> Payload:
        if self.checkpoint.payloads is not None:
            return self.checkpoint.payloads[chunk]
        if chunk not in self._found:
            length = int(self.checkpoint.metadata.chunks.length[chunk])
            where = self._where(chunk, box)
            self._found[chunk] = locate(self._peek(chunk), length, self.dtype, box.shape, where)
        return self._found[chunk]

    def _check(self, chunk: int, box: Box, data: memoryview) -> None:
        """Compare a chunk's bytes with the crc that its writer stored, if its format keeps one."""
        where, found = self._where(chunk, box), crc32(data)
        if self.checkpoint.payloads is None:
            expected = stored_crc(
                self._peek(chunk), int(self.checkpoint.metadata.chunks.length[chunk]), where
            )
        else:
            expected = self.checkpoint.crcs[chunk] if self.checkpoint.crcs is not None else 0
        # A writer that computes no crc (an option of torch.save) leaves a zero.
        if found != expected and expected != 0:
            raise CorruptError(
                f"{where}: its bytes have crc {found:08x}, but {expected:08x} was stored with them; "
                "the file is damaged",
                [self.fqn],
            )

    def _peek(self, chunk: int) -> Any:
        name, base = self._place(chunk)
        return lambda offset, n: self.checkpoint.files.read(name, base + offset, n)

    def _place(self, chunk: int) -> tuple[str, int]:
        metadata = self.checkpoint.metadata
        return metadata.files[metadata.chunks.file[chunk]], int(metadata.chunks.start[chunk])

    def _where(self, chunk: int, box: Box) -> str:
        name, base = self._place(chunk)
        return f"chunk {box} of tensor {self.fqn!r}, at byte {base} of {self.checkpoint.files.root}/{name}"


def _one_run(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether elements with these strides lie one after the other."""
    expected = 1
    for n, step in zip(reversed(shape), reversed(strides), strict=True):
        if n != 1 and step != expected:
            return False
        expected *= n
    return True


def _object(checkpoint: Opened, fqn: str) -> object:
    if checkpoint.values is not None and fqn in checkpoint.values:
        return checkpoint.values[fqn]
    extent = checkpoint.metadata.objects[fqn]
    name = checkpoint.metadata.files[extent.file]
    data = checkpoint.files.read(name, extent.start, extent.length)
    try:
        return peek_object(data, f"object {fqn!r}, at byte {extent.start} of {checkpoint.files.root}/{name}")
    except UnsafeError as error:
        holds = ", ".join(map(str, error.problems)) or "tensors"
        raise UnsafeError(
            f"object {fqn!r} of {checkpoint.path} holds {holds}, so it is no plain value and was not "
            f"unpickled; ckptlab.load({{{fqn!r}: None}}, path) gives it to torch's own careful reader",
            error.problems,
        ) from error
