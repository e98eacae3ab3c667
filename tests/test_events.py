"""The account of a run: phases in order, bytes, and no more telling than is useful."""

import pickle

import pytest

from ckptlab.errors import MismatchError, RankError
from ckptlab.events import Event, Trace


def test_phases_are_told_at_begin_and_end_with_their_bytes():
    told = []
    trace = Trace(3, told.append, every=3600)
    with trace.phase("read", 10):
        trace.moved(4)
        trace.moved(6)
    with trace.phase("commit"):
        pass
    assert [(e.rank, e.phase, e.done, e.total) for e in told] == [
        (3, "read", 0, 10),
        (3, "read", 10, 10),
        (3, "commit", 0, 0),
        (3, "commit", 0, 0),
    ]
    assert set(trace.seconds) == {"read", "commit"}


def test_every_step_is_told_when_that_is_asked_for():
    told = []
    trace = Trace(0, told.append, every=0)
    with trace.phase("read", 3):
        for _ in range(3):
            trace.moved(1)
    assert [e.done for e in told] == [0, 1, 2, 3, 3]


def test_the_same_phase_twice_adds_up():
    trace = Trace()
    for _ in range(2):
        with trace.phase("plan"):
            pass
    assert len(trace.seconds) == 1


def test_what_a_listener_raises_is_kept_until_it_is_asked_for():
    def fails(event):
        raise ValueError(event.phase)

    trace = Trace(0, fails)
    trace.check()
    with trace.phase("read", 1), trace.phase("commit"):
        trace.moved(1)
    with pytest.raises(ValueError, match="read"):
        trace.check()
    assert trace.now == "read"


def test_what_crosses_a_process_boundary_arrives_whole():
    event = Event(1, "read", 2, 3, 0.5)
    assert pickle.loads(pickle.dumps(event)) == event
    error = pickle.loads(pickle.dumps(RankError("rank 2 failed", 2, "read", ["why"])))
    assert (str(error), error.rank, error.phase, error.problems) == ("rank 2 failed", 2, "read", ("why",))
    assert pickle.loads(pickle.dumps(MismatchError("no", [1]))).problems == (1,)
