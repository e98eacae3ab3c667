"""Load a checkpoint into a state_dict's own memory, on any mesh: check, plan, read, tell.

Every mismatch is found before a byte of the target changes. It knows no format and no
notebook.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch

from ckptlab.engine.harmless import harmless
from ckptlab.engine.held import HeldTensors, hold
from ckptlab.engine.lookup import FAR_READS
from ckptlab.engine.made import materialized, without_memory
from ckptlab.engine.ranks import Team
from ckptlab.engine.state import Leaves, expand, flatten, hand_over, put, runs_code
from ckptlab.engine.transfer import Source
from ckptlab.engine.transform import more_lenient, refuse_without_values, sources
from ckptlab.errors import CorruptError, LayoutError, UnsafeError
from ckptlab.events import Phase, Progress, Trace, silent
from ckptlab.layout import Box
from ckptlab.layout.box import Ints
from ckptlab.metadata import Keys, Metadata
from ckptlab.plan.bind import Bound, bind, told
from ckptlab.plan.check import Mismatch, check, errors, refuse
from ckptlab.plan.holding import Alike, Holdings
from ckptlab.plan.load import LoadPlan, plan_load
from ckptlab.plan.select import LEFT_OUT, Rename, new_names, renamed, selected, under
from ckptlab.plan.transform import Transform
from ckptlab.storage.checkpoint import open_checkpoint
from ckptlab.storage.files import Files
from ckptlab.storage.opened import Checkpoint
from ckptlab.storage.torch_file_write import object_archive
from ckptlab.storage.torch_save import gc_paused

_LONE_READS = 4
"""Reads under way at once where a rank has the processor's cores alone, if there are so many."""


@dataclass(frozen=True)
class LoadReport:
    """What one rank loaded, and what it cost.

    `loaded` are keys of the target that were filled, `missing` those the checkpoint has not (only
    with `strict=False`), `unexpected` those of the checkpoint that the target does not ask for, `kept`
    what a transform let stay as it was: boxes of the target by key, for an object none.
    `nbytes` are the bytes of elements asked of storage in `reads` reads; `header_bytes` all others:
    the wrapping round chunks, and what `verify` reads only to check. `seconds` by phase. Far files were
    asked for `fetched` bytes in `requests` ranged reads, what opening took not among them. `metadata` is
    what the checkpoint says of itself, renamed as the load was.
    """

    path: str
    rank: int
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    nbytes: int
    reads: int
    header_bytes: int
    seconds: Mapping[Phase, float]
    metadata: Metadata = field(repr=False, compare=False)
    kept: Mapping[str, tuple[Box, ...]] = field(default_factory=dict)
    requests: int = 0
    fetched: int = 0


@gc_paused()
def load(
    state_dict: MutableMapping[str, Any],
    path: str | os.PathLike[str],
    *,
    process_group: Any = None,
    no_dist: bool = False,
    keys: Keys | None = None,
    rename: Rename | None = None,
    transform: Transform | None = None,
    strict: bool | Literal["both"] = True,
    dtype: Literal["exact", "widen", "narrow"] = "exact",
    verify: bool = False,
    device: str | None = None,
    threads: int | None = None,
    progress: Progress = silent,
) -> LoadReport:
    """Fill the tensors of a (nested) state_dict in place, and set its objects, from a checkpoint.

    Every rank of the process group calls it with its own state, under whatever mesh. Raises
    `MismatchError` that lists every key that does not fit, before anything is loaded.

    `keys` are those of the target to load (`"model.*"`, a regular expression, names, or a function).
    `rename` says what the target calls the checkpoint's keys (a mapping, pairs for `re.sub`, or a
    function), a `transform` also what becomes of their elements. With `strict=False` keys that the
    checkpoint has not are left as they are and reported; with `strict="both"` those that the target
    does not ask for are an error, too. `dtype="widen"` converts elements where that loses nothing,
    `"narrow"` also where it does, and warns how much.
    Tensors on the meta device are made on `device` (their mesh's, else the CPU) and put in their
    places. Whole chunks are checked against their stored crc; `verify` checks chunks that are read in
    part, too, by reading all of them. `threads` read at once: one; up to four if a rank loads alone,
    eight if the files are far.
    """
    team = Team.of(process_group, alone=no_dist)
    trace = Trace(team.rank, progress)
    wish = _Wish(keys, rename, transform, strict, more_lenient(dtype, transform), device)
    with ExitStack() as opened:
        target, it, found = _prepare(state_dict, path, wish, team, trace, opened)

        def commit() -> None:
            with trace.phase("commit"):
                for fqn, value in {**target.made, **it.objects}.items():
                    put(target.state, target.leaves.paths[fqn], value)
                hand_over(state_dict, target.state, assign=bool(target.made))

        def read() -> None:
            with trace.phase("read", int(it.plan.nbytes.sum())):
                many = threads or _threads(team, it.source.files)
                it.source.fill(it.plan, it.held, verify, many)
            if not it.runs_code:
                commit()

        team.together(trace, read)
        if it.runs_code:
            # Not before all have read: what is handed over may be used at once, and may call collectives.
            team.together(trace, commit)
    # Last of all: where warnings are errors, the other ranks must not be left waiting.
    _say_losses(it)
    _say_if_nothing_was_loaded(it, target)
    return _report(os.fspath(path), team, trace, target, it, found)


@dataclass(frozen=True)
class _Wish:
    """How a load was asked for; see `load`."""

    keys: Keys | None
    rename: Rename | None
    transform: Transform | None
    strict: bool | Literal["both"]
    dtype: Literal["exact", "widen", "narrow"]
    device: str | None


def _report(
    path: str, team: Team, trace: Trace, target: _Target, it: _Ready, found: Sequence[Mismatch]
) -> LoadReport:
    counts = it.source.counts
    return LoadReport(
        path,
        team.rank,
        target.fitting,
        tuple(sorted(target.missing)),
        tuple(sorted(m.fqn for m in found if m.kind == "unexpected")),
        counts.nbytes,
        counts.reads,
        counts.header_bytes,
        trace.seconds,
        it.source.metadata,
        {} if target.bound is None else target.bound.kept,
        *it.source.asked,
    )


def _prepare(
    state_dict: Mapping[str, Any],
    path: str | os.PathLike[str],
    wish: _Wish,
    team: Team,
    trace: Trace,
    opened: ExitStack,
) -> tuple[_Target, _Ready, Sequence[Mismatch]]:
    """All up to the first byte that changes, and what does not fit; refuses it on every rank."""
    targets: list[_Target] = []
    ready: list[_Ready] = []

    def look() -> tuple[Sequence[Mismatch], bool, bool]:
        with trace.phase("metadata"):
            checkpoint = _open(path, wish)
        with trace.phase("plan"):
            target = _target(state_dict, checkpoint.metadata, wish, team)
            targets.append(target)
            # Keys that this rank does not ask for may be asked for by another.
            if not errors((m for m in target.found if m.kind != "unexpected"), wish.strict, wish.dtype):
                source = opened.enter_context(Source(checkpoint, trace, measure=wish.dtype == "narrow"))
                ready.append(_make_ready(checkpoint, target, source))
        return target.found, bool(target.fitting), runs_code(state_dict)

    founds, some, code = zip(*team.tell(trace, look), strict=True)
    found = _agree(founds)
    refuse(os.fspath(path), errors(found, wish.strict, wish.dtype))
    return targets[0], replace(ready[0], of_no_rank=not any(some), runs_code=any(code)), found


@dataclass(frozen=True, eq=False)
class _Target:
    """What is to be filled: the `keys` of a state's `leaves`, tensors as `held`, those `made` among them.

    `bound` is the transform of the load, if it has one.
    """

    state: dict[str, Any]
    leaves: Leaves
    keys: Sequence[str]
    held: HeldTensors
    made: Mapping[str, torch.Tensor]
    found: Sequence[Mismatch]
    bound: Bound | None = None

    @cached_property
    def missing(self) -> set[str]:
        """The keys that the checkpoint has not."""
        return {m.fqn for m in self.found if m.kind == "missing"}

    @cached_property
    def fitting(self) -> tuple[str, ...]:
        """The keys that the checkpoint has, and that are to be loaded."""
        missing, filled = self.missing, set(self.keys if self.bound is None else self.bound.filled)
        return tuple(key for key in self.keys if key in filled and key not in missing)

    @cached_property
    def sources(self) -> HeldTensors:
        """The memory to be filled, under the names of the stored tensors that fill it."""
        if self.bound is not None:
            return HeldTensors.of(sources(self.bound, self.held, self.fitting))
        held = self.held
        if list(self.fitting) == held.names:
            return held
        return HeldTensors.of(held[fqn] for fqn in self.fitting if fqn in held)

    @cached_property
    def objects(self) -> dict[str, str]:
        """The stored name of each object that is to be loaded."""
        names = {} if self.bound is None else self.bound.objects
        tensors = set(self.held.names)
        return {fqn: names.get(fqn, fqn) for fqn in self.fitting if fqn not in tensors}


@dataclass(frozen=True, eq=False)
class _Ready:
    """All that a load needs once nothing can be wrong any more but the bytes of the elements.

    `of_no_rank` says that there is nothing to load, on any rank; `runs_code`, that on some rank what is
    loaded is handed over to code that is not ours.
    """

    source: Source
    plan: LoadPlan
    held: HeldTensors
    objects: Mapping[str, Any]
    of_no_rank: bool = False
    runs_code: bool = True


def _open(path: str | os.PathLike[str], wish: _Wish) -> Checkpoint:
    checkpoint = open_checkpoint(path)
    if wish.rename is None:
        return checkpoint
    if wish.transform is not None:
        raise LayoutError("a load has either `rename` or a `transform`, which has its own `rename`")
    names = new_names(checkpoint.metadata, wish.rename)
    values = None if checkpoint.values is None else under(names, checkpoint.values)
    return replace(checkpoint, metadata=renamed(checkpoint.metadata, names), values=values)


def _target(state_dict: Mapping[str, Any], metadata: Metadata, wish: _Wish, team: Team) -> _Target:
    state = expand(state_dict)
    leaves = flatten(state)
    chosen = selected(leaves.values, wish.keys)
    values = leaves.values
    tensors = {fqn: value for fqn in chosen if isinstance(value := values[fqn], torch.Tensor)}
    made = {fqn: materialized(value, wish.device) for fqn, value in tensors.items() if without_memory(value)}
    held = hold({**tensors, **made}, team.global_rank, team.ranks)
    if wish.transform is not None:
        wanted = {fqn: held[fqn].tensor if fqn in held else None for fqn in chosen}
        bound = bind(wish.transform, told(metadata), wanted, leaves.values)
        made = {fqn: value for fqn, value in made.items() if fqn in bound.filled}
        refuse_without_values(bound, made)
        return _Target(state, leaves, chosen, held, made, bound.found, bound)
    forms = {**dict.fromkeys(chosen), **dict(zip(held.names, held.cuts, strict=True))}
    found = [m for m in check(metadata, forms) if m.kind != "unexpected" or m.fqn not in leaves.values]
    return _Target(state, leaves, chosen, held, made, [m for m in found if not m.fqn.startswith(LEFT_OUT)])


def _agree(told: Sequence[Sequence[Mismatch]]) -> list[Mismatch]:
    """The findings of all ranks, each once; a key is unexpected only if no rank asks for it."""
    unexpected = set.intersection(*({m.fqn for m in theirs if m.kind == "unexpected"} for theirs in told))
    each = dict.fromkeys(m for theirs in told for m in theirs)
    return [m for m in each if m.kind != "unexpected" or m.fqn in unexpected]


def _make_ready(checkpoint: Checkpoint, target: _Target, source: Source) -> _Ready:
    """Look at all that may be wrong before the target changes; the objects, as they are to be set."""
    held = target.sources
    wants = Holdings(held.tensors, [Alike(some, cut.mine) for some, cut in held.alike])
    plan = plan_load(checkpoint.metadata, wants)
    _files_there(checkpoint, plan)
    objects = _objects(checkpoint, target.objects)
    chunks, read = checkpoint.metadata.chunks, plan.chunks
    _expect(checkpoint, chunks.file[read].astype(np.int64), chunks.start[read], chunks.length[read])
    for reads in plan.reads:
        source.find(reads)
    return _Ready(source, plan, held, objects)


def _files_there(checkpoint: Checkpoint, plan: LoadPlan) -> None:
    """Every file that the plan reads is there and long enough; said before the target changes."""
    chunks, files = checkpoint.metadata.chunks, checkpoint.metadata.files
    read = plan.chunks
    ends = np.zeros(len(files), np.int64)
    np.maximum.at(ends, chunks.file[read], chunks.start[read] + chunks.length[read])
    needed = {files[i]: int(ends[i]) for i in np.flatnonzero(ends).tolist()}
    problems = checkpoint.file_problems(needed)
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise CorruptError(f"{checkpoint.path} is not whole, nothing was loaded:\n{lines}", problems)


def _objects(checkpoint: Checkpoint, wanted: Mapping[str, str]) -> dict[str, Any]:
    """The objects by the target's keys, for which `wanted` has the checkpoint's."""
    if checkpoint.values is None:
        extents = [checkpoint.metadata.objects[stored] for stored in wanted.values()]
        places = np.array([(e.file, e.start, e.length) for e in extents], np.int64).reshape(-1, 3)
        _expect(checkpoint, places[:, 0], places[:, 1], places[:, 2])
    with harmless():
        return {fqn: _object(checkpoint, stored) for fqn, stored in wanted.items()}


def _expect(checkpoint: Checkpoint, file: Ints, start: Ints, length: Ints) -> None:
    """Tell far files what will be read of them next, so that small neighbours come together."""
    if checkpoint.files.mapped:
        return
    for one in np.unique(file).tolist():
        here = file == one
        checkpoint.files.expect(checkpoint.metadata.files[one], start[here], length[here])


def _threads(team: Team, files: Files) -> int:
    """How many reads at once if nobody said: one, unless a single rank has the cores alone, or must wait."""
    if not files.mapped:
        return FAR_READS
    return min(_LONE_READS, os.cpu_count() or 1) if team.world == 1 else 1


def _say_if_nothing_was_loaded(it: _Ready, target: _Target) -> None:
    there = [*it.source.metadata.rows, *it.source.metadata.objects]
    if it.of_no_rank and there:
        wanted = _some(target.keys) or "none"
        words = f"nothing was loaded: the target's keys are {wanted}, the checkpoint's {_some(there)}"
        warnings.warn(words, stacklevel=4)


def _some(keys: Sequence[str]) -> str:
    return ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")


def _say_losses(it: _Ready) -> None:
    if not (lost := it.source.lost):
        return
    now = {fqn: cut.dtype for fqn, cut in zip(it.held.names, it.held.cuts, strict=True)}
    lines = [f"  {fqn}, now {now[fqn]}: {loss}" for fqn, loss in lost.items()]
    more = f"\n  and {len(lines) - 10} more tensors" if len(lines) > 10 else ""
    told = "\n".join(lines[:10])
    warnings.warn(f"the target's dtype is narrower than the checkpoint's:\n{told}{more}", stacklevel=4)


def _object(checkpoint: Checkpoint, fqn: str) -> Any:
    if checkpoint.values is not None:
        # Stand-ins for what only torch has become that again.
        data = object_archive(checkpoint.values[fqn])
    else:
        extent = checkpoint.metadata.objects[fqn]
        data = checkpoint.files.read(checkpoint.metadata.files[extent.file], extent.start, extent.length)
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        raise UnsafeError(
            f"object {fqn!r} of {checkpoint.path} is not made of plain values, so it is not unpickled: "
            f"{error}\nIf you trust its writer, allow its classes by torch.serialization.add_safe_globals.",
            [fqn],
        ) from error
