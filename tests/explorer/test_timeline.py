"""A run as it is told: phases, bytes, and the end."""

from ckptlab.events import Event
from ckptlab.explorer.timeline import Timeline


def test_bytes_count_only_while_reading():
    timeline = Timeline(2)
    timeline.hear(Event(1, "read", 100, 200, 0.5))
    timeline.hear(Event(1, "verify", 7, 200, 0.6))
    assert [(r.phase, r.nbytes) for r in timeline.ran] == [("start", 0), ("verify", 100)]
    assert timeline.said(400) == "1 in start, 1 in verify; read 100 B of 400 B"
    timeline.end(1, 200, 0.7, True)
    assert (timeline.ran[1].nbytes, timeline.ran[1].equal) == (200, True)
