"""Which ranks are gone, found out by those that are left.

A collective that breaks says nothing of who broke it, and ranks that do not talk to the dead one
directly wait on. So ranks leave notes in the job's store: which process each is, and, once one has
seen that something is wrong, that it is still there. It knows no collectives and no files.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Protocol

GRACE = 2.0
"""Seconds in which a rank that is there says so."""


class Store(Protocol):
    """What `torch.distributed` ranks meet at."""

    def set(self, key: str, value: str, /) -> None:
        """Leave a note."""

    def get(self, key: str, /) -> bytes:
        """Read a note that is there."""

    def check(self, keys: list[str], /) -> bool:
        """Whether all these notes are there."""


@dataclass(frozen=True)
class Missing:
    """The ranks that are not there any more; `dead` if it is known that their processes ended."""

    ranks: tuple[int, ...]
    dead: bool

    def __str__(self) -> str:
        if not self.ranks:
            return "ranks lost each other, though each is still there"
        who = f"rank{'s' * (len(self.ranks) > 1)} {', '.join(map(str, self.ranks))}"
        if self.dead:
            return f"{who} died"
        return f"{who} {'does' if len(self.ranks) == 1 else 'do'} not answer"


@dataclass(frozen=True)
class Roll:
    """The roll of some ranks, `me` among them, kept in the store of their job."""

    store: Store
    me: int
    ranks: tuple[int, ...]

    def enlist(self) -> None:
        """Say which process this rank is."""
        self.store.set(_name(self.me), f"{_this_machine()} {os.getpid()}")

    @property
    def called(self) -> bool:
        """Whether another rank has seen that something is wrong."""
        with suppress(RuntimeError):
            return self.store.check([self._key("called")])
        return True

    def call(self) -> Missing:
        """Say that something is wrong and that this rank is there; who else is not."""
        try:
            self.store.set(self._key("called"), "")
            self.store.set(self._key(f"there {self.me}"), "")
            until = time.monotonic() + GRACE
            while True:
                silent = [rank for rank in self.ranks if not self.store.check([self._key(f"there {rank}")])]
                dead = [rank for rank in silent if self._dead(rank)]
                if len(silent) == len(dead) or time.monotonic() >= until:
                    return Missing(tuple(dead or silent), bool(dead))
                time.sleep(0.02)
        except RuntimeError:
            # Rank 0 serves the store wherever the job's launcher does not.
            return Missing((0,) if self.me else (), False)

    def _dead(self, rank: int) -> bool:
        if not self.store.check([_name(rank)]):
            return False
        machine, _, pid = self.store.get(_name(rank)).decode().rpartition(" ")
        return machine == _this_machine() and not _running(int(pid))

    def _key(self, what: str) -> str:
        return f"ckptlab/{blake2b(repr(self.ranks).encode(), digest_size=8).hexdigest()}/{what}"


def _name(rank: int) -> str:
    return f"ckptlab/rank {rank}"


def _this_machine() -> str:
    # Containers of one machine may share its name, but not its process ids.
    with suppress(OSError):
        return f"{socket.gethostname()} {Path('/proc/self/ns/pid').readlink()}"
    return f"{socket.gethostname()} {os.getpid()}"


def _running(pid: int) -> bool:
    """Whether there is such a process; one that ended and was not yet collected is none."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in {"Z", "X"}
