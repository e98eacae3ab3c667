"""Who is to blame, without processes."""

import pytest

from ckptlab.errors import CorruptError, RankError
from ckptlab.events import Event
from ckptlab.live import roll as rolls
from ckptlab.live.roll import Roll, name_ranks
from ckptlab.live.wire import Done, Failure, Told

PEER = "RuntimeError: [gloo/pair.cc:547] Connection closed by peer [127.0.0.1]:1"


def heard(world, *messages):
    roll = Roll(world)
    for rank, message in messages:
        roll.hear(rank, message)
    return roll


def test_all_done_is_over_and_in_order():
    roll = heard(2, (1, Done("b")), (0, Done("a")))
    assert roll.over
    assert roll.in_step
    assert roll.results() == ["a", "b"]


def test_a_failure_waits_for_a_cause_and_a_death_does_not():
    roll = heard(3, (0, Failure(PEER)))
    assert not roll.over
    assert 0 < roll.patience <= rolls.GRACE
    assert roll.silent == [1, 2]
    roll.hear(2, Failure("killed by SIGSEGV", died=True))
    assert roll.over
    assert not roll.in_step


def test_patience_ends(monkeypatch):
    monkeypatch.setattr(rolls, "GRACE", 0.0)
    assert heard(3, (0, Failure(PEER))).over


@pytest.mark.parametrize(
    ("failures", "guilty"),
    [
        ({0: Failure(PEER), 2: Failure("ValueError: x")}, 2),
        ({0: Failure("ValueError: x"), 2: Failure("killed by SIGKILL", died=True)}, 2),
        ({0: Failure("killed by SIGABRT", died=True), 2: Failure("killed by SIGKILL", died=True)}, 2),
        ({1: Failure(PEER), 0: Failure(PEER)}, 1),
    ],
)
def test_the_cause_is_blamed_before_its_echo(failures, guilty):
    with pytest.raises(RankError) as caught:
        heard(4, *failures.items()).results()
    assert caught.value.rank == guilty


def test_the_phase_last_told_is_named():
    roll = heard(2, (1, Told(Event(1, "copy", 0, 1, 0.0))), (1, Failure("killed by SIGKILL", died=True)))
    with pytest.raises(RankError, match="rank 1 died in phase 'copy': killed by SIGKILL") as caught:
        roll.results()
    assert caught.value.phase == "copy"


def test_ranks_that_raise_the_same_ckptlab_error_are_in_step():
    error = CorruptError("cut short")
    both = heard(2, *((rank, Failure("CorruptError: cut short", error=error)) for rank in range(2)))
    assert both.in_step
    with pytest.raises(CorruptError) as caught:
        both.results()
    assert caught.value is error
    assert not heard(2, (0, Failure("x", error=error)), (1, Done(1))).in_step


def test_overdue_tells_the_odd_one_first_and_groups_the_rest():
    wait = '  File "/site/torch/distributed/c10d.py", line 1 in barrier\n  File "op.py", line 9 in op'
    error = heard(4, (3, Done(0))).overdue(2, {0: wait, 1: '  File "op.py", line 5 in op', 2: wait})
    text = str(error)
    assert text.startswith(
        "all but ranks 0, 1, 2 answered within 2 s; rank 1 is the one not waiting for others"
    )
    assert text.index("rank 1 at:") < text.index("ranks 0, 2 at:")
    assert error.rank == 1
    assert len(error.problems) == 3


def test_overdue_blames_nobody_when_it_cannot_tell():
    error = heard(2).overdue(1, {0: "  a", 1: "  b"})
    assert error.rank == -1
    assert "is the one" not in str(error)


def test_name_ranks():
    assert [name_ranks([2], 4), name_ranks([3, 0], 4), name_ranks([0, 1], 2), name_ranks([0], 1)] == [
        "rank 2",
        "ranks 0, 3",
        "every rank",
        "rank 0",
    ]
