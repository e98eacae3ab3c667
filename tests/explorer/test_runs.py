"""Runs side by side, and what each is remembered as."""

from saved import TENSORS, hsdp_metadata

from ckptlab.errors import CancelledError, RankError
from ckptlab.events import Event
from ckptlab.explorer.runs import Asked, Runs, broke_off, came_out
from ckptlab.explorer.timeline import Timeline
from ckptlab.layout import Layout
from ckptlab.plan.forecast import forecast
from ckptlab.plan.holding import holdings

METADATA = hsdp_metadata()
FORETOLD = forecast(METADATA, holdings(TENSORS, Layout.parse("2", "Shard(0)")), 2)


def asked(number):
    return Asked(number, "shard=2: Shard(0)", "CPU (gloo)", FORETOLD)


def told(part=1.0, ended=True):
    timeline = Timeline(2)
    for rank, wanted in enumerate(FORETOLD.bytes_by_rank.tolist()):
        timeline.hear(Event(rank, "read", int(wanted * part), wanted, 0.5 + rank))
        if ended:
            timeline.end(rank, int(wanted * part), 0.1, True, peak=1000 * (rank + 1))
    return timeline


def test_a_good_run_is_as_foretold_and_equal():
    run = came_out(asked(1), told(), 77, [])
    assert (run.verdict, run.good, run.seconds, run.peak) == ("equal", True, 1.5, 2000)
    assert run.nbytes == FORETOLD.total
    assert "1.50 s with the comparison" in run.said


def test_other_ends_are_not_good():
    assert came_out(asked(1), told(0.5), 77, []).verdict == "equal, not as foretold"
    wrong = came_out(asked(1), told(), 77, ["w"])
    assert (wrong.verdict, wrong.good) == ("NOT EQUAL", False)
    assert broke_off(asked(1), told(0.5, False), CancelledError("x"), METADATA).verdict == "cancelled"
    dead = broke_off(
        asked(1), told(0.5, False), RankError("rank 1 died: killed by SIGKILL", 1, "read"), METADATA
    )
    assert (dead.verdict, dead.peak) == ("rank 1 died", -1)
    assert dead.failure.phase.startswith("read, 98.6 KiB of")


def test_the_latest_stands_first_and_the_shown_one_is_marked():
    cancelled = broke_off(asked(2), told(0.5, False), CancelledError("x"), METADATA)
    table = Runs([cancelled, came_out(asked(1), told(), 7, [])], 1)
    lines = table.lines(0, 9)
    labels = [column.label for column in table.columns]
    first, second = (dict(zip(labels, line.cells, strict=True)) for line in lines)
    assert first["run"] == "2. shard=2: Shard(0)"
    assert [line.chosen for line in lines] == [False, True]
    assert (first["verdict"], second["verdict"]) == ("cancelled", "equal")
    assert (first["memory"], second["memory"]) == ("", "1.95 KiB")
    assert first["ranks"] == "2 on CPU (gloo)"
    assert second["read"] == second["foretold"]
    total = FORETOLD.total
    place = (1, "shard=2: Shard(0)", "CPU (gloo)", 2)
    assert list(table.records())[2] == (*place, 1.5, total, total, 2000, "equal")
