"""Lesson 8: a `.metadata` that would run code.

These files are harmless: what they would run makes an empty file beside them. They are written opcode by
opcode, and torch reads them on real ranks. The process that asks imports no pickle and unpickles nothing.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from ckptlab.errors import CheckpointError
from ckptlab.lessons.ask import WAITING, Verdict, right, wrong
from ckptlab.live import Context, Ranks
from ckptlab.storage import open_checkpoint

RAN = "ran"
"""The file that appears in a folder if something in its `.metadata` was run."""


def read_by_stock(context: Context, folder: str) -> str:
    """What happens when stock DCP reads the `.metadata` of a folder: whether the file `ran` appears."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader

    if context.rank:
        return ""
    ran = Path(folder, RAN)
    ran.unlink(missing_ok=True)
    try:
        FileSystemReader(folder).read_metadata()
        said = "read it without a word"
    except Exception as error:
        said = f"raised {type(error).__name__}"
    return f"Stock DCP {said}; {'its code RAN' if ran.exists() else 'nothing ran'}."


@dataclass(frozen=True)
class Listing:
    """A pickle, opcode by opcode, as the standard library's `pickletools` tells it; nothing is run."""

    data: bytes

    def __repr__(self) -> str:
        out = StringIO()
        pickletools.dis(self.data, out)
        lines = out.getvalue().splitlines()
        more = [f"... and {len(lines) - 40} lines more"] if len(lines) > 40 else []
        return "\n".join(lines[:40] + more)


def listing(folder: str) -> Listing:
    """The `.metadata` of a folder, opcode by opcode."""
    return Listing(Path(folder, ".metadata").read_bytes())


def one(folder: str) -> str:
    """A folder with a `.metadata` that, when it is unpickled, makes the empty file `ran` beside it."""
    return _written(folder, "hostile", lambda ran: b"cio\nopen\n" + _text(ran) + _text("w") + b"\x86R")


def opened(folder: str) -> Verdict:
    """What ckptlab says to it, and whether anything ran."""
    ran = Path(folder, RAN)
    ran.unlink(missing_ok=True)
    try:
        open_checkpoint(folder)
        said = "opened it"
    except CheckpointError as error:
        said = f"refused: {error}".replace(folder, Path(folder).name)
    return Verdict(None, f"ckptlab {said}; {'its code RAN' if ran.exists() else 'nothing ran'}.")


def five(folder: str) -> dict[str, str]:
    """Five folders, A to E, each with a `.metadata`: some make the file `ran` when stock DCP reads them."""
    made: dict[str, Callable[[str], bytes]] = {
        "A": lambda ran: b"}" + _text("weight") + b"]s",
        "B": lambda ran: b"}(" + b"".join(map(_text, ("io.open", ran, "os.system", f"touch {ran}"))) + b"u",
        "C": lambda ran: b"}" + _text("weight") + b"cio\nopen\n" + _text(ran) + _text("w") + b"\x86Rs",
        "D": lambda ran: b"}" + _text("io") + _text("open") + b"\x93" + _text(ran) + _text("x") + b"\x86R0",
        "E": lambda ran: b"cio\nopen\n" + _text(ran) + _text("w") + b"\x860" + b"0}",
    }
    return {name: _written(folder, name, make) for name, make in made.items()}


_WHY = {
    "A": "it makes a dict with an empty list in it",
    "B": "io.open and os.system stand there as text, and text is never called",
    "C": "GLOBAL fetches io.open, and REDUCE calls it",
    "D": "STACK_GLOBAL fetches what two texts name, io and open, and REDUCE calls it",
    "E": "io.open is fetched, but no REDUCE follows, and both are dropped",
}


def check_five(ranks: Ranks, folders: Mapping[str, str], answer: set[str] | None) -> Verdict:
    """Which of the five make the file `ran` when stock DCP reads them; it reads them now, on rank 0."""
    if answer is None:
        return WAITING
    if strange := sorted(answer - folders.keys()):
        return wrong(f"there is no {strange[0]!r}; the folders are {', '.join(folders)}.")
    for name, folder in folders.items():
        ranks.run(read_by_stock, folder)
        ran = Path(folder, RAN).exists()
        if ran != (name in answer):
            seen = "ran something" if ran else "ran nothing"
            return wrong(f"stock DCP read {name} just now, and it {seen}: {_WHY[name]}.")
    return right(
        f"{' and '.join(sorted(answer))} ran something when stock DCP read them just now. ckptlab opens none "
        "of the five, and runs nothing of any."
    )


def _written(folder: str, name: str, make: Callable[[str], bytes]) -> str:
    target = Path(folder, name)
    target.mkdir()
    (target / ".metadata").write_bytes(b"\x80\x04" + make(str(target / RAN)) + b".")
    return str(target)


def _text(value: str) -> bytes:
    body = value.encode()
    return b"X" + len(body).to_bytes(4, "little") + body
