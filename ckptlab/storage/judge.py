"""A judge of pickles: each is followed, its names are looked up in the list of harmless ones, none is run.

It is given a way to read bytes, and says what it refuses. It knows no checkpoint and no path.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Literal

from ckptlab.errors import CorruptError
from ckptlab.storage.archive import Archive, Read
from ckptlab.storage.asks import Asks, follow
from ckptlab.storage.harmless import METADATA, VALUES, Name, danger
from ckptlab.storage.sound import records
from ckptlab.storage.template import template

ZIP = b"PK\x03\x04"
_LEGACY = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""What stands behind the protocol in the first pickle of a file that torch wrote before 1.6."""

_FRONT = 64 << 20
"""Bytes of a file that are looked at for pickles without a directory that says where they are."""

_LONG = 1 << 20
_TAIL = 16 << 20
_DEEPEST = 8
_SHOWN = 4
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_CODE = ("code/", "constants.pkl", "bytecode.pkl")


@dataclass(frozen=True)
class Refused:
    """A pickle that was not found harmless.

    "danger": it asks for names that are known to run something, load more or reach out. "unknown": it asks
    for others, or cannot be followed. `names` are those that are on no list of harmless ones, `places` says
    where in `file` such pickles are.
    """

    severity: Literal["danger", "unknown"]
    file: str
    detail: str
    places: tuple[str, ...]
    names: tuple[str, ...] = ()

    @property
    def remedy(self) -> str:
        """What to do."""
        if self.severity == "danger":
            return "Give it to no unpickler, and ask where it came from; ckptlab reads the rest without it."
        return (
            "ckptlab and torch.load(weights_only=True) refuse it. If you know what it is, "
            "torch.serialization.add_safe_globals allows a class."
        )

    def __str__(self) -> str:
        more = f" and {len(self.places) - 1:,} more" if len(self.places) > 1 else ""
        where = f"{self.file}, {self.places[0]}{more}" if self.places[0] else self.file
        return f"{self.severity:7} {where}: {self.detail}\n{' ' * 10}{self.remedy}"


@dataclass
class Judge:
    """Judges what it is given, and counts the `pickles`."""

    pickles: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def metadata(self, data: bytes, name: str) -> Iterator[Refused]:
        """A `.metadata`: a pickle of its own, with a list of its own. It can be read by `read_metadata`."""
        if len(data) <= _LONG:
            yield from self.pickle(data, name, "", METADATA, outside=False)
        else:
            # Millions of opcodes; the list that it was read by is the same.
            self._count()

    def tensor(
        self, read: Read, length: int, dtype: str, shape: tuple[int, ...], file: str, place: str
    ) -> Iterator[Refused]:
        """A chunk: what torch writes for such a tensor is known byte for byte, anything else is judged."""
        known = template(dtype, shape)
        split, at = len(known.before), known.crc_at
        if length == known.length and read(0, split) == known.before:
            after = read(split + known.nbytes, length - split - known.nbytes)
            crc = int.from_bytes(after[at - split - known.nbytes :][:4], "little")
            if after == known.after(crc):
                self._count()
                if dtype in ("uint8", "int8") and known.nbytes:
                    yield from self._nested(read(split, min(known.nbytes, _FRONT)), file, place, 1)
                return
        yield from self.stream(read, length, file, place)

    def stream(
        self, read: Read, length: int, file: str, place: str, strict: bool = False
    ) -> Iterator[Refused]:
        """What a reader would take for an archive, or for pickles one after the other, by how it begins.

        Unless `strict`, bytes that are no pickle, or no whole one, are fine as long as no name is asked for.
        """
        if read(0, min(length, 4)) == ZIP:
            yield from self.archive(read, length, file, place, strict)
        else:
            yield from self._front(read(0, min(length, _FRONT)), file, place, strict)

    def archive(
        self, read: Read, length: int, file: str, place: str, strict: bool = False, depth: int = 0
    ) -> Iterator[Refused]:
        """An archive as `torch.save` writes them; one in which torch would find no pickle is fine."""
        try:
            found, starts = records(read, length)
            if len({name.lower() for name in found.names}) < len(found.names):
                raise CorruptError("it has two records of one name")
        except CorruptError as error:
            tail = min(length, _TAIL)
            if strict or b"data.pkl" in read(length - tail, tail).lower():
                why = (
                    str(error).removeprefix("it: ").removeprefix("no torch.save archive, or a damaged one: ")
                )
                detail = f"readers may not agree on what is in this archive: {why}"
                yield Refused("unknown", file, detail, (place,))
            return
        if any(name.startswith(_CODE) for name in found.names):
            detail = "is a TorchScript program: torch.load hands it to torch.jit, which runs what is in it"
            yield Refused("danger", file, detail, (place,), ("torch.jit.load",))
        for name, start in starts.items():
            yield from self._record(read, found, name, start, file, place, depth)

    def _record(
        self, read: Read, archive: Archive, name: str, start: int, file: str, place: str, depth: int
    ) -> Iterator[Refused]:
        where = f"{place}, record {name}" if place else f"record {name}"
        size = archive.record(name).file_size
        # Readers of archives take small letters for large ones.
        if name.lower().endswith(".pkl"):
            yield from self.pickle(read(start, size), file, where, VALUES, outside=True, depth=depth)
        elif _begins(read(start, min(size, 4))):
            yield from self._nested(read(start, min(size, _FRONT)), file, where, depth + 1)

    def pickle(
        self, data: bytes, file: str, place: str, allowed: Collection[Name], outside: bool, depth: int = 0
    ) -> Iterator[Refused]:
        """One pickle, which may refer to things `outside` or not, and what is nested in it."""
        self._count()
        asks = follow(data, keep=_begins)
        if asks.outside and not outside:
            asks.odd.append("refers to something outside itself")
        yield from _verdict(asks, file, place, allowed)
        for inner in asks.constants:
            yield from self._nested(inner, file, _inside(place), depth + 1)

    def _front(self, data: bytes, file: str, place: str, strict: bool) -> Iterator[Refused]:
        """Pickles one after the other; of those that torch wrote before 1.6, five, then elements."""
        at, legacy = 0, data[2:].startswith(_LEGACY)
        for number in range(5 if legacy else len(data)):
            asks = follow(data, at, keep=_begins)
            if not (legacy or _begins(data[at : at + 4]) or (strict and not number)):
                asks = _sure(asks)
                if not asks.names:
                    return
            self._count()
            yield from _verdict(asks, file, place, VALUES)
            for inner in asks.constants:
                yield from self._nested(inner, file, _inside(place), 1)
            at = asks.end
            if not asks.whole or at >= len(data):
                return

    def _nested(self, data: bytes, file: str, place: str, depth: int) -> Iterator[Refused]:
        """Bytes that begin as an archive or a pickle does, and may be one by chance only."""
        if not _begins(data):
            return
        if depth > _DEEPEST:
            yield Refused("unknown", file, f"is nested deeper than {_DEEPEST} pickles", (place,))
        elif data.startswith(ZIP):
            yield from self.archive(lambda at, n: data[at : at + n], len(data), file, place, depth=depth)
        else:
            asks = _sure(follow(data, keep=_begins))
            self._count(bool(asks.names))
            yield from _verdict(asks, file, place, VALUES)
            for inner in asks.constants:
                yield from self._nested(inner, file, _inside(place), depth + 1)

    def _count(self, one: bool = True) -> None:
        with self._lock:
            self.pickles += one


def _inside(place: str) -> str:
    return f"bytes in {place}" if place else "bytes in it"


def _begins(data: bytes) -> bool:
    """Whether bytes begin as an archive does, or a pickle of protocol 2 and later."""
    return data[:4] == ZIP or (data[:1] == b"\x80" and 2 <= (data[1:2] or b"\0")[0] <= 5)


def _sure(asks: Asks) -> Asks:
    """What is certain of bytes that may be a pickle by chance: names that can be names."""
    names = {name: None for name in asks.names if all(map(_IDENTIFIER.fullmatch, name))}
    return Asks(names, [], True, asks.constants, asks.end, asks.whole)


def _verdict(asks: Asks, file: str, place: str, allowed: Collection[Name]) -> Iterator[Refused]:
    """What is refused of a pickle, if anything."""
    names = [name for name in asks.names if name not in allowed]
    if not names and not asks.odd:
        return
    known = [(name, words) for name in names if (words := danger(name))]
    shown = list(dict.fromkeys(".".join(name) for name in (*(name for name, _ in known), *names)))
    said = []
    if names:
        more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
        first = f"{shown[0]}, which {known[0][1] if known else 'is on no list of harmless names'}"
        rest = f"; also for {', '.join(shown[1:_SHOWN])}{more}" if len(shown) > 1 else ""
        said.append(f"asks for {first}{rest}")
    detail = "; ".join(dict.fromkeys([*said, *asks.odd]))
    yield Refused("danger" if known else "unknown", file, detail, (place,), tuple(shown))
