"""A run as it is told: phases, bytes, and the end; and the picture of its times."""

import numpy as np

from ckptlab.events import Event
from ckptlab.explorer.scene import FILLED, HATCHED, NEUTRAL
from ckptlab.explorer.timeline import WIDE, Span, Timeline, timeline_panel

TOLD = [
    Event(0, "start", 0, 0, 0.0),
    Event(0, "metadata", 0, 0, 0.1),
    Event(0, "metadata", 0, 0, 0.2),
    Event(0, "read", 0, 200, 0.4),
    Event(0, "read", 150, 200, 0.5),
    Event(0, "read", 200, 200, 0.6),
    Event(0, "verify", 0, 200, 0.8),
    Event(0, "verify", 200, 200, 1.0),
    Event(0, "done", 0, 0, 1.1),
]


def told():
    timeline = Timeline(2)
    for event in TOLD:
        timeline.hear(event)
    return timeline


def test_bytes_count_only_while_reading():
    timeline = Timeline(2)
    timeline.hear(Event(1, "read", 100, 200, 0.5))
    timeline.hear(Event(1, "verify", 7, 200, 0.6))
    assert [(r.phase, r.nbytes) for r in timeline.ran] == [("start", 0), ("verify", 100)]
    assert timeline.said(400) == "1 in start, 1 in verify; read 100 B of 400 B"
    timeline.end(1, 200, 0.7, True, 5)
    assert (timeline.ran[1].nbytes, timeline.ran[1].equal) == (200, True)
    assert (timeline.lanes[1].peak, timeline.lanes[1].over) == (5, True)


def test_a_phase_lasts_from_its_first_event_to_its_last_and_between_them_it_waits():
    timeline = told()
    assert timeline.lanes[0].spans == (
        Span("start", 0.0, 0.1, 0, 0),
        Span("metadata", 0.1, 0.2, 0, 0),
        Span("read", 0.4, 0.6, 200, 200),
        Span("verify", 0.8, 1.0, 200, 200),
    )
    assert timeline.lanes[1].spans == ()
    assert timeline.seconds == 1.0


def test_the_picture_is_true_to_scale_and_tells_phases_by_style_and_word():
    timeline = told()
    panel = timeline_panel(timeline.lanes)
    marks = panel.marks
    np.testing.assert_allclose(marks.box[:, 0] / WIDE, [0, 0.1, 0.4, 0.8], atol=1e-6)
    np.testing.assert_allclose(marks.box[:, 2] / WIDE, [0.1, 0.1, 0.2, 0.2], atol=1e-6)
    assert marks.style.tolist() == [FILLED, FILLED, FILLED, HATCHED]
    assert marks.colour.tolist() == [NEUTRAL, NEUTRAL, 0, 0]
    assert marks.labels == ("target", "metadata", "read", "verify")
    assert marks.ranks_of(2) == (0,)
    shown = {fact.label: fact.show(2) for fact in marks.facts}
    assert shown["phase"] == "read into the target"
    assert (shown["took"], shown["bytes"]) == ("200.0 ms", "200 B of 200 B")
    beside = [note.text for note in panel.notes if note.x > WIDE]
    assert beside == ["verify", "waits"]


def test_memory_is_told_once_a_rank_has_ended():
    timeline = told()
    timeline.end(0, 200, 1.0, True, peak=3 << 20, device_peak=1 << 20)
    timeline.end(1, 200, 1.0, True)
    panel = timeline_panel(timeline.lanes)
    assert [note.text for note in panel.notes if note.x > WIDE] == [
        "+3.00 MiB, GPU +1.00 MiB",
        "memory not known",
    ]
    assert "the most memory" in panel.caption
