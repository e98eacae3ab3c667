"""Save while training goes on: the state is copied, then a thread writes the copy.

The thread talks to other ranks in a group of its own. It knows no tensors and no files: what is
copied `staging` decides, what is written `save`.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Any, Literal

from ckptlab.engine.agree import Offer, offer
from ckptlab.engine.ranks import Team
from ckptlab.engine.save import SaveReport, save_offer
from ckptlab.engine.staging import Stage
from ckptlab.engine.state import expand, flatten
from ckptlab.errors import CheckpointError
from ckptlab.events import Event, Progress, Trace, silent
from ckptlab.storage.torch_save import gc_paused


class SaveFuture(Future[SaveReport]):
    """The outcome of an `async_save` on this rank: its `SaveReport`, or the error that all ranks have.

    A `concurrent.futures.Future`: `result(timeout)`, `exception(timeout)`, `done()`,
    `add_done_callback(f)`, which is called in the thread that saves. A save under way is not
    cancelled, as the other ranks are in it too: `cancel()` is always False. `stalled` are the seconds
    that the call itself took.
    """

    def __init__(self, path: str, rank: int) -> None:
        super().__init__()
        self.path = path
        self.rank = rank
        self.stalled = 0.0
        self._asked = False
        self._last = Event(rank, "start", 0, 0, 0.0)
        self.set_running_or_notify_cancel()

    def result(self, timeout: float | None = None) -> SaveReport:
        """Wait for the end of the save; raises its error, or `TimeoutError`."""
        self._asked = True
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the end of the save; its error, or None. Raises `TimeoutError`."""
        self._asked = True
        return super().exception(timeout)

    @property
    def ignored(self) -> bool:
        """The save failed, and nobody has asked for its outcome."""
        return self.done() and not self._asked and super().exception() is not None

    def hear(self, progress: Progress) -> Progress:
        """A `Progress` that tells this future, too, how far the save is."""

        def heard(event: Event) -> None:
            self._last = event
            progress(event)

        return heard

    def __repr__(self) -> str:
        where = f"SaveFuture({self.path!r}, rank {self.rank}"
        if not self.done():
            last = self._last
            return f"{where}: {last.phase}, {last.done:,} of {last.total:,} bytes, {last.seconds:.1f} s)"
        error = super().exception()
        if error is not None:
            return f"{where}: failed, {type(error).__name__}: {str(error).partition(chr(10))[0]})"
        report = super().result()
        return f"{where}: saved, {report.nbytes:,} bytes in {sum(report.seconds.values()):.1f} s)"


@dataclass(eq=False)
class _Desk:
    """What this process keeps from one async save to the next."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    stage: Stage = field(default_factory=Stage)
    latest: SaveFuture | None = None


_DESK = _Desk()


def async_save(
    state_dict: Mapping[str, Any],
    path: str | os.PathLike[str],
    *,
    process_group: Any = None,
    no_dist: bool = False,
    overwrite: bool = True,
    sync: bool = True,
    replicas: Literal["check", "trust"] = "check",
    threads: int | None = None,
    while_busy: Literal["wait", "refuse"] = "wait",
    keep_buffers: bool = True,
    progress: Progress = silent,
) -> SaveFuture:
    """Save as `save` does, but return as soon as the state is copied to CPU memory.

    Every rank of the process group calls it. All may be changed when it returns: tensors are copied
    (into pinned memory from a GPU), objects are pickled, `Stateful`s asked for their state. A thread
    does the rest, in a gloo group that is made at the first call. Whatever fails on any rank, in the
    copying too, is the error of every rank's future.

    One save at a time: a call while another save is under way waits for it, or, with
    `while_busy="refuse"`, raises `CheckpointError` on every rank if any is busy (which they find out in
    `process_group`). The copies are kept for the next save, unless `keep_buffers=False`. `progress` is
    called in the thread. An interpreter that ends waits for the save first, and warns if it failed and
    nobody asked.

        future = async_save({"model": model, "optimizer": optimizer}, f"/checkpoints/{step}")
        train_on()
        future.result()  # raises what went wrong, on whichever rank
    """
    team = Team.of(process_group, alone=no_dist)
    with _DESK.lock:
        _take_turn(team, while_busy)
        future = SaveFuture(os.fspath(path), team.rank)
        trace = Trace(team.rank, future.hear(progress))
        began = time.perf_counter()
        stage = _DESK.stage if keep_buffers else Stage()
        with trace.phase("copy"), gc_paused():
            staged = _attempt(lambda: stage.copy(offer(flatten(expand(state_dict)), team)))

        def work(beside: Team) -> SaveReport:
            # A rank that could not copy its state tells the others here, where they wait for it.
            mine = beside.together(trace, staged)
            return save_offer(
                mine,
                path,
                beside,
                trace,
                overwrite=overwrite,
                sync=sync,
                replicas=replicas,
                threads=threads,
            )

        beside = team.beside()
        _DESK.latest = future
        threading.Thread(
            target=_settle, args=(future, lambda: work(beside)), name=f"save to {future.path}", daemon=False
        ).start()
        future.stalled = time.perf_counter() - began
    return future


def _take_turn(team: Team, while_busy: str) -> None:
    """Wait for the save before this one, or refuse on all ranks."""
    latest = _DESK.latest
    if while_busy == "refuse":
        busy = team.tell("start", lambda: latest.path if latest and not latest.done() else None)
        ranks = [rank for rank, before in zip(team.ranks, busy, strict=True) if before is not None]
        if ranks:
            before = next(path for path in busy if path is not None)
            raise CheckpointError(
                f"the save to {before} is still running on ranks {', '.join(map(str, ranks))}; wait for its "
                'result(), or let this call wait with while_busy="wait"',
                [before],
            )
    if latest is not None:
        wait([latest])
        _say_ignored()


def _attempt(step: Callable[[], Offer]) -> Callable[[], Offer]:
    """Take a step now; give its result, or raise its error, when called."""
    try:
        result = step()
    except Exception as error:
        failed = error

        def fail() -> Offer:
            raise failed

        return fail
    return lambda: result


def _settle(future: SaveFuture, work: Callable[[], SaveReport]) -> None:
    try:
        report = work()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(report)


def _say_ignored() -> None:
    latest, _DESK.latest = _DESK.latest, None
    if latest is not None and latest.ignored:
        warnings.warn(
            f"the save to {latest.path} failed, and nobody asked for its result(): {latest.exception()}",
            RuntimeWarning,
            stacklevel=4,
        )


def _finish() -> None:
    """At the end of the interpreter: let a save that is under way go on to its end."""
    if _DESK.latest is not None:
        wait([_DESK.latest])
        _say_ignored()


# Thread pools take no more work once threading begins to shut down, and atexit comes after that: this is
# the one hook before, which the pools themselves use.
threading._register_atexit(_finish)  # type: ignore[attr-defined]
