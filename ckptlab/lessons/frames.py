"""The plan of a save, step by step: proposed, deduplicated, balanced, written; each step a picture.

It does anew, one box at a time, what `plan.save` does at once. No bytes, no ranks and no widgets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ckptlab.explorer.held import listed
from ckptlab.explorer.scene import FILLED, HATCHED, Key, Mark, Note, Panel, Scene, collect
from ckptlab.layout import Box, Layout
from ckptlab.metadata import ITEMSIZE, Chunks, Tensor
from ckptlab.plan.holding import Holdings, holdings
from ckptlab.plan.save import plan_save
from ckptlab.storage.template import template

WIDE, ROW, THICK = 8.0, 1.0, 0.62

_COLOUR = Key("colour: the first rank that holds it", 0, FILLED)
_COPY = Key("hatched: several ranks hold it", 0, HATCHED)
_TO_DO = "to share out"


@dataclass(frozen=True)
class Job:
    """A box of tensor number `row` that must be written once: `nbytes` bytes, which each of `holders` has."""

    row: int
    fqn: str
    box: Box
    nbytes: int
    holders: tuple[int, ...]

    def __repr__(self) -> str:
        return f"{self.fqn}{repr(self.box).removeprefix('Box')}"


@dataclass(frozen=True)
class Choice:
    """Who writes a box; `busy` is how many bytes each rank had to write before."""

    job: Job
    writer: int
    busy: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Frame:
    """One step: its name, what happens in it, and the picture when it has happened."""

    name: str
    words: str
    scene: Scene


Rule = Callable[[Job, Sequence[int]], int]
"""Which of a job's holders shall write it, when each rank has so many bytes to write already."""


def jobs(held: Holdings) -> tuple[Job, ...]:
    """Every box once, in the order they are given out: those of one holder, then the largest first."""
    found = []
    for group, (numbers, shards) in enumerate(held.alike):
        rows = numbers.tolist()
        tensor, each = held.tensors[rows[0]], shards.distinct
        for c in range(len(each.boxes)):
            holders = tuple(each.rank[each.first[c] : each.first[c + 1]].tolist())
            cost = each.boxes[c].numel * ITEMSIZE[tensor.dtype]
            order = (len(holders) > 1, -cost if len(holders) > 1 else 0, rows[0], group, c)
            found += [
                ((*order, row), Job(row, held.tensors[row].fqn, each.boxes[c], cost, holders)) for row in rows
            ]
    return tuple(job for _, job in sorted(found, key=lambda pair: pair[0]))


def least_busy(job: Job, busy: Sequence[int]) -> int:
    """The holder that has least to write so far; of several the lowest rank. This is what ckptlab does."""
    return min(job.holders, key=lambda rank: (busy[rank], rank))


def share_out(every: Sequence[Job], world: int, rule: Rule = least_busy) -> tuple[Choice, ...]:
    """Who writes each box, chosen one after the other."""
    busy, out = [0] * world, []
    for job in every:
        writer = rule(job, busy)
        out.append(Choice(job, writer, tuple(busy)))
        busy[writer] += job.nbytes
    return tuple(out)


def written(tensors: Sequence[Tensor], layout: Layout) -> Chunks:
    """Where the plan puts every chunk: its file, which is a rank's number, and its first byte."""
    plan = plan_save(holdings(tensors, layout), layout.mesh.size)
    return plan.chunks(lambda dtype, shape: template(dtype, shape).length)[0]


def frames(tensors: Sequence[Tensor], layout: Layout) -> list[Frame]:
    """All steps of the plan of saving these tensors under a layout."""
    held, world = holdings(tensors, layout), layout.mesh.size
    every = jobs(held)
    choices = share_out(every, world)
    proposed = [[job for job in every if rank in job.holders] for rank in range(world)]
    total = sum(job.nbytes for mine in proposed for job in mine)
    most = max(sum(job.nbytes for job in mine) for mine in proposed)
    one = sum(job.nbytes for job in every)
    out = [
        Frame(
            "proposed",
            f"Each rank proposes to write all that it holds: {total:,} bytes, all told.",
            _bars("Proposed", {f"rank {r}": mine for r, mine in enumerate(proposed)}, max(most, one)),
        )
    ]
    for step in range(len(choices) + 1):
        done, left = choices[:step], [choice.job for choice in choices[step:]]
        rows = {f"rank {r}": [c.job for c in done if c.writer == r] for r in range(world)}
        rows |= {_TO_DO: left} if left else {}
        scene = _bars("Shared out so far" if step else "Each box once", rows, max(most, one))
        if step == 0:
            words = f"Copies are left out: each box once, {one:,} bytes. The largest is given out first."
            out.append(Frame("deduplicated", words, scene))
        else:
            out.append(Frame("balanced", _why(done[-1]), scene))
    words = "Each rank puts its boxes one behind the other into its own file, each wrapped as a chunk."
    out.append(Frame("written", words, _files(every, tensors, layout)))
    return out


def shared_scene(choices: Sequence[Choice], world: int, title: str) -> Scene:
    """Who writes what, when all is shared out."""
    rows = {f"rank {r}": [c.job for c in choices if c.writer == r] for r in range(world)}
    return _bars(title, rows, max(sum(job.nbytes for job in mine) for mine in rows.values()))


def _why(choice: Choice) -> str:
    job, writer = choice.job, choice.writer
    if len(job.holders) == 1:
        return f"{job!r} is on rank {writer} alone, so rank {writer} writes it."
    busy = ", ".join(f"rank {r} has {choice.busy[r]:,}" for r in job.holders)
    others = f"R{busy[1:]}"
    return f"{job!r}, {job.nbytes:,} bytes, is on {listed(job.holders)}. {others}: rank {writer} takes it."


def _bars(title: str, rows: dict[str, list[Job]], most: int) -> Scene:
    """A bar for each row, as long as its boxes' bytes."""
    marks, notes, lines = [], [], [title]
    for i, (name, mine) in enumerate(rows.items()):
        x = 0.0
        for job in mine:
            width = WIDE * job.nbytes / max(1, most)
            marks.append(_mark(job, x, i * ROW, width, copies=title == "Proposed" or name == _TO_DO))
            x += width
        total = f"{sum(job.nbytes for job in mine):,} bytes"
        notes += [
            Note(-0.1, i * ROW + THICK / 2, name, "end"),
            Note(WIDE + 0.1, i * ROW + THICK / 2, total, "start"),
        ]
        lines.append(f"  {name}: {total}: {', '.join(map(repr, mine)) or 'nothing'}")
    panel = Panel("share", "bars", title, "", WIDE, len(rows) * ROW, collect(marks), tuple(notes))
    legend = (_COLOUR, _COPY) if any(mark.style == HATCHED for mark in marks) else (_COLOUR,)
    return Scene("", (panel,), legend, "\n".join(lines))


def _mark(job: Job, x: float, y: float, width: float, copies: bool) -> Mark:
    facts = {"box": repr(job), "bytes": f"{job.nbytes:,}", "held by": listed(job.holders)}
    style = HATCHED if copies and len(job.holders) > 1 else FILLED
    label = job.fqn.removesuffix(".weight").rpartition(".")[2]
    return Mark((x, y, width, THICK), job.holders, job.holders[0], style, label, facts)


def _files(every: Sequence[Job], tensors: Sequence[Tensor], layout: Layout) -> Scene:
    """The data files as the plan says they will be."""
    chunks = written(tensors, layout)
    lies, turn = {}, dict.fromkeys(range(len(tensors)), 0)
    for job in sorted(every, key=lambda job: (job.row, job.box.offset, job.box.shape)):
        lies[job] = int(chunks.first[job.row]) + turn[job.row]
        turn[job.row] += 1
    end = int((chunks.start + chunks.length).max(initial=1))
    marks = []
    for job, i in lies.items():
        x, width = WIDE * chunks.start[i] / end, WIDE * chunks.length[i] / end
        mark = _mark(job, float(x), int(chunks.file[i]) * ROW, float(width), copies=False)
        at = {"at byte": f"{int(chunks.start[i]):,}", "in the file": f"{int(chunks.length[i]):,} bytes"}
        marks.append(Mark(mark.box, mark.ranks, mark.colour, mark.style, mark.label, {**mark.facts, **at}))
    notes = []
    for rank in range(layout.mesh.size):
        mine = chunks.file == rank
        said = f"{int((chunks.start + chunks.length)[mine].max(initial=0)):,} bytes"
        y = rank * ROW + THICK / 2
        notes += [Note(-0.1, y, f"__{rank}_0.distcp", "end"), Note(WIDE + 0.1, y, said, "start")]
    panel = Panel(
        "share", "bars", "The files", "", WIDE, layout.mesh.size * ROW, collect(marks), tuple(notes)
    )
    return Scene("", (panel,), (_COLOUR,), "\n".join(["The files", *(f"  {n.text}" for n in notes)]))
