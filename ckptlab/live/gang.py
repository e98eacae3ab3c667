"""The processes of a group of local ranks: started, listened to, asked for their stacks, ended.

Knows nothing of who is to blame, of deadlines, nor of torch.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import shutil
import signal
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType

from ckptlab.errors import CheckpointError
from ckptlab.live.rank import Call, main
from ckptlab.live.ranks import Seat
from ckptlab.live.stacks import NO_STACK, op_stack
from ckptlab.live.wire import Failure, Message, unpack

# What makes a first run slow, imported once by the server that forks the ranks. DTensor imports
# torch._dynamo late, at its first use. The server skips what is not installed.
_WARM = [
    "torch",
    "torch.distributed",
    "torch.distributed.checkpoint",
    "torch.distributed.device_mesh",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "torch._dynamo",
    "ckptlab.live.group",
    "ckptlab.live.ops",
]

_starting = threading.Lock()


class Gang:
    """One process for each of some seats; ended once, never mended.

    They meet in a file of their own, or with the rest of their world at `meeting` ("tcp://host:port").
    Each one's first message is its answer to having joined: its main thread's id, kept in `threads` by
    whoever hears it. Processes are counted from 0, in the order of `seats`.
    """

    def __init__(self, seats: Sequence[Seat], meeting: str | None = None) -> None:
        self._seats = seats
        self.threads: list[int] = []
        self._room = tempfile.mkdtemp(prefix="ckptlab-ranks-")
        self._tidy = weakref.finalize(self, shutil.rmtree, self._room, ignore_errors=True)
        self._processes: list[BaseProcess] = []
        self._pipes: list[Connection] = []
        self._gone: set[int] = set()
        context, forked = _context(seats[0])
        try:
            with _starting, _without_main():
                for seat in seats:
                    self._start(context, seat, meeting or f"file://{self._room}/store", forked)
        except (EOFError, OSError) as error:
            self.end()
            raise CheckpointError(
                f"the ranks could not be started ({error or type(error).__name__}); see what "
                f"`{sys.executable} -c 'import torch.distributed'` says"
            ) from error

    def _start(self, context: BaseContext, seat: Seat, meeting: str, forked: bool) -> None:
        ours, theirs = context.Pipe()
        # Not annotated in typeshed's BaseContext, present in every context.
        process: BaseProcess = context.Process(  # type: ignore[attr-defined]
            target=main,
            args=(seat, theirs, meeting, self._stack_file(seat), forked),
            name=f"ckptlab rank {seat.rank}",
            daemon=True,
        )
        process.start()
        theirs.close()
        self._processes.append(process)
        self._pipes.append(ours)

    @property
    def pids(self) -> tuple[int, ...]:
        """The process id of each rank."""
        return tuple(process.pid or -1 for process in self._processes)

    @property
    def whole(self) -> bool:
        """Whether every rank is alive."""
        return not self._gone and all(process.exitcode is None for process in self._processes)

    def _stack_file(self, seat: Seat) -> Path:
        return Path(self._room) / f"stack-{seat.rank}"

    def send(self, packed: bytes) -> None:
        """Hand a packed call to every rank; a rank that is gone will be heard of as dead."""
        data = pickle.dumps(Call(packed, tuple(sys.path), Path.cwd(), dict(os.environ)))
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                pipe.send_bytes(data)

    def listen(
        self, seconds: float | None = None, wake: Connection | None = None
    ) -> list[tuple[int, Message]]:
        """What ranks say within `seconds`, at least one message unless time is up or `wake` is readable."""
        watched = [rank for rank in range(len(self._pipes)) if rank not in self._gone]
        sources: list[object] = [wake] if wake else []
        sources += [self._pipes[rank] for rank in watched]
        # A child of a dead rank may hold its pipe open: the sentinel tells of the death all the same.
        sources += [self._processes[rank].sentinel for rank in watched]
        ready = set(wait(sources, seconds))  # type: ignore[arg-type]
        heard: list[tuple[int, Message]] = []
        for rank in watched:
            if self._pipes[rank] in ready:
                heard.append((rank, self._receive(rank)))
            elif self._processes[rank].sentinel in ready:
                heard.append((rank, self._obituary(rank)))
        return heard

    def _receive(self, rank: int) -> Message:
        try:
            return unpack(self._pipes[rank].recv_bytes())
        except (EOFError, OSError):
            return self._obituary(rank)

    def _obituary(self, rank: int) -> Failure:
        self._gone.add(rank)
        process = self._processes[rank]
        # Known at once, unless the machine is so busy that the server which forks cannot tell of it.
        process.join(2.0)
        return Failure(_cause_of_death(process.exitcode), died=True)

    def kill(self, rank: int) -> None:
        """End one rank as the system would: SIGKILL."""
        self._processes[rank].kill()

    def stacks(self, ranks: Sequence[int], seconds: float = 0.5) -> dict[int, str]:
        """What each of `ranks` is doing, most recent call first; waits at most `seconds` for the answers."""
        if not hasattr(signal, "SIGUSR1") or not self.threads:
            return dict.fromkeys(ranks, NO_STACK)
        for rank in ranks:
            with contextlib.suppress(OSError):
                os.kill(self.pids[rank], signal.SIGUSR1)
        files = {rank: self._stack_file(self._seats[rank]) for rank in ranks}
        until = time.monotonic() + seconds
        sizes: list[int] = []
        while time.monotonic() < until:
            time.sleep(0.02)
            before, sizes = sizes, [file.stat().st_size for file in files.values()]
            if all(sizes) and sizes == before:
                break
        return {
            rank: op_stack(file.read_text(errors="replace"), self.threads[rank])
            for rank, file in files.items()
        }

    def end(self) -> None:
        """Kill what is left; the ranks hold nothing that is worth a slower end."""
        for process in self._processes:
            process.kill()
        until = time.monotonic() + 0.2
        for process in self._processes:
            process.join(max(0.0, until - time.monotonic()))
        for pipe in self._pipes:
            pipe.close()
        self._tidy()


def _context(seat: Seat) -> tuple[BaseContext, bool]:
    """How processes are made for a seat's device, and whether a server forks them.

    A fork of a process in which CUDA has been touched is broken; on macOS the system's own
    libraries do not bear forks.
    """
    if seat.device == "cuda" or sys.platform != "linux":
        return multiprocessing.get_context("spawn"), False
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_WARM)
    return context, True


def _cause_of_death(exitcode: int | None) -> str:
    if exitcode is None:
        return "closed its pipe"
    if exitcode >= 0:
        return f"ended with exit status {exitcode}"
    hint = (
        " (if nobody did that: the system does when memory runs out)" if exitcode == -signal.SIGKILL else ""
    )
    return f"killed by {signal.Signals(-exitcode).name}{hint}"


class _Nameless(ModuleType):
    """Another module in all but its file and spec."""

    def __init__(self, real: ModuleType) -> None:
        super().__init__(real.__name__)
        self._real = real

    def __getattr__(self, name: str) -> object:
        if name == "__file__":
            raise AttributeError(name)
        value: object = getattr(self._real, name)
        return value


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Keep multiprocessing from running the driver's script again in each rank.

    It does so for what has a file or a spec, and an unguarded script would then start ranks in its
    ranks. Ops are importable without it. The script's own globals stay as they are.
    """
    real = sys.modules["__main__"]
    sys.modules["__main__"] = _Nameless(real)
    try:
        yield
    finally:
        sys.modules["__main__"] = real
