"""What if: a target put together from recipes, axes and rules, and what loading on it would cost.

Targets are kept as people type them, so that sliders and fields are two ways to say the same. Works from
metadata alone, for any number of ranks. Plain data: no torch and no drawing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ckptlab.errors import LayoutError
from ckptlab.explorer.held import listed
from ckptlab.explorer.scene import HATCHED, Key, Scene, count
from ckptlab.explorer.table import Column, Line
from ckptlab.explorer.tensor import Look, held_panel, stored_panel
from ckptlab.layout import Layout, Mesh, Placement, Replicate, StridedShard, parse_placements
from ckptlab.layout.box import Ints
from ckptlab.metadata import Metadata, human_bytes
from ckptlab.plan.far import Far
from ckptlab.plan.forecast import Forecast, forecast
from ckptlab.plan.holding import fitted, holdings, ruled

Rules = Sequence[tuple[str, str]]
"""Pairs of a key pattern and its own placements, as typed; the first that a key fits is its own."""

_NODE = 8
"""Ranks that stand near each other, within which tensors are cut up first."""

STRIDED = "StridedShard(0)"
CHOICES = ("Replicate", "Shard(0)", "Shard(1)", "Shard(2)", STRIDED)
"""What an axis may do to tensors, to be chosen from; a strided shard's factor follows from later axes."""


def _two(ranks: int, inner: int) -> tuple[int, int]:
    """Two factors of a number of ranks, the second as large as it can be up to `inner`."""
    fits = max(n for n in range(1, min(inner, ranks) + 1) if ranks % n == 0)
    return ranks // fits, fits


def _hsdp(ranks: int) -> tuple[str, str]:
    outer, inner = _two(ranks, _NODE if ranks > _NODE else max(1, ranks // 2))
    return f"replicate={outer}, shard={inner}", "Replicate, Shard(0)"


def _fsdp_tp(ranks: int) -> tuple[str, str]:
    outer, inner = _two(ranks, _NODE if ranks > _NODE else max(1, ranks // 2))
    return f"dp={outer}, tp={inner}", f"StridedShard(0, split_factor={inner}), Shard(0)"


RECIPES: Mapping[str, Callable[[int], tuple[str, str]]] = {
    "FSDP": lambda ranks: (f"shard={ranks}", "Shard(0)"),
    "HSDP": _hsdp,
    "TP": lambda ranks: (f"tp={ranks}", "Shard(1)"),
    "FSDP + TP": _fsdp_tp,
    "one process": lambda ranks: ("rank=1", "Replicate"),
}
"""Targets by name, for a number of ranks: mesh and placements as `Layout.parse` reads them."""


def named(mesh: str, placements: str) -> str:
    """The recipe that gives this target; "" if none does."""
    try:
        layout = Layout.parse(mesh, placements)
    except LayoutError:
        return ""
    found = (name for name, make in RECIPES.items() if Layout.parse(*make(layout.mesh.size)) == layout)
    return next(found, "")


def axes(mesh: str, placements: str) -> tuple[tuple[str, int, str], ...]:
    """The axes of a target: name, size, and one of `CHOICES` ("" for what is none of them).

    Raises `LayoutError` for what was typed wrongly.
    """
    layout = Layout.parse(mesh, placements)
    choices = [repr(p).replace("()", "") for p in layout.placements]
    for i, placement in enumerate(layout.placements):
        if isinstance(placement, StridedShard):
            usual = placement.dim == 0 and placement.split_factor == _factor(layout.mesh.shape, choices, i)
            choices[i] = STRIDED if usual else ""
    known = [choice if choice in CHOICES else "" for choice in choices]
    return tuple(zip(layout.mesh.axes, layout.mesh.shape, known, strict=True))


def typed(chosen: Sequence[tuple[str, int, str]]) -> tuple[str, str]:
    """Mesh and placements of axes: name, size, and one of `CHOICES`."""
    sizes, choices = [size for _, size, _ in chosen], [choice for *_, choice in chosen]
    placements = [
        f"StridedShard(0, split_factor={_factor(sizes, choices, i)})" if choice == STRIDED else choice
        for i, choice in enumerate(choices)
    ]
    return ", ".join(f"{name}={size}" for name, size, _ in chosen), ", ".join(placements)


def _factor(sizes: Sequence[int], choices: Sequence[str], axis: int) -> int:
    """Into how many pieces the later axes cut dim 0, which a strided shard on this one comes before."""
    return math.prod(
        n for n, choice in zip(sizes[axis + 1 :], choices[axis + 1 :], strict=True) if "(0" in choice
    )


def resized(mesh: str, placements: str, ranks: int) -> tuple[str, str]:
    """The same target on another number of ranks: its recipe, or the first axis that can be cut to fit.

    Raises `LayoutError` if no axis can, or for what was typed wrongly.
    """
    if name := named(mesh, placements):
        return RECIPES[name if name != "one process" or ranks == 1 else "FSDP"](ranks)
    chosen = axes(mesh, placements)
    for i, (name, size, _) in enumerate(chosen):
        others = math.prod(n for _, n, _ in chosen) // size
        if ranks % others == 0 and all(choice for *_, choice in chosen):
            new = [*chosen]
            new[i] = (name, ranks // others, chosen[i][2])
            return typed(new)
    raise LayoutError(f"no axis of {mesh!r} can be resized so that there are {ranks} ranks")


Target = Layout | Mapping[str, Layout]
"""One layout for every tensor, or each tensor's own, by fqn."""


def target(metadata: Metadata, mesh: str, placements: str, rules: Rules = ()) -> Target:
    """What was typed, for the tensors of a checkpoint. Raises `LayoutError` for what makes no sense."""
    layout = Layout.parse(mesh, placements)
    own = [(pattern, _own(text, layout.mesh)) for pattern, text in rules]
    return ruled(metadata.tensors.names, layout, own) if own else layout


def _own(text: str, mesh: Mesh) -> tuple[Placement, ...]:
    """The placements of a rule; one `Replicate` is for every axis."""
    placements = parse_placements(text)
    return placements * len(mesh.shape) if placements == (Replicate(),) else placements


def foretell(metadata: Metadata, chosen: Target, far: Far | None = None) -> Forecast:
    """What loading every tensor on this target would cost; of `far` files, also in requests."""
    mesh = chosen.mesh if isinstance(chosen, Layout) else mesh_of(chosen)
    return forecast(metadata, holdings(metadata.tensors, chosen), max(mesh.rank_list) + 1, far)


def mesh_of(chosen: Target) -> Mesh:
    """The mesh of a target; rules change placements, not the mesh."""
    return chosen.mesh if isinstance(chosen, Layout) else next(iter(chosen.values())).mesh


def tensor_scene(metadata: Metadata, fqn: str, chosen: Target, look: Look | None = None) -> Scene:
    """One tensor in both layouts: its chunks as stored, and its shards as the target would have them."""
    tensor = metadata.tensor(fqn)
    layout = fitted(chosen if isinstance(chosen, Layout) else chosen[fqn], tensor.shape)
    panels = (
        stored_panel(metadata, fqn, look=look, name="stored"),
        held_panel(tensor, layout, "Its shards, on the target", look=look),
    )
    styles = {int(style) for panel in panels for style in np.unique(panel.marks.style)}
    legend = (Key("colour: the rank that wrote it, or is to hold it", 0),)
    copies = (Key("hatched: one of several copies", 0, HATCHED),) if HATCHED in styles else ()
    said = [f"{fqn}, as stored and under {', '.join(map(repr, layout.placements))}"]
    said += [f"  {panel.title}: {panel.caption}" for panel in panels]
    return Scene(said[0], panels, legend + copies, "\n".join(said))


def facts(metadata: Metadata, foretold: Forecast) -> list[tuple[str, str, str]]:
    """The forecast in few words: label, value, and what it means."""
    files = foretold.bytes_by_file
    peak, stock_peak = (
        human_bytes(int(most.max(initial=0))) for most in (foretold.peak, foretold.stock_peak)
    )
    busiest = int(files.argmax()) if len(files) else 0
    most = int(foretold.bytes_by_rank.max(initial=0))
    least = int(foretold.bytes_by_rank.min(initial=most))
    spread = " to ".join(dict.fromkeys([human_bytes(least), human_bytes(most)]))
    busy = f"{human_bytes(int(files[busiest]))} of {metadata.files[busiest]}" if files.any() else "none"
    return [
        ("ranks", f"{foretold.world:,}", "ranks that load"),
        ("read in all", human_bytes(foretold.total), f"in {int(foretold.reads.sum()):,} reads"),
        ("each rank reads", spread, "bytes of elements"),
        (
            "amplification",
            f"{foretold.amplification:.2f}x",
            f"bytes read for each byte wanted; stock DCP: {foretold.stock_amplification:.2f}x",
        ),
        *_far_facts(foretold),
        ("read more than once", human_bytes(foretold.shared), "bytes that replicas share, beyond the first"),
        ("peak memory", peak, f"of the fullest rank: its shards and one read; stock DCP: {stock_peak}"),
        ("busiest file", busy, "read of one file by all ranks"),
        ("left empty", count(len(foretold.empty), "rank"), "that get nothing at all"),
    ]


def _far_facts(foretold: Forecast) -> list[tuple[str, str, str]]:
    """What is asked of far storage, if the files are far."""
    if foretold.requests is None or foretold.fetched is None:
        return []
    requests, fetched = int(foretold.requests.sum()), int(foretold.fetched.sum())
    most = int(foretold.requests.max(initial=0))
    wanted = int(foretold.memory.sum())
    times = f"{fetched / wanted:.2f}x what is wanted" if wanted else "nothing is wanted"
    return [
        ("far requests", f"{requests:,}", f"ranged reads of all ranks; at most {most:,} of one"),
        ("far bytes", human_bytes(fetched), f"{times}: small neighbours come together, with their wrapping"),
    ]


_COLUMNS = (
    Column("ranks", wide=2.0, least=110),
    Column("reads", number=True, least=52),
    Column("bytes read", number=True, bar=True, least=92),
    Column("files", number=True, least=44),
    Column("memory", number=True, least=72),
    Column("peak", number=True, least=72),
    Column("stock DCP reads", number=True, least=108),
)
_FAR_COLUMNS = (
    Column("far requests", number=True, least=88),
    Column("far bytes", number=True, least=72),
)


@dataclass(frozen=True, eq=False)
class Costs:
    """A table of ranks: what each reads and holds; ranks of equal cost in one line, or each in its own."""

    foretold: Forecast
    each: bool = False
    chosen = -1

    @property
    def columns(self) -> tuple[Column, ...]:
        """Those of any load, and those of one from far files."""
        return _COLUMNS + _FAR_COLUMNS * self._far

    @property
    def _far(self) -> bool:
        return self.foretold.requests is not None

    @cached_property
    def _numbers(self) -> Ints:
        """Reads, bytes, files, memory, peak and what stock reads; far requests, and their bytes."""
        it = self.foretold
        files = (it.table > 0).sum(axis=1)[it.group]
        far = [column for column in (it.requests, it.fetched) if column is not None]
        return np.stack([it.reads, it.bytes_by_rank, files, it.memory, it.peak, it.stock, *far], axis=1)

    @cached_property
    def _rows(self) -> tuple[Ints, Ints, Ints]:
        """Of each line its first rank, how many ranks it has, and the line of each rank."""
        if self.each:
            ranks = np.arange(self.foretold.world)
            return ranks, np.ones(len(ranks), np.int64), ranks
        _, first, line = np.unique(self._numbers, axis=0, return_index=True, return_inverse=True)
        order = np.argsort(first)
        line = np.argsort(order)[line.ravel()]
        return first[order], np.bincount(line, minlength=len(first)), line

    @property
    def caption(self) -> str:
        """How many ranks there are, and how many kinds of them."""
        ranks = count(self.foretold.world, "rank")
        return ranks if self.each else f"{ranks}; {count(len(self), 'line')}, ranks of equal cost in one"

    def __len__(self) -> int:
        return len(self._rows[0])

    def lines(self, first: int, count: int) -> list[Line]:
        """At most `count` lines from `first` on."""
        most = max(1, int(self._numbers[:, 1].max(initial=0)))
        return [self._line(i, most) for i in range(max(0, first), min(first + count, len(self)))]

    def ranks(self, line: int) -> Ints:
        """The ranks of a line."""
        return np.flatnonzero(self._rows[2] == line)

    def _line(self, i: int, most: int) -> Line:
        reads, nbytes, files, memory, peak, stock, *far = self._numbers[self._rows[0][i]].tolist()
        ranks = self.ranks(i)
        said = _said(ranks)
        cells = (said, f"{reads:,}", human_bytes(nbytes), f"{files:,}")
        asked = (f"{far[0]:,}", human_bytes(far[1])) if far else ()
        return Line(
            (*cells, human_bytes(memory), human_bytes(peak), human_bytes(stock), *asked),
            share=nbytes / most,
            hint=f"{said}: {human_bytes(nbytes)} of {count(files, 'file')}",
        )

    def records(self) -> Iterator[Sequence[object]]:
        """Every rank by itself, for programs."""
        far = ("far_requests", "far_bytes") if self._far else ()
        yield ("rank", "reads", "bytes", "files", "memory", "peak", "stock_bytes", *far)
        for rank, row in enumerate(self._numbers.tolist()):
            yield (rank, *row)


def _said(ranks: Ints) -> str:
    """Ranks in words that begin with what tells most when they are cut off."""
    if len(ranks) <= 4 or int(ranks[-1] - ranks[0]) == len(ranks) - 1:
        return listed(ranks.tolist(), most=len(ranks))
    return f"{len(ranks):,} ranks: {', '.join(map(str, ranks[:4].tolist()))} ..."
