"""The program of one rank: join the group, then answer calls until the driver is gone.

The same for a rank of this machine and of a cluster. Knows nothing of other ranks.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import pickle
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue

from ckptlab.live.ranks import Context, Seat
from ckptlab.live.wire import Told, answer, call

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Call:
    """A packed call, and where the driver stands: its import path, working directory and environment."""

    packed: bytes
    path: tuple[str, ...]
    folder: Path
    environment: Mapping[str, str]


def main(seat: Seat, pipe: Connection, meeting: str, stack: Path, forked: bool) -> None:
    """Serve `pipe` once the group has met at `meeting`; write the Python stack to `stack` on SIGUSR1.

    The first answer is the main thread's id, once the rank is in the group.
    """
    _guard(stack, forked)
    known = dict(os.environ)
    inbox: SimpleQueue[Call] = SimpleQueue()
    outbox: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_read, args=(pipe, inbox), daemon=True).start()
    threading.Thread(target=_write, args=(pipe, outbox), daemon=True).start()
    context = Context(
        seat.rank,
        seat.world,
        seat.own_device,
        seat.backend,
        lambda what: outbox.put(pickle.dumps(Told(what))),
    )
    outbox.put(answer(lambda: _join(seat, meeting)))
    while True:
        request = inbox.get()
        _follow(known, request.environment)
        known = dict(request.environment)
        outbox.put(_serve(context, request))


def _join(seat: Seat, meeting: str) -> int:
    from ckptlab.live import group  # torch, which the driver must not import with this module

    group.join(seat, meeting)
    return threading.get_ident()


def _follow(known: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Change in the environment what the driver has changed in its own; what the rank has set stays."""
    for name in {*known, *now}:
        if name not in now:
            os.environ.pop(name, None)
        elif known.get(name) != now[name]:
            os.environ[name] = now[name]


def _serve(context: Context, request: Call) -> bytes:
    def work() -> object:
        sys.path[:] = request.path
        os.chdir(request.folder)
        return call(context, request.packed)

    packed = answer(work)
    # A rank is ended without ceremony: what it printed must be out before its answer is.
    sys.stdout.flush()
    sys.stderr.flush()
    return packed


def _read(pipe: Connection, inbox: SimpleQueue[Call]) -> None:
    """Pass calls on; the pipe's end is the driver's, and so the rank's."""
    while True:
        try:
            inbox.put(pipe.recv())
        except (EOFError, OSError):
            os._exit(0)


def _write(pipe: Connection, outbox: SimpleQueue[bytes]) -> None:
    """Send on a thread of its own, so that telling never waits for a busy driver."""
    while True:
        try:
            pipe.send_bytes(outbox.get())
        except OSError:
            os._exit(0)


def _guard(stack: Path, forked: bool) -> None:
    # A notebook's interrupt reaches the whole process group; the driver decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(faulthandler, "register"):
        faulthandler.register(signal.SIGUSR1, file=stack.open("w"), all_threads=True)
    # Not for a spawned rank: there the signal comes when the thread that started it ends.
    if forked and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
