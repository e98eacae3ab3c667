"""Ranks as the engines of an ipyparallel cluster that the user made: SLURM, SSH, MPI, PBS, LSF ...

One engine is one rank, in the order of the client's ids. Knows nothing of how the cluster was
started, nor of what an engine does with a call (`node`).
"""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal, Protocol, Self, cast

from ckptlab.errors import CancelledError, CheckpointError, LayoutError
from ckptlab.live import node
from ckptlab.live.ranks import Progress, R, Seat
from ckptlab.live.roll import Roll
from ckptlab.live.stacks import NO_STACK
from ckptlab.live.wire import Failure, Message, pack_call, unpack

_START_LIMIT = 120.0
_GLANCE = 0.01  # seconds between two looks at what the client has received


class AsyncResult(Protocol):
    """What is used of `ipyparallel.AsyncResult`."""

    msg_ids: list[str]

    def ready(self) -> bool:
        """Whether the result is here."""
        ...

    def get(self) -> bytes:
        """The result, or what the engine raised."""
        ...

    def wait_for_output(self, timeout: float) -> bool:
        """Wait for the last of the engine's output."""
        ...


class View(Protocol):
    """What is used of `ipyparallel.DirectView`."""

    def apply_async(self, f: Callable[..., object], *args: object) -> AsyncResult:
        """Call `f` on the engines of the view."""
        ...

    def apply_sync(self, f: Callable[..., object], *args: object) -> object:
        """The same, and wait for the result."""
        ...


class Client(Protocol):
    """What is used of `ipyparallel.Client`."""

    metadata: dict[str, dict[str, str]]

    @property
    def ids(self) -> list[int]:
        """The engines that are alive."""
        ...

    def __getitem__(self, engines: int | list[int]) -> View: ...

    def send_signal(self, sig: int, targets: list[int], block: bool) -> object:
        """Signal some engines."""
        ...


class ClusterRanks:
    """Every engine of an `ipyparallel.Client` as one rank.

    `device` is "cpu" or "cuda"; None takes CUDA where every engine has a GPU of its own. The engines
    must be able to import ckptlab and the op's module; what a rank prints goes to its engine's log.
    Raises `CheckpointError` without ipyparallel, `LayoutError` without engines or with more engines
    than GPUs on a host. An engine that died is named; only its cluster can start another.
    """

    def __init__(
        self, client: Client, device: Literal["cpu", "cuda"] | None = None, backend: str | None = None
    ) -> None:
        if importlib.util.find_spec("ipyparallel") is None:
            raise CheckpointError("ranks on a cluster need ipyparallel: pip install ckptlab[cluster]")
        self._client = client
        self._ids = sorted(client.ids)
        if not self._ids:
            raise LayoutError("the cluster has no engines yet: client.wait_for_engines(n) first")
        hosts = [cast("node.Host", client[engine].apply_sync(node.survey)) for engine in self._ids]
        self._seats = seat_engines(hosts, device, backend)
        self._host = hosts[0].name if len({host.name for host in hosts}) > 1 else "127.0.0.1"
        self.world = len(self._ids)
        self.device: str = self._seats[0].device
        self._joined = False
        self._running = threading.Lock()
        self._cancelled = threading.Event()

    def run(
        self,
        op: Callable[..., R],
        *args: object,
        deadline: float | None = 60.0,
        progress: Progress | None = None,
    ) -> list[R]:
        """See `Ranks.run`; also raises `CheckpointError` when an engine has gone since."""
        packed = pack_call(op, args)
        if not self._running.acquire(blocking=False):
            raise CheckpointError("these ranks are at work: wait for that run to end, or cancel() it")
        try:
            self._cancelled.clear()
            if gone := sorted(set(self._ids) - set(self._client.ids)):
                raise CheckpointError(
                    f"engines {gone} are gone: restart the cluster and make new ClusterRanks", gone
                )
            if not self._joined:
                self._join()
            results = self._collect(Roll(self.world, progress), deadline, node.serve, packed)
            return cast("list[R]", results)
        finally:
            self._running.release()

    def _join(self) -> None:
        """Bring the engines into a new process group, which later runs find."""
        port = self._client[self._ids[0]].apply_sync(node.open_meeting, self.world)
        self._collect(Roll(self.world), _START_LIMIT, node.start, f"tcp://{self._host}:{port}")
        self._joined = True

    def _collect(
        self, roll: Roll, deadline: float | None, work: Callable[..., bytes], *args: object
    ) -> list[object]:
        pending = [
            _Pending(self._client, engine, work, seat, args)
            for engine, seat in zip(self._ids, self._seats, strict=True)
        ]
        try:
            self._listen(roll, pending, deadline)
            return roll.results()
        except BaseException:
            if not roll.in_step:
                self._interrupt(pending)
                self._end()
            raise

    def _listen(self, roll: Roll, pending: Sequence[_Pending], deadline: float | None) -> None:
        until = time.monotonic() + (float("inf") if deadline is None else deadline)
        while not roll.over:
            if self._cancelled.is_set():
                raise CancelledError("the run was cancelled; its ranks have been ended")
            if time.monotonic() > until:
                assert deadline is not None
                silent = roll.silent
                self._interrupt(pending)
                raise roll.overdue(deadline, {rank: pending[rank].last_stack() for rank in silent})
            alive = set(self._client.ids)
            for rank in roll.silent:
                for message in pending[rank].news(alive):
                    roll.hear(rank, message)
            if not roll.over:
                time.sleep(_GLANCE)

    def _interrupt(self, pending: Sequence[_Pending], seconds: float = 2.0) -> None:
        """SIGINT the engines that wait for their rank, until they are free or `seconds` are over.

        An interrupt is lost on an engine that has not come to the call yet, so it is repeated.
        """
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            alive = set(self._client.ids)
            busy = [one for one in pending if not one.ready and one.engine in alive]
            if not busy:
                return
            with contextlib.suppress(Exception):  # any of them may go at any moment
                self._client.send_signal(signal.SIGINT, targets=[one.engine for one in busy], block=False)
            soon = time.monotonic() + 0.5
            while time.monotonic() < soon and not all(one.ready for one in busy):
                time.sleep(_GLANCE)

    def cancel(self) -> None:
        """See `Ranks.cancel`."""
        self._cancelled.set()

    def close(self) -> None:
        """End the ranks; the cluster is its maker's to stop."""
        self.cancel()
        self._end()

    def _end(self) -> None:
        self._joined = False
        with contextlib.suppress(Exception):  # the cluster may be gone already
            alive = [engine for engine in self._ids if engine in self._client.ids]
            self._client[alive].apply_async(node.end)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _Pending:
    """What one engine was asked, and how much of its output has been read."""

    def __init__(
        self, client: Client, engine: int, work: Callable[..., bytes], seat: Seat, args: tuple[object, ...]
    ) -> None:
        self.engine = engine
        self._result = client[engine].apply_async(work, seat, *args)
        # The client forgets a finished call's record; this one goes on being filled.
        self._record = client.metadata[self._result.msg_ids[0]]
        self._read = 0

    @property
    def ready(self) -> bool:
        """Whether the engine has answered, or ipyparallel has for it."""
        return self._result.ready()

    def news(self, alive: set[int]) -> list[Message]:
        """What was told since the last look, and the answer if there is one."""
        if not self.ready:
            dead = [] if self.engine in alive else [Failure("its engine is gone from the cluster", died=True)]
            return [*self._told(), *dead]
        self._result.wait_for_output(1.0)
        return [*self._told(), self._answer()]

    def last_stack(self) -> str:
        """Where the op was when it was interrupted."""
        answer = self._answer() if self.ready else None
        return answer.trace if isinstance(answer, Failure) else NO_STACK

    def _answer(self) -> Message:
        try:
            return unpack(self._result.get())
        except Exception as error:  # whatever ipyparallel makes of a lost engine
            return Failure(f"{type(error).__name__}: {error}", died=True)

    def _told(self) -> list[Message]:
        text = self._record["stdout"]
        end = text.rfind("\n") + 1
        lines = text[self._read : end].split("\n")
        self._read = max(self._read, end)
        marked = [line.partition(node.MARK)[2] for line in lines if node.MARK in line]
        return [unpack(base64.b64decode(line)) for line in marked]


def seat_engines(
    hosts: Sequence[node.Host], device: Literal["cpu", "cuda"] | None, backend: str | None
) -> list[Seat]:
    """One seat an engine; ranks of a host share its GPUs out in order. Raises `LayoutError`."""
    shared = Counter(host.name for host in hosts)
    short = sorted({host.name for host in hosts if host.gpus < shared[host.name]})
    if device == "cuda" and short:
        raise LayoutError(
            f"hosts {short} have fewer GPUs than engines; CUDA wants one each: take device='cpu'", short
        )
    chosen: Literal["cpu", "cuda"] = device or ("cpu" if short else "cuda")
    name = backend or ("nccl" if chosen == "cuda" else "gloo")
    seated: Counter[str] = Counter()
    seats = []
    for rank, host in enumerate(hosts):
        seats.append(Seat(rank, len(hosts), seated[host.name], shared[host.name], chosen, name))
        seated[host.name] += 1
    return seats
