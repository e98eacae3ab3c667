"""The picture of a load: for each rank, bytes foretold, bytes really read, and what stock DCP would read.

The live run draws its counts into the very bars of the forecast. Plain data: no torch and
no drawing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ckptlab.explorer.held import listed
from ckptlab.explorer.scene import FILLED, HATCHED, NEUTRAL, OUTLINED, Mark, Note, Panel, collect, count
from ckptlab.metadata import human_bytes
from ckptlab.plan.forecast import Forecast

BAR, ROW, THICK, THIN = 8.0, 1.0, 0.5, 0.18

MOST = 32
"""Bars, beyond which several ranks are put together."""


@dataclass(frozen=True)
class Ran:
    """What a live run told of one rank so far: phase, bytes, seconds; and, at the end, the verdict."""

    rank: int
    phase: str
    nbytes: int
    seconds: float
    equal: bool | None = None


def traffic_panel(foretold: Forecast, ran: Sequence[Ran] = (), name: str = "traffic") -> Panel:
    """One bar a rank: outlined as foretold, filled as counted; below it, thin and hatched, stock DCP's.

    Of more than `MOST` ranks neighbours are put together, in one bar as long as that of the one among them
    that reads most.
    """
    told = {r.rank: r for r in ran}
    wanted, stock = foretold.bytes_by_rank, foretold.stock
    most = max(1, int(stock.max(initial=0)), int(wanted.max(initial=0)))
    step = max(1, -(-foretold.world // MOST))
    drawn, notes = [], []
    for row, low in enumerate(range(0, foretold.world, step)):
        ranks = range(low, min(low + step, foretold.world))
        rank = low + int(wanted[low : ranks.stop].argmax())
        now = told.get(rank)
        top = row * ROW
        said = f"rank {rank}" if step == 1 else f"{listed(ranks)}, at most"
        facts = {
            "rank": said.removeprefix("rank "),
            "foretold": f"{human_bytes(int(wanted[rank]))} in {int(foretold.reads[rank])} reads",
            "stock DCP": human_bytes(int(stock[low : ranks.stop].max())),
        }
        bars = [
            (top, int(wanted[rank]), THICK, low, OUTLINED),
            (top + THICK + 0.06, int(stock[low : ranks.stop].max()), THIN, NEUTRAL, HATCHED),
        ]
        if now is not None:
            facts["read"] = human_bytes(now.nbytes)
            bars.insert(0, (top, now.nbytes, THICK, low, FILLED))
        for y, nbytes, height, colour, style in bars:
            box = (0, y, BAR * nbytes / most, height)
            drawn.append(Mark(box, tuple(ranks), colour, style, "", facts))
        notes.append(Note(-0.1, top + THICK / 2, said.removesuffix(", at most"), "end"))
        notes.append(Note(BAR + 0.1, top + THICK / 2, _said(int(wanted[rank]), now), "start"))
    title = "Bytes read, rank by rank"
    caption = f"{summary(foretold)}." + (f" {step:,} ranks to a bar." if step > 1 else "")
    height = len(notes) // 2 * ROW
    return Panel(name, "bars", title, caption, BAR, height, collect(drawn), tuple(notes))


def _said(wanted: int, now: Ran | None) -> str:
    if now is None:
        return f"{human_bytes(wanted)} foretold"
    if now.equal is None:
        return f"{human_bytes(now.nbytes)} of {human_bytes(wanted)}, {now.phase}"
    match = "foretold = read" if now.nbytes == wanted else f"foretold {human_bytes(wanted)}, read"
    verdict = "equal" if now.equal else "NOT EQUAL"
    return f"{match} {human_bytes(now.nbytes)}, {verdict}, {now.seconds:.2f} s"


def verdict(foretold: Forecast, read: int, elements: int, wrong: Sequence[str]) -> str:
    """How a run came out: `read` bytes in all, `elements` compared, `wrong` the tensors that differ."""
    match = (
        "foretold = read" if read == foretold.total else f"foretold {human_bytes(foretold.total)}, but read"
    )
    match = f"{match} {human_bytes(read)}"
    if not wrong:
        return f"{match}. All {elements:,} loaded elements equal the stored ones, bit for bit."
    named = ", ".join(wrong[:3]) + (f" and {count(len(wrong) - 3, 'more tensor')}" if len(wrong) > 3 else "")
    return f"{match}. NOT EQUAL to what is stored: {named}."


def summary(foretold: Forecast) -> str:
    """The forecast in one line."""
    stock = int(foretold.stock.sum())
    return (
        f"{human_bytes(foretold.total)} in {int(foretold.reads.sum()):,} reads, "
        f"{foretold.amplification:.2f}x what is wanted; "
        f"stock DCP: {human_bytes(stock)}, {foretold.stock_amplification:.2f}x"
    )
