"""Ranks as warm processes of this machine: gloo on the CPU, NCCL with one GPU a rank, gloo on shared GPUs.

The driver's process starts them, listens and blames; it imports no torch and joins no group.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Self, cast

from ckptlab.errors import CancelledError, CheckpointError
from ckptlab.live.gang import Gang
from ckptlab.live.gpus import Device, place
from ckptlab.live.ranks import Progress, R, Seat
from ckptlab.live.roll import Roll
from ckptlab.live.wire import pack_call

_START_LIMIT = 120.0
_LONG = 3600.0  # the longest single wait: the system's own calls do not take endless


class LocalRanks:
    """`world` processes on this machine, kept warm between runs and started anew after a failure.

    `device` is "cpu" or "cuda"; None takes CUDA where there is a GPU for every rank. `backend` is
    torch.distributed's name: by default nccl with a GPU a rank, and gloo on the CPU and where more
    ranks than GPUs share them (rank r is on GPU r % GPUs). Raises `LayoutError` for ranks on CUDA
    without a GPU, or that would share one by nccl. A module that a rank has imported is not imported
    again when its file changes: `close()` and run on. Ranks are daemons: an op cannot use
    `multiprocessing`.
    """

    def __init__(self, world: int, device: Device | None = None, backend: str | None = None) -> None:
        self.world = world
        self._place = place(world, device, backend)
        self.device: str = self._place.device
        self.backend = self._place.backend
        self._gang: Future[Gang] | None = None
        self._lock = threading.Lock()
        self._running = False
        self._woken, self._waker = multiprocessing.Pipe(duplex=False)

    def start(self) -> None:
        """Begin to start the ranks and return at once; a run that comes before they are up waits for them."""
        with self._lock:
            if self._gang is None:
                self._gang = Future()
                threading.Thread(target=_start, args=(self._gang, self._seats()), daemon=True).start()

    @property
    def pids(self) -> tuple[int, ...]:
        """The process ids of the ranks; none before they are started."""
        gang = self._started()
        return gang.pids if gang else ()

    def run(
        self,
        op: Callable[..., R],
        *args: object,
        deadline: float | None = 60.0,
        progress: Progress | None = None,
    ) -> list[R]:
        """See `Ranks.run`."""
        packed = pack_call(op, args)
        with self._lock:
            if self._running:
                raise CheckpointError("these ranks are at work: wait for that run to end, or cancel() it")
            self._running = True
            while self._woken.poll():
                self._woken.recv_bytes()
        try:
            return cast("list[R]", self._run(packed, deadline, progress))
        finally:
            with self._lock:
                self._running = False

    def _run(self, packed: bytes, deadline: float | None, progress: Progress | None) -> list[object]:
        gang = self._joined_gang()
        roll = Roll(self.world, progress)
        try:
            gang.send(packed)
            self._listen(gang, roll, deadline)
            return roll.results()
        except BaseException:
            # Ranks that stopped at different places would meet in the wrong collective.
            if not roll.in_step:
                self._drop()
            raise

    def _joined_gang(self) -> Gang:
        """The ranks, alive and in their group."""
        gang = self._started()
        if gang is not None and not gang.whole:
            self._drop()
        self.start()
        future = self._gang
        assert future is not None
        while not future.done():
            if self._woken.poll(0.01):
                raise CancelledError("the run was cancelled while its ranks were starting")
        try:
            gang = future.result()
            if not gang.threads:
                roll = Roll(self.world)
                self._listen(gang, roll, _START_LIMIT)
                gang.threads = cast("list[int]", roll.results())
        except BaseException:
            self._drop()
            raise
        return gang

    def _listen(self, gang: Gang, roll: Roll, deadline: float | None) -> None:
        """Hear the ranks out; raises `RankError` at the deadline and `CancelledError` when cancelled."""
        until = time.monotonic() + (float("inf") if deadline is None else deadline)
        while not roll.over:
            left = until - time.monotonic()
            if left <= 0:
                assert deadline is not None
                raise roll.overdue(deadline, gang.stacks(roll.silent))
            for rank, message in gang.listen(min(left, roll.patience, _LONG), self._woken):
                roll.hear(rank, message)
            if self._woken.poll():
                raise CancelledError("the run was cancelled; its ranks have been ended")

    def cancel(self) -> None:
        """See `Ranks.cancel`."""
        with self._lock:
            if self._running:
                self._waker.send_bytes(b"!")

    def kill(self, rank: int) -> None:
        """SIGKILL one rank, to see what a run makes of it; raises `CheckpointError` without such a rank."""
        gang = self._started()
        if gang is None or not 0 <= rank < self.world:
            raise CheckpointError(f"there is no rank {rank} to kill: {len(self.pids)} ranks are up")
        gang.kill(rank)

    def close(self) -> None:
        """End the ranks; a later run starts new ones."""
        self.cancel()
        self._drop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "up" if self._started() else "not started"
        return f"LocalRanks({self.world} on {self._place}, {state})"

    def _seats(self) -> list[Seat]:
        where, world = self._place, self.world
        return [Seat(r, world, r, world, where.device, where.backend, where.gpus) for r in range(world)]

    def _started(self) -> Gang | None:
        future = self._gang
        return future.result() if future and future.done() and not future.exception() else None

    def _drop(self) -> None:
        """Let go of the ranks, those that are still starting too."""
        with self._lock:
            future, self._gang = self._gang, None
        if future is not None:
            future.add_done_callback(_end)


def _start(future: Future[Gang], seats: list[Seat]) -> None:
    try:
        future.set_result(Gang(seats))
    except BaseException as error:  # whoever waits for the ranks raises it
        future.set_exception(error)


def _end(future: Future[Gang]) -> None:
    if not future.exception():
        future.result().end()
