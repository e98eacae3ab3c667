"""What crosses, without processes."""

import pickle
import sys

import live_ops as ops
import pytest

from ckptlab.errors import CheckpointError, MismatchError, RankError
from ckptlab.live.ranks import Context
from ckptlab.live.wire import Done, Failure, answer, call, pack_call, unpack

CONTEXT = Context(1, 2, "cpu", "gloo", lambda what: None)


class Awkward(MismatchError):
    """Cannot be made again from its arguments."""

    def __init__(self, first, second):
        super().__init__(f"{first}{second}")


def test_a_call_arrives():
    assert call(CONTEXT, pack_call(ops.whoami, ("x",))) == (1, 2, "cpu", "gloo", "x")


def test_what_is_not_at_the_top_of_a_module_is_refused():
    def inner(context):
        return 0

    with pytest.raises(CheckpointError, match=r"`.*inner` cannot be sent to the ranks"):
        pack_call(inner, ())
    with pytest.raises(CheckpointError, match="arguments picklable"):
        pack_call(ops.whoami, (sys,))


def test_what_lives_in_main_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(ops.whoami, "__module__", "__main__")
    with pytest.raises(CheckpointError, match=r"`whoami` is defined in __main__ .* put it in a module"):
        pack_call(ops.total, (ops.whoami,))


def test_an_error_of_ckptlab_travels_whole():
    def work():
        raise RankError("gone", 3, "read", ["why"])

    failure = unpack(answer(work))
    assert isinstance(failure.error, RankError)
    assert (failure.error.rank, failure.error.phase, failure.error.problems) == (3, "read", ("why",))


def test_one_that_cannot_travel_goes_as_text():
    def work():
        raise Awkward(1, 2)

    assert unpack(answer(work)) == Failure("Awkward: 12", unpack(answer(work)).trace)


def test_even_an_exit_is_answered():
    assert unpack(answer(sys.exit)).what == "SystemExit"
    assert unpack(answer(lambda: 5)) == Done(5)
    assert "cannot be sent" in unpack(answer(lambda: sys)).what


def test_an_unreadable_message_is_a_failure():
    assert "cannot be read by the driver" in unpack(pickle.dumps(Done(5))[:-3]).what
