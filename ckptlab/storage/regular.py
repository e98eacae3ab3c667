"""A pickle of very many records that are alike, read without an object for each.

Most of a large `.metadata` are places, millions of records of one kind: `lockstep` reads those as columns.
What is left is read here, by a small machine that knows few opcodes. It gives up on whatever it does not
know: then the pickle is to be read in the usual way. It makes nothing but what `allowed` maps names to, and
knows no checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ckptlab.storage.lockstep import Irregular, Lockstep, Shape
from ckptlab.storage.torch_save import StandIn

_STEPS = 3_000_000
"""Opcodes beyond which the usual way is no slower."""

_PAD = 64


def read_regular(data: bytes, allowed: Mapping[tuple[str, str], object], shape: Shape) -> object:
    """What a pickle makes; in a dict of many records, `Records` stand among the keys, with None for a value.

    Raises `Irregular` for all that is not known here.
    """
    try:
        return _Machine(_unframed(data), allowed, shape).run()
    except Irregular:
        raise
    # Whatever is wrong, the usual way finds out, and says so.
    except Exception as error:
        raise Irregular(str(error)) from error


def _unframed(data: bytes) -> bytes:
    """The opcodes without their frames, and some zeros behind them, so that a look ahead finds something."""
    parts, at = [data[:2]], 2
    if data[:2] not in (b"\x80\x04", b"\x80\x05"):
        raise Irregular("another protocol")
    while data[at : at + 1] == b"\x95":
        end = at + 9 + int.from_bytes(data[at + 1 : at + 9], "little")
        parts.append(data[at + 9 : end])
        at = end
    if at != len(data) or data[-1:] != b".":
        raise Irregular("not in frames")
    return b"".join([*parts, bytes(_PAD)])


class _Machine:
    """A stack, numbered values, and the opcodes that a `.metadata` is made of."""

    def __init__(self, data: bytes, allowed: Mapping[tuple[str, str], object], shape: Shape) -> None:
        self._data, self._allowed, self._shape = data, allowed, shape
        self._at, self._count = 2, 0
        self._stack: list[object] = []
        self._marks: list[int] = []
        self._values: dict[int, object] = {}
        self._numbers: dict[object, int] = {}
        self._lists: list[tuple[bytes, list[object], int]] = []
        self._list: tuple[list[object], int, int] | None = None
        self._lockstep: Lockstep | None = None

    def run(self) -> object:
        """The one value that is left at the end."""
        data, steps = self._data, 0
        known = _OPCODES
        while True:
            opcode = data[self._at]
            self._at += 1
            if opcode == 0x2E:
                (top,) = self._stack
                return top
            step = known.get(opcode)
            steps += 1
            if step is None or steps > _STEPS:
                raise Irregular(f"opcode {opcode}")
            step(self)

    def _push(self, value: object) -> None:
        self._stack.append(value)

    def _take(self, n: int) -> bytes:
        self._at += n
        return self._data[self._at - n : self._at]

    def _popped(self) -> list[object]:
        """What stands above the last mark, which is taken away."""
        mark = self._marks.pop()
        items = self._stack[mark:]
        del self._stack[mark:]
        return items

    def memoize(self) -> None:
        value = self._stack[-1]
        self._values[self._count] = value
        if isinstance(value, str | type):
            # The latest, as a key of a record may have been the text of something else before.
            self._numbers[value] = self._count
        self._count += 1

    def short_text(self) -> None:
        self._push(self._take(self._take(1)[0]).decode("utf-8", "surrogatepass"))

    def long_text(self) -> None:
        self._push(self._take(int.from_bytes(self._take(4), "little")).decode("utf-8", "surrogatepass"))

    def integer(self, n: int, signed: bool) -> None:
        self._push(int.from_bytes(self._take(n), "little", signed=signed))

    def long(self) -> None:
        self.integer(self._take(1)[0], True)

    def get(self, n: int) -> None:
        self._push(self._values[int.from_bytes(self._take(n), "little")])

    def mark(self) -> None:
        self._marks.append(len(self._stack))

    def new_list(self) -> None:
        """An empty list; or, at once, one whose opcodes are the very same as those of one before."""
        if self._data[self._at] != 0x94:
            self._push([])
            return
        begin = self._at + 1
        for opcodes, made, count in reversed(self._lists):
            if self._data.startswith(opcodes, begin):
                self._push(made)
                self.memoize()
                self._at = begin + len(opcodes)
                self._count += count
                return
        fresh: list[object] = []
        self._push(fresh)
        self._list = (fresh, begin, self._count + 1)

    def extend(self, items: list[object]) -> None:
        into = self._stack[-1]
        if type(into) is not list or any(into is made for _, made, _ in self._lists):
            raise Irregular("a list that was done")
        into += items

    def set_items(self, items: list[object]) -> None:
        into = self._stack[-1]
        if type(into) is not dict:
            raise Irregular("no dict")
        into.update(zip(items[0::2], items[1::2], strict=True))

    def tuple_of(self, n: int) -> None:
        items = tuple(self._stack[-n:])
        del self._stack[-n:]
        self._push(items)

    def named(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._push(self._allowed[str(module), str(name)])

    def new(self) -> None:
        arguments, kind = self._stack.pop(), self._stack.pop()
        if arguments != () or not isinstance(kind, type) or not issubclass(kind, StandIn):
            raise Irregular(f"made by {kind}")
        self._push(kind())

    def call(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if type(arguments) is not tuple or not callable(function):
            raise Irregular(f"made by {function}")
        self._push(function(*arguments))

    def build(self) -> None:
        """Give an object its state; behind one that ends a record others may follow that are like it."""
        state, value = self._stack.pop(), self._stack[-1]
        if not isinstance(value, StandIn):
            raise Irregular(f"a state of {type(value)}")
        put = getattr(value, "__setstate__", None)
        if put is not None:
            put(state)
        elif type(state) is dict and all(type(key) is str for key in state):
            value.__dict__.update(state)
            if self._list is not None and any(state[key] is self._list[0] for key in state):
                self._keep_list(self._list)
        else:
            raise Irregular("a state that is no dict")
        if type(value) is self._shape.value:
            self._skip_records(value)

    def _keep_list(self, done: tuple[list[object], int, int]) -> None:
        made, begin, count = done
        # What follows it in its owner's state makes nothing that is numbered.
        if self._data[self._at - 3 : self._at] == b"eub":
            self._lists.append((self._data[begin : self._at - 2], made, self._count - count))
        self._list = None

    def _skip_records(self, value: StandIn) -> None:
        """Read the records that follow one, as far as they are like it."""
        key = self._stack[-2]
        if not isinstance(key, StandIn) or type(key) is not self._shape.key or not self._marks:
            raise Irregular("a value without its key")
        if self._lockstep is None:
            self._lockstep = Lockstep(self._data, self._shape, self._numbers, self._values, key, value)
        while found := self._lockstep.read(self._at, self._count):
            records, self._at, self._count = found
            self._stack += [records, None]


_OPCODES: Mapping[int, Callable[[_Machine], None]] = {
    0x94: _Machine.memoize,
    0x8C: _Machine.short_text,
    0x58: _Machine.long_text,
    0x4B: lambda m: m.integer(1, False),
    0x4D: lambda m: m.integer(2, False),
    0x4A: lambda m: m.integer(4, True),
    0x8A: _Machine.long,
    0x68: lambda m: m.get(1),
    0x6A: lambda m: m.get(4),
    0x4E: lambda m: m._push(None),
    0x88: lambda m: m._push(True),
    0x89: lambda m: m._push(False),
    0x28: _Machine.mark,
    0x29: lambda m: m._push(()),
    0x7D: lambda m: m._push({}),
    0x5D: _Machine.new_list,
    0x74: lambda m: m._push(tuple(m._popped())),
    0x85: lambda m: m.tuple_of(1),
    0x86: lambda m: m.tuple_of(2),
    0x87: lambda m: m.tuple_of(3),
    0x65: lambda m: m.extend(m._popped()),
    0x61: lambda m: m.extend([m._stack.pop()]),
    0x75: lambda m: m.set_items(m._popped()),
    0x73: lambda m: m.set_items([m._stack.pop(-2), m._stack.pop()]),
    0x93: _Machine.named,
    0x81: _Machine.new,
    0x52: _Machine.call,
    0x62: _Machine.build,
}
