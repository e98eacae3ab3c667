"""A `torch.save` file of a whole nested state_dict, written as a stream.

`torch.load` reads it with `weights_only=True` and with `mmap=True`. It knows no torch, and not
where the elements come from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ckptlab.errors import CheckpointError
from ckptlab.metadata import ITEMSIZE, Tensor
from ckptlab.storage import opcodes
from ckptlab.storage.crc import crc32
from ckptlab.storage.plain import pickled
from ckptlab.storage.template import TYPED_STORAGE, contiguous
from ckptlab.storage.zip_stream import ALIGNMENT, ZipStream

Path = tuple[str | int, ...]

_ROOT = "archive"


def write_torch_file(
    code: bytes, tensors: Mapping[str, Tensor], put: Callable[[bytes], None], elements: Callable[[str], int]
) -> None:
    """Write the archive whose pickle is `code`, and of whose storages each holds one tensor.

    `tensors` are by the number of the storage; `elements(fqn)` writes those of a tensor and gives their crc.
    """
    archive = ZipStream()

    def record(name: str, data: bytes) -> None:
        put(archive.begin(f"{_ROOT}/{name}", len(data)) + data + archive.end(crc32(data)))

    record("data.pkl", opcodes.header(2) + code + opcodes.STOP)
    record(".format_version", b"1")
    record(".storage_alignment", b"%d" % ALIGNMENT)
    record("byteorder", b"little")
    for number, tensor in tensors.items():
        put(archive.begin(f"{_ROOT}/data/{number}", tensor.nbytes))
        put(archive.end(elements(tensor.fqn)))
    record("version", b"3\n")
    put(archive.finish())


def object_archive(value: object) -> bytes:
    """What `torch.save` would write of a plain value; `CheckpointError` if it is none."""
    parts: list[bytes] = []
    write_torch_file(pickled(value), {}, parts.append, lambda fqn: 0)
    return b"".join(parts)


def tensor_code(tensor: Tensor, number: str) -> bytes:
    """The opcodes that make a contiguous tensor of the storage `number`."""
    typed, numel = TYPED_STORAGE.get(tensor.dtype), math.prod(tensor.shape)
    storage = [
        opcodes.text("storage"),
        opcodes.named("torch", typed) if typed else opcodes.named("torch.storage", "UntypedStorage"),
        opcodes.text(number),
        opcodes.text("cpu"),
        opcodes.integer(numel if typed else numel * ITEMSIZE[tensor.dtype]),
    ]
    arguments = [
        opcodes.tuple_of(storage) + opcodes.PERSISTENT,
        opcodes.integer(0),
        pickled(tensor.shape),
        pickled(contiguous(tensor.shape)),
        opcodes.FALSE,
        opcodes.named("collections", "OrderedDict") + opcodes.EMPTY_TUPLE + opcodes.CALL,
        *([] if typed else [opcodes.named("torch", tensor.dtype)]),
    ]
    rebuild = opcodes.named("torch._utils", "_rebuild_tensor_v2" if typed else "_rebuild_tensor_v3")
    return rebuild + opcodes.tuple_of(arguments) + opcodes.CALL


def tree_code(leaves: Mapping[Path, bytes]) -> bytes:
    """The opcodes of the nested dicts and lists in which each leaf (opcodes itself) has its path.

    `CheckpointError` where a list would have holes, or two paths cannot both be.
    """
    root: dict[str | int, Any] = {}
    for path, code in leaves.items():
        inner = root
        for step in path[:-1]:
            inner = inner.setdefault(step, {})
            if not isinstance(inner, dict):
                raise CheckpointError(f"{path} leads through a value that is no dict", [path])
        if path[-1] in inner:
            raise CheckpointError(f"{path} leads to two values", [path])
        inner[path[-1]] = code
    return _tree(root, ())


def _tree(node: bytes | dict[str | int, Any], path: Path) -> bytes:
    if isinstance(node, bytes):
        return node
    if not any(isinstance(step, int) for step in node):
        parts = ((pickled(step), _tree(inner, (*path, step))) for step, inner in node.items())
        return opcodes.dict_of(part for pair in parts for part in pair)
    if set(node) != set(range(len(node))):
        raise CheckpointError(
            f"list {'.'.join(map(str, path))!r} would have only the positions {list(node)[:10]}; "
            "choose all keys of a list or none",
            [path],
        )
    return opcodes.list_of(_tree(node[i], (*path, i)) for i in range(len(node)))
