"""One `torch.save` archive: how every chunk and every object of a checkpoint is wrapped.

Finds a tensor's bytes in what anybody's torch wrote, and unpickles only through an
allow-list. It knows no torch, no file and no checkpoint: it is given bytes, or a way to
read them. What it writes itself is in `template`.
"""

from __future__ import annotations

import copyreg
import gc
import io
import pickle
import pickletools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import NoReturn, TypeGuard

from ckptlab.errors import CheckpointError, CorruptError, UnsafeError
from ckptlab.metadata import ITEMSIZE
from ckptlab.storage.archive import Archive, Read, reading_zip
from ckptlab.storage.template import TYPED_STORAGE, contiguous, template

_EXAMINED = 1 << 20


# ---------------------------------------------------------------- pickles that may ask for little


class _Sealed(type):
    """A class that a pickle cannot alter, were it to set attributes on the class itself."""

    def __setattr__(cls, name: str, value: object) -> NoReturn:
        raise TypeError(f"{cls.__name__} cannot be altered")


class StandIn(metaclass=_Sealed):
    """Takes the place of a class that a pickle names: keeps the state it is given, and does nothing.

    It is made without arguments, has no method that a pickle could call with effect, and lets
    nothing be set but the entries of its own state.
    """

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise TypeError(f"{type(self).__name__} cannot be altered")


class Called(StandIn):
    """A stand-in for what is called with arguments; keeps them."""

    args: tuple[object, ...] = ()

    def __init__(self, *args: object) -> None:
        self.__dict__["args"] = args


class _Unpickler(pickle.Unpickler):
    def __init__(
        self,
        data: bytes,
        allowed: Mapping[tuple[str, str], object],
        where: str,
        persistent_load: Callable[[object], object] | None,
    ) -> None:
        super().__init__(io.BytesIO(data))
        self._allowed, self._where, self._persistent = allowed, where, persistent_load

    def find_class(self, module: str, name: str) -> object:
        try:
            return self._allowed[module, name]
        except KeyError:
            raise UnsafeError(
                f"{self._where}: asks for {module}.{name}, which is not on the list of harmless names; "
                "nothing of it was run",
                [f"{module}.{name}"],
            ) from None

    def persistent_load(self, pid: object) -> object:
        if self._persistent is None:
            raise UnsafeError(f"{self._where}: refers to something outside itself; nothing of it was run")
        return self._persistent(pid)


@contextmanager
def gc_paused() -> Iterator[None]:
    """No garbage collection meanwhile: with millions of new objects it costs 5 to 9 times the work itself."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def restricted_load(
    data: bytes,
    allowed: Mapping[tuple[str, str], object],
    where: str,
    persistent_load: Callable[[object], object] | None = None,
) -> object:
    """Unpickle, giving the pickle nothing but what `allowed` maps (module, name) to.

    The values of `allowed` must be harmless to call with anything and impossible to alter:
    text, built-in containers, classes that derive from `StandIn`. Raises `UnsafeError` that
    names what else was asked for, `CorruptError` for what is no pickle. `where` names the file.
    """
    # A name in the extension registry may be cached, and then comes without being asked for.
    if len(data) <= _EXAMINED or getattr(copyreg, "_inverted_registry", None):
        _examine(data, where)
    try:
        with gc_paused():
            return _Unpickler(data, allowed, where, persistent_load).load()
    except CheckpointError:
        raise
    # Damage can surface as any exception at all: the bytes decide which.
    except Exception as error:
        raise CorruptError(f"{where}: damaged, its pickle ends in {type(error).__name__}: {error}") from error


def _examine(data: bytes, where: str) -> None:
    """Refuse what a look at the opcodes alone can refuse."""
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name in ("EXT1", "EXT2", "EXT4"):
                raise UnsafeError(f"{where}: asks for entry {argument} of the extension registry")
            # The unpickler makes its memo as long as the highest number, before anything else.
            if opcode.name.endswith("PUT") and int(argument or 0) > len(data):
                raise CorruptError(f"{where}: damaged, its pickle numbers a value {argument}")
    except CheckpointError:
        raise
    except Exception as error:
        raise CorruptError(f"{where}: damaged or cut short, it is no whole pickle: {error}") from error


# ---------------------------------------------------------------- where a tensor's bytes are


@dataclass(frozen=True)
class Payload:
    """Where a chunk's elements lie.

    The storage is the `nbytes` bytes from `start` of the chunk. The element at index (i, j, ...) is
    number `storage_offset + i * strides[0] + j * strides[1] + ...` of it; offset and strides count elements.
    """

    start: int
    nbytes: int
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    storage_offset: int


def locate(read: Read, length: int, dtype: str, shape: tuple[int, ...], where: str) -> Payload:
    """Find the elements of a chunk of `length` bytes that is claimed to hold such a tensor.

    What stock torch writes for a contiguous tensor takes one short read. `where` names the chunk
    in errors: `CorruptError` if it is no such tensor, stored plainly; `UnsafeError`
    if its pickle asks for more than a plain tensor needs.
    """
    known = template(dtype, shape)
    if length == known.length and read(0, len(known.before)) == known.before:
        return plain(dtype, shape)
    with reading_zip(where):
        archive = Archive(read, length)
        found = _tensor(archive, where)
    if (found.dtype, found.shape) != (dtype, shape):
        raise CorruptError(
            f"{where}: holds a {found.dtype} tensor of shape {list(found.shape)}, "
            f"but the metadata says {dtype} {list(shape)}",
            [found.dtype, found.shape],
        )
    return found


@lru_cache(maxsize=4096)
def plain(dtype: str, shape: tuple[int, ...]) -> Payload:
    """Where the elements of a contiguous tensor lie in what stock torch writes for it."""
    known = template(dtype, shape)
    return Payload(len(known.before), known.nbytes, dtype, shape, contiguous(shape), 0)


def stored_crc(read: Read, length: int, where: str = "archive") -> int:
    """The crc32 that the archive itself states for its one tensor's storage."""
    with reading_zip(where):
        return Archive(read, length).record("data/0").CRC


def peek_object(data: bytes, where: str = "object") -> object:
    """The value in a `torch.save` archive, when it is made of plain values only.

    That is None, bool, int, float, str, bytes, list, tuple, dict and set; a torch.Size comes as
    a tuple, a dtype as text. Raises `UnsafeError` for anything else, tensors included.
    """
    with reading_zip(where):
        archive = Archive(lambda start, n: data[start : start + n], len(data))
        pickled = archive.content("data.pkl")
    return restricted_load(pickled, PLAIN, where)


class Rebuild2(Called):
    """torch._utils._rebuild_tensor_v2."""


class Rebuild3(Called):
    """torch._utils._rebuild_tensor_v3."""


class Parameter(Called):
    """torch._utils._rebuild_parameter."""


class _Latin1(StandIn):
    """_codecs.encode, by which old protocols spell bytes; gives the bytes."""

    def __new__(cls, text: str = "", encoding: str = "latin1") -> bytes:  # type: ignore[misc]
        if encoding != "latin1":
            raise ValueError(f"encoding {encoding!r}")
        return text.encode("latin1")


class _NoBytes(StandIn):
    """`bytes`, which no pickle needs but for the empty ones; a number would make it take memory."""

    def __new__(cls) -> bytes:  # type: ignore[misc]
        return b""


DTYPES: Mapping[tuple[str, str], object] = {
    ("torch", name): name
    for name in (
        *ITEMSIZE, "qint8", "quint8", "qint32", "quint4x2", "quint2x4", "float4_e2m1fn_x2",
        *(f"{kind}{bits}" for kind in ("int", "uint", "bits") for bits in range(1, 8)),
        "bits1x8", "bits2x4", "bits4x2", "bits8", "bits16",
    )
}  # fmt: skip
"""Every dtype that torch can name, for an allow-list: each stands for its name."""

TENSOR: Mapping[tuple[str, str], object] = {
    **DTYPES,
    **{("torch", storage): dtype for dtype, storage in TYPED_STORAGE.items()},
    ("torch.storage", "UntypedStorage"): "bytes",
    ("torch._utils", "_rebuild_tensor_v2"): Rebuild2,
    ("torch._utils", "_rebuild_tensor_v3"): Rebuild3,
    ("torch._utils", "_rebuild_parameter"): Parameter,
    ("torch", "Size"): tuple,
    ("collections", "OrderedDict"): dict,
}

PLAIN: Mapping[tuple[str, str], object] = {
    **{key: f"torch.{name}" for key, name in DTYPES.items()},
    ("torch", "Size"): tuple,
    ("collections", "OrderedDict"): dict,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    ("builtins", "bytes"): _NoBytes,
    ("__builtin__", "bytes"): _NoBytes,
    ("_codecs", "encode"): _Latin1,
}


def _tensor(archive: Archive, where: str) -> Payload:
    """The one tensor that an archive holds."""
    if "byteorder" in archive and archive.content("byteorder") != b"little":
        raise ValueError("its bytes are in big-endian order")
    made = restricted_load(archive.content("data.pkl"), TENSOR, where, persistent_load=lambda pid: pid)
    return tensor_payload(made, archive)


def tensor_payload(made: object, archive: Archive) -> Payload:
    """Where the elements of a tensor lie in an archive, as its pickle says; `ValueError` if it is no tensor.

    `made` is what the allow-list `TENSOR` makes of the tensor, with the persistent ids as they are.
    """
    if isinstance(made, Parameter):
        made = made.args[0]
    if not isinstance(made, Rebuild2 | Rebuild3):
        raise ValueError("it holds no dense tensor")
    storage, offset, shape, strides, _, _, *rest = made.args
    if not isinstance(storage, tuple) or len(storage) != 5 or storage[0] != "storage":
        raise ValueError(f"no tensor: storage {storage!r}")
    dtype, key = rest.pop(0) if isinstance(made, Rebuild3) else storage[1], storage[2]
    if any(rest):
        raise ValueError(f"the tensor is a view that is worked out when it is read: {rest}")
    if not isinstance(dtype, str) or dtype not in ITEMSIZE or not isinstance(key, str):
        raise ValueError(f"no tensor: storage {storage!r} of {dtype}")
    if not (_count(offset) and _counts(shape) and _counts(strides)):
        raise ValueError(f"no tensor: shape {shape}, strides {strides}, offset {offset}")
    start, nbytes = archive.start(f"data/{key}"), archive.record(f"data/{key}").file_size
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    needed = (last + 1) * ITEMSIZE[dtype] if all(shape) else 0
    if needed > nbytes:
        raise ValueError(f"the tensor needs {needed} bytes, its storage has {nbytes}")
    return Payload(start, nbytes, dtype, shape, strides, offset)


def _count(number: object) -> TypeGuard[int]:
    return type(number) is int and number >= 0


def _counts(numbers: object) -> TypeGuard[tuple[int, ...]]:
    return type(numbers) is tuple and all(map(_count, numbers))
