"""Ranks that work together: collectives, and failures on which all ranks agree.

The only place in the engine that talks to other ranks. It knows no tensors' contents and
no files.
"""

from __future__ import annotations

import pickle
import traceback
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from ckptlab.engine.lost import Roll
from ckptlab.errors import CheckpointError, LostError, RankError
from ckptlab.events import Phase, Trace

T = TypeVar("T")

_TIMEOUT = timedelta(minutes=30)
_LISTEN = timedelta(seconds=0.5)

_SLOT = 2048
"""Bytes that each rank sends in the one collective by which ranks tell each other of a step."""


@dataclass(frozen=True)
class Failure:
    """What one rank says of its failure: its rank in the job, the phase, the error, where it was raised."""

    rank: int
    phase: Phase
    error: str
    where: str


@dataclass(frozen=True, eq=False)
class Team:
    """The ranks of a process group, or this process alone (`group` is None)."""

    rank: int
    world: int
    group: Any = None
    ranks: tuple[int, ...] = (0,)
    """The global rank of each member, by its rank in the group."""
    store: Any = None
    """Where the ranks of the job met; kept here, as a save may outlive the default group."""

    @property
    def global_rank(self) -> int:
        """This process's rank in the whole job; meshes and shards name ranks so."""
        return self.ranks[self.rank]

    @classmethod
    def of(cls, group: Any = None, alone: bool = False) -> Team:
        """The team of a process group; of the default one, if there is one and `alone` is not asked for."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls(0, 1)
        if alone:
            return cls(0, 1, None, (dist.get_rank(),))
        chosen = group or dist.group.WORLD
        ranks = tuple(dist.get_process_group_ranks(chosen))
        store = distributed_c10d._get_default_store()
        team = cls(dist.get_rank(chosen), len(ranks), chosen, ranks, store)
        if team.world > 1 and _ENLISTED.get("in") is not dist.group.WORLD:
            team.roll.enlist()
            _ENLISTED["in"] = dist.group.WORLD
        return team

    @property
    def roll(self) -> Roll:
        """Who of these ranks is there."""
        return Roll(self.store, self.global_rank, self.ranks)

    def beside(self) -> Team:
        """The same ranks in a gloo group of their own, for a thread that works while this team is in use.

        Made once for the same ranks; every rank of the team calls it, and no other.
        """
        if self.world == 1:
            return self
        default, made = _BESIDE.get(self.ranks, (None, self))
        if default is not dist.group.WORLD:
            made = Team.of(_gloo(self))
            _BESIDE[self.ranks] = (dist.group.WORLD, made)
        return made

    def gather(self, value: T) -> list[T]:
        """The value of every rank, on every rank."""
        if self.world == 1:
            return [value]
        data = pickle.dumps(value)
        slots = self._slots(len(data).to_bytes(8, "little") + data, _SLOT)
        # Nearly all that ranks have to say fits into one collective; the longest decides.
        longest = max(int.from_bytes(slot[:8], "little") for slot in slots)
        if longest > _SLOT - 8:
            slots = self._slots(len(data).to_bytes(8, "little") + data, longest + 8)
        return [pickle.loads(slot[8:]) for slot in slots]

    def _slots(self, data: bytes, size: int) -> list[bytes]:
        """The first `size` bytes that every rank gives, filled up with zeros."""
        device = torch.device(dist.distributed_c10d._get_object_coll_device(self.group))
        mine = torch.frombuffer(bytearray(data[:size].ljust(size, b"\0")), dtype=torch.uint8).to(device)
        every = torch.empty((self.world, size), dtype=torch.uint8, device=device)
        # An all_gather goes round all ranks, one after the other; where gloo's threads share few cores,
        # each of its messages may wait for a thread that is not running.
        slots = list(every) if self.rank == 0 else None
        listen = _LISTEN if device.type == "cpu" else None
        # By ranks in the group: those in the job are looked up where a group that was destroyed is no more,
        # and a save under way may outlive that.
        self._finish(dist.gather(mine, slots, group=self.group, group_dst=0, async_op=True), listen)
        self._finish(dist.broadcast(every, group=self.group, group_src=0, async_op=True), listen)
        return [slot.tobytes() for slot in every.cpu().numpy()]

    def _finish(self, work: dist.Work | None, listen: timedelta | None) -> None:
        """Wait for a collective, and every `listen` for the news that a rank is lost; then `LostError`."""
        assert work is not None
        while True:
            try:
                work.wait(listen) if listen else work.wait()
                return
            except RuntimeError as error:
                if work.is_completed() and _went_well(work):
                    return
                if not work.is_completed() and not self.roll.called:
                    continue
                missing = self.roll.call()
                first = missing.ranks[0] if missing.ranks else -1
                raise LostError(str(missing), first, problems=missing.ranks) from error

    def from_rank(self, source: int, value: T) -> T:
        """The value that `source`, a rank of the whole job, has, on every rank of the team."""
        told = [value]
        if self.world > 1:
            dist.broadcast_object_list(told, src=source, group=self.group)
        return told[0]

    def together(self, phase: Phase | Trace, step: Callable[[], T]) -> T:
        """Do a step on every rank, and go on only if it went well on all.

        When it fails anywhere, every rank raises the same: the error itself if all failed alike,
        else a `RankError` that names the ranks that failed. A trace knows the phase they were in.
        """
        result: T = self._try(phase, step, lambda _: None)[0]
        return result

    def tell(self, phase: Phase | Trace, step: Callable[[], T]) -> list[T]:
        """As `together`; gives what the step gave on every rank."""
        return self._try(phase, step, lambda result: result)[1]

    def first(self, phase: Phase | Trace, step: Callable[[], T]) -> T:
        """Do a step on the first rank alone; every rank gets its result, or raises its error."""

        def alone() -> T | None:
            return step() if self.rank == 0 else None

        result: T = self._try(phase, alone, lambda it: it, one=True)[1][0]
        return result

    def _try(
        self, phase: Phase | Trace, step: Callable[[], T], told: Callable[[T], Any], one: bool = False
    ) -> tuple[T, list[Any]]:
        result: Any = None
        mine: Exception | None = None
        try:
            if isinstance(phase, Trace):
                phase.check()
            result = step()
            if isinstance(phase, Trace):
                phase.check()
        except Exception as error:
            if self.world == 1:
                raise
            mine = error
        if self.world == 1:
            return result, [told(result)]
        now = phase.now if isinstance(phase, Trace) else phase
        try:
            heard = self.gather((_pack(mine, self.global_rank, now), told(result) if mine is None else None))
        except LostError as lost:
            words = f"{lost} while the others were in phase {now}"
            raise LostError(words, lost.rank, now, lost.problems) from (mine or lost.__cause__)
        failed = [packed for packed, _ in heard if packed is not None]
        if failed:
            raise _agreed(failed, self.world, one) from mine
        return result, [value for _, value in heard]


def _went_well(work: dist.Work) -> bool:
    """Whether a collective that is over ended well: it may have ended just after the wait for it gave up."""
    try:
        work.wait()
    except RuntimeError:
        return False
    return True


_ENLISTED: dict[str, Any] = {}
"""The default group in whose store this process is known."""

_BESIDE: dict[tuple[int, ...], tuple[Any, Team]] = {}
"""Teams beside others, each with the default group of its time: when that is destroyed, they are too."""


def _gloo(team: Team) -> dist.ProcessGroup:
    """A new group of the same ranks, made by these ranks alone."""
    if team.world == dist.get_world_size():
        group: dist.ProcessGroup = dist.new_group(backend="gloo")
        return group
    # new_group(use_local_synchronization=True) names a group by how many groups this process knows already.
    # Ranks that are in different parts of a job count differently, and would wait for each other for ever.
    name = distributed_c10d.GroupName(team.from_rank(team.ranks[0], f"ckptlab {uuid.uuid4()}"))
    group, _ = distributed_c10d._new_process_group_helper(
        team.world,
        team.rank,
        list(team.ranks),
        distributed_c10d.Backend("gloo"),
        distributed_c10d._get_default_store(),
        name,
        timeout=_TIMEOUT,
    )
    distributed_c10d._world.pg_group_ranks[group] = {rank: i for i, rank in enumerate(team.ranks)}
    return group


@dataclass(frozen=True)
class _Packed:
    failure: Failure
    error: bytes | None


def _pack(error: Exception | None, rank: int, phase: Phase) -> _Packed | None:
    if error is None:
        return None
    words = f"{type(error).__name__}: {error}"
    failure = Failure(rank, phase, words, "".join(traceback.format_exception(error)))
    try:
        return _Packed(failure, pickle.dumps(error) if isinstance(error, CheckpointError) else None)
    except Exception:
        # An error that cannot travel is told in words.
        return _Packed(failure, None)


def _agreed(failed: list[_Packed], world: int, one: bool) -> Exception:
    """The one error that every rank raises; `one` if only one rank had anything to do."""
    first = failed[0]
    alike = Counter(p.failure.error for p in failed)
    if (one or len(failed) == world) and len(alike) == 1 and first.error is not None:
        shared = pickle.loads(first.error)
        assert isinstance(shared, CheckpointError)
        return shared
    others = f" (so did ranks {', '.join(str(p.failure.rank) for p in failed[1:])})" if failed[1:] else ""
    return RankError(
        f"rank {first.failure.rank} failed in phase {first.failure.phase}{others}: {first.failure.error}",
        first.failure.rank,
        first.failure.phase,
        [p.failure for p in failed],
    )
