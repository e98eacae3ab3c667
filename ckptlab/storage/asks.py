"""What a pickle asks for by name, found by following its opcodes; none of it is looked up, none is run.

It knows no file, no format and no list of what is harmless.
"""

from __future__ import annotations

import io
import pickletools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

_MARK, _TUPLE = object(), object()
_TEXTS = (
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
)  # fmt: skip
_BYTES = ("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8")
_PUT = ("PUT", "BINPUT", "LONG_BINPUT")
_GET = ("GET", "BINGET", "LONG_BINGET")
_TUPLES = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_TUPLE")
_EXTENSIONS = ("EXT1", "EXT2", "EXT4")


@dataclass
class Asks:
    """What one pickle asks for.

    `names` are the modules and names that unpickling it would import, each once, in their order. `odd` is
    what else it would do that no plain pickle does, in words; also where it cannot be followed, for a reader
    that can may be made to do anything there. `outside` says that it refers to things outside itself by
    ids, as the pickles in `torch.save` files do. `constants` are its texts and bytes that `keep` wanted.
    `end` is the first byte behind it; `whole` says that it ended as a pickle does.
    """

    names: dict[tuple[str, str], None] = field(default_factory=dict)
    odd: list[str] = field(default_factory=list)
    outside: bool = False
    constants: list[bytes] = field(default_factory=list)
    end: int = 0
    whole: bool = False


class _Stream(io.BytesIO):
    """Bytes to follow; the last two lines that were read are kept as they are, not as `genops` reads them."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.lines: deque[bytes] = deque(maxlen=2)

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        self.lines.append(line)
        return line


def follow(data: bytes, start: int = 0, keep: Callable[[bytes], bool] = lambda constant: False) -> Asks:
    """What the pickle asks for that begins at byte `start`."""
    asks, stream = Asks(), _Stream(data)
    stream.seek(start)
    machine = _Machine(asks, stream, keep)
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            machine.step(opcode, argument)
        asks.whole = True
    # What stands there may make anything of the tools that look at it.
    except Exception as error:
        asks.odd.append(f"cannot be followed from byte {stream.tell()} on: {error}")
    asks.end = stream.tell()
    return asks


class _Machine:
    """The stack and the memo of an unpickler, on which only texts are what they are, and tuples tuples."""

    def __init__(self, asks: Asks, stream: _Stream, keep: Callable[[bytes], bool]) -> None:
        self._asks, self._stream, self._keep = asks, stream, keep
        self._stack: list[object] = []
        self._memo: dict[object, object] = {}

    def step(self, opcode: pickletools.OpcodeInfo, argument: object) -> None:
        """Do what an opcode does to the stack; `IndexError` if there is too little on it."""
        name = opcode.name
        if name in _TEXTS or name in _BYTES:
            self._constant(argument)
        elif name in _PUT:
            self._memo[argument] = self._stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = self._stack[-1]
        elif name in _GET:
            self._stack.append(self._memo[argument])
        elif name == "MARK":
            self._stack.append(_MARK)
        elif name == "DUP":
            self._stack.append(self._stack[-1])
        elif name == "POP":
            self._stack.pop()
        else:
            self._name(name, argument)
            self._move(opcode)

    def _constant(self, argument: object) -> None:
        self._stack.append(argument if isinstance(argument, str) else None)
        # Old protocols have no bytes: these are spelled as text, a letter a byte.
        try:
            raw = argument.encode("latin1") if isinstance(argument, str) else bytes(argument)  # type: ignore[call-overload]
        except UnicodeEncodeError:
            return
        if self._keep(raw):
            self._asks.constants.append(raw)

    def _name(self, name: str, argument: object) -> None:
        """What an opcode asks for."""
        if name in ("GLOBAL", "INST"):
            module, attribute = (line.rstrip(b"\n").decode("utf-8") for line in self._stream.lines)
            self._asks.names[module, attribute] = None
        elif name == "STACK_GLOBAL":
            where, what = self._stack[-2:]
            if isinstance(where, str) and isinstance(what, str):
                self._asks.names[where, what] = None
            else:
                self._asks.odd.append("asks for a name that is worked out while it is read")
        elif name in _EXTENSIONS:
            self._asks.odd.append(f"asks for entry {argument} of the extension registry")
        elif name == "PERSID":
            self._asks.odd.append("refers to something outside itself by a text, as torch never does")
        elif name == "BINPERSID":
            self._asks.outside = True
            if self._stack[-1] is not _TUPLE:
                self._asks.odd.append("refers to something outside itself by what is no tuple")
        elif name in ("NEXT_BUFFER", "READONLY_BUFFER"):
            self._asks.odd.append("refers to buffers outside itself")

    def _move(self, opcode: pickletools.OpcodeInfo) -> None:
        """Take off the stack what an opcode takes, and put on what it puts, as something unknown."""
        before = [kind.name for kind in opcode.stack_before]
        if "mark" in before:
            while self._stack.pop() is not _MARK:
                pass
            before = before[: before.index("mark")]
        for _ in before:
            if self._stack.pop() is _MARK:
                raise ValueError(f"{opcode.name} takes a mark")
        made = _TUPLE if opcode.name in _TUPLES else None
        self._stack += [made] * len(opcode.stack_after)
