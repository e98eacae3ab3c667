"""Ranks that agree on a failure: which error each raises, and whom it names."""

import dataclasses
from datetime import timedelta

import engine_ops as ops
import pytest

from ckptlab.engine.lost import Missing, Roll
from ckptlab.engine.ranks import Team
from ckptlab.errors import LostError


def raised(failures):
    """The one error of all ranks."""
    (one,) = {dataclasses.replace(f, seconds=0) for f in failures}
    return one


def test_one_rank_that_fails_is_named_on_all(ranks4):
    failure = raised(ranks4.run(ops.together, "one", 2))
    assert (failure.kind, failure.rank, failure.phase) == ("RankError", 2, "read")
    assert "rank 2" in failure.message
    assert "ValueError: the cause" in failure.message
    (problem,) = failure.problems
    assert "in step" in problem, "it says where it was raised"


def test_an_error_that_cannot_travel_is_told_in_words(ranks4):
    failure = raised(ranks4.run(ops.together, "unsendable", 3))
    assert (failure.kind, failure.rank) == ("RankError", 3)
    assert "CheckpointError: the cause" in failure.message


def test_ranks_that_fail_alike_raise_the_error_itself(ranks4):
    failure = raised(ranks4.run(ops.together, "alike", 0))
    assert (failure.kind, failure.message, failure.problems) == ("MismatchError", "none fits", ("a", "b"))


def test_ranks_that_fail_apart_are_all_named(ranks4):
    failure = raised(ranks4.run(ops.together, "apart", 0))
    assert (failure.kind, failure.rank) == ("RankError", 0)
    assert "cause 0" in failure.message
    assert "1, 2, 3" in failure.message
    assert [f"cause {rank}" in problem for rank, problem in enumerate(failure.problems)] == [True] * 4


def test_what_the_first_does_alone_is_known_to_all(ranks4):
    out = ranks4.run(ops.first)
    assert [told for told, *_ in out] == [{"told": 0}] * 4
    assert [done for _, done, *_ in out] == [[0], [], [], []]
    failure = raised(failure for *_, failure, _ in out)
    assert (failure.kind, failure.message, failure.problems) == ("PathError", "there is a file", ("path",))
    assert [after for *_, after in out] == [[0, 2, 4, 6]] * 4


def test_a_part_of_the_job_works_alone(ranks4, tmp_path):
    out = ranks4.run(ops.part_of_the_job, str(tmp_path), (1, 3))
    assert out[0] is out[2] is None
    assert [one[:3] for one in (out[1], out[3])] == [(0, 1, (1, 3)), (1, 3, (1, 3))]
    assert sum(one[3] for one in (out[1], out[3])) == 3
    assert all(one[4] and one[5] == 4 for one in (out[1], out[3]))
    failure = raised(one[6] for one in (out[1], out[3]))
    assert failure.rank == 3
    assert failure.message.startswith("rank 3 failed")


def test_every_rank_for_itself(ranks4, tmp_path):
    assert ranks4.run(ops.alone, str(tmp_path)) == [([rank] * 2, rank) for rank in range(4)]


def test_without_a_process_group_a_team_is_one(tmp_path):
    team = Team.of()
    assert (team.rank, team.world, team.global_rank, team.group) == (0, 1, 0, None)
    assert team.gather("x") == ["x"]
    assert team.together("read", lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        team.together("read", lambda: 1 // 0)


class Ended:
    """A collective that comes to its end just as the wait for it gives up."""

    def __init__(self, well):
        self.well, self.asked = well, 0

    def wait(self, *_):
        self.asked += 1
        if self.asked == 1 or not self.well:
            raise RuntimeError("Operation timed out!")

    def is_completed(self):
        return True


def test_a_collective_that_ends_as_the_wait_gives_up_is_no_lost_rank(monkeypatch):
    team = Team(0, 2, ranks=(0, 1))
    monkeypatch.setattr(Roll, "called", property(lambda _: False))
    monkeypatch.setattr(Roll, "call", lambda _: Missing((1,), dead=True))
    team._finish(Ended(well=True), timedelta(seconds=0.5))
    with pytest.raises(LostError, match="rank 1 died"):
        team._finish(Ended(well=False), timedelta(seconds=0.5))
