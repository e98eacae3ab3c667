"""Plain values, and how a pickle spells them: read through an allow-list, written back as they were.

What only torch has (a dtype, a torch.Size, a device), and objects of a few harmless classes, are
kept as stand-ins that are written as what they stand for. It knows no torch, no file and no tensor.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ckptlab.errors import CheckpointError
from ckptlab.storage import opcodes
from ckptlab.storage.torch_save import DTYPES, PLAIN, Called, StandIn


class Dtype(str):
    """A torch dtype: its name, without the `torch.`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"torch.{self}"


class Size(tuple[object, ...], StandIn):
    """A torch.Size."""


class Ordered(dict[object, object], StandIn):
    """A collections.OrderedDict; attributes that torch hangs on one are not kept."""

    def __setstate__(self, state: object) -> None:
        pass


class Tally(dict[object, object], StandIn):
    """A collections.Counter."""


class Device(Called):
    """A torch.device."""

    def __repr__(self) -> str:
        return f"torch.device{self.args!r}"


class Kept(StandIn):
    """An object of a harmless class, as its pickle makes it: nothing of the class is needed, or run."""

    module, name = "", ""
    args: tuple[object, ...] = ()
    called = False
    state: tuple[object, ...] = ()
    """The state that it was given, if any."""

    def __new__(cls, *args: object) -> Kept:  # noqa: D102
        made = super().__new__(cls)
        made.__dict__["args"] = args
        return made

    def __init__(self, *args: object) -> None:
        self.__dict__["called"] = True

    def __setstate__(self, state: object) -> None:
        self.__dict__["state"] = (state,)

    def __repr__(self) -> str:
        return f"{self.module}.{self.name}({', '.join(map(repr, (*self.args, *self.state)))})"


def _kept(module: str, *names: str) -> dict[tuple[str, str], object]:
    """Stand-ins of these classes of a module, for an allow-list."""
    made: Callable[..., object] = type(StandIn)
    return {(module, name): made(name, (Kept,), {"module": module, "name": name}) for name in names}


_PATHS = ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
_TYPES = ("bytearray", "frozenset", "range", "slice")

FAITHFUL: Mapping[tuple[str, str], object] = {
    **PLAIN,
    **{key: Dtype(name) for key, name in DTYPES.items()},
    ("torch", "Size"): Size,
    ("torch", "device"): Device,
    ("collections", "OrderedDict"): Ordered,
    ("collections", "Counter"): Tally,
    ("builtins", "complex"): complex,
    ("__builtin__", "complex"): complex,
    **_kept("argparse", "Namespace"),
    **_kept("types", "SimpleNamespace"),
    **_kept("pathlib", *_PATHS),
    **_kept("pathlib._local", *_PATHS),
    **_kept("datetime", "date", "datetime", "time", "timedelta", "timezone"),
    **_kept("builtins", *_TYPES),
    **_kept("__builtin__", *_TYPES, "xrange"),
    **_kept("numpy", "ndarray", "dtype"),
    **_kept("numpy.core.multiarray", "_reconstruct", "scalar"),
    **_kept("numpy._core.multiarray", "_reconstruct", "scalar"),
}
"""An allow-list that makes what `pickled` can write back."""


@dataclass(frozen=True)
class Spelled:
    """A value that is opcodes already."""

    code: bytes


def pickled(value: object) -> bytes:
    """The opcodes, of protocol 2, of a value that `FAITHFUL` made, or of one made of plain ones.

    Torch's careful reader takes them, but for what is `Kept`. Raises `CheckpointError` that names the class
    of anything else.
    """
    if isinstance(value, Spelled):
        return value.code
    if isinstance(value, type) and issubclass(value, Kept):
        return opcodes.named(value.module, value.name)
    if isinstance(value, Kept):
        return _made(value)
    write = _WRITERS.get(type(value))
    if write is None:
        kind = type(value)
        raise CheckpointError(f"a {kind.__module__}.{kind.__qualname__} is no plain value", [value])
    return write(value)


def _number(value: float) -> bytes:
    return b"G" + struct.pack(">d", value)


def _bytes(value: bytes) -> bytes:
    return _call("_codecs", "encode", value.decode("latin1"), "latin1")


def _call(module: str, name: str, *args: object) -> bytes:
    return opcodes.named(module, name) + opcodes.tuple_of([pickled(arg) for arg in args]) + opcodes.CALL


def _made(value: Kept) -> bytes:
    arguments = opcodes.tuple_of([pickled(arg) for arg in value.args])
    code = opcodes.named(value.module, value.name) + arguments
    code += opcodes.CALL if value.called else opcodes.NEW
    return code + b"".join(pickled(state) + opcodes.SET_STATE for state in value.state)


def _dict(value: Mapping[object, object]) -> bytes:
    return opcodes.dict_of(pickled(part) for item in value.items() for part in item)


def _items(value: Mapping[object, object]) -> bytes:
    """To stand behind an empty dict of some class."""
    body = b"".join(pickled(part) for item in value.items() for part in item)
    return b"(" + body + b"u" if body else b""


_WRITERS: Mapping[type, Callable[[Any], bytes]] = {
    type(None): lambda value: opcodes.NONE,
    bool: lambda value: opcodes.TRUE if value else opcodes.FALSE,
    int: opcodes.integer,
    float: _number,
    str: opcodes.text,
    bytes: _bytes,
    complex: lambda value: _call("__builtin__", "complex", value.real, value.imag),
    tuple: lambda value: opcodes.tuple_of([pickled(part) for part in value]),
    list: lambda value: opcodes.list_of(pickled(part) for part in value),
    set: lambda value: _call("__builtin__", "set", list(value)),
    dict: _dict,
    Ordered: lambda value: _call("collections", "OrderedDict") + _items(value),
    Tally: lambda value: _call("collections", "Counter", dict(value)),
    Size: lambda value: _call("torch", "Size", tuple(value)),
    Dtype: lambda value: opcodes.named("torch", value),
    Device: lambda value: _call("torch", "device", *value.args),
}
