"""One rank fails, anywhere: all ranks have the one error within seconds, naming the rank and the phase."""

import fault_ops as ops
import pytest
from faults import agreed
from ranks_fixture import pool

PHASES = {
    "save": ["plan", "write", "commit"],
    "async": ["copy", "plan", "write", "commit"],
    "load": ["metadata", "plan", "read", "commit"],
}
SPARED = {"mkdir", "posix_fallocate"}
"""Operations of a save that may fail: the directory may be there, and room need not be set aside."""
AFTER = {"scandir", "unlink"}
"""Operations that may fail once the new checkpoint is there: what the old one left is cleared later."""


@pytest.fixture
def ranks2():
    return pool(2)


@pytest.mark.parametrize(("verb", "rank"), [("save", 0), ("save", 1), ("async", 1)])
def test_a_save_whose_file_operation_fails_fails_on_all(ranks2, tmp_path, verb, rank):
    out = ranks2.run(ops.fails_at_each_operation, str(tmp_path), rank, verb)
    phases = set()
    for here in zip(*out, strict=True):
        name, seeds = here[0][0], {seed for *_, seed in here}
        if here[0][1] is None:
            assert (name in SPARED or (name in AFTER and "commit" in phases), seeds) == (True, {2})
            continue
        failure = agreed([failed for _, failed, _ in here])
        assert (failure.kind, failure.rank) == ("RankError", rank)
        assert f"OSError: [Errno 5] Input/output error: '{name}'" in failure.message
        # Of the new checkpoint, when it is there, only that the disk has it can still be in doubt.
        assert seeds in (({1}, {2}) if failure.phase == "commit" else ({1},))
        phases.add(failure.phase)
    assert phases == ({"plan", "write", "commit"} if rank == 0 else {"write"})


@pytest.mark.parametrize("rank", [0, 1])
def test_a_load_whose_file_operation_fails_fails_on_all(ranks2, tmp_path, rank):
    out = ranks2.run(ops.fails_at_each_operation, str(tmp_path), rank, "load")
    phases = []
    for here in zip(*out, strict=True):
        if here[0][1] is None:
            # A load can do without what was recorded beside; all elements were right.
            assert {failed for _, failed, _ in here} == {None}
            continue
        failure = agreed([failed for _, failed, _ in here])
        assert (failure.kind, failure.rank) == ("RankError", rank)
        assert "Input/output error" in failure.message
        assert {seed for *_, seed in here} == {1}
        phases.append(failure.phase)
    assert {"metadata", "read"} <= set(phases)
    assert len(phases) >= len(out[0]) / 2


@pytest.mark.parametrize("verb", ["save", "async", "load"])
@pytest.mark.parametrize("rank", [0, 1])
def test_what_a_listener_raises_before_in_or_after_a_phase_is_raised_on_all(ranks2, tmp_path, rank, verb):
    out = ranks2.run(ops.fails_in_progress, str(tmp_path), rank, verb)
    phases = []
    for here in zip(*out, strict=True):
        failure = agreed([failed for _, failed, _ in here])
        phase = here[0][0]
        assert (failure.kind, failure.rank, failure.phase) == ("RankError", rank, phase)
        assert f"ValueError: no more of {phase}" in failure.message
        assert {seed for *_, seed in here} in (({1}, {2}) if (verb, phase) != ("load", "commit") else ({1},))
        phases.append(phase)
    assert list(dict.fromkeys(phases)) == PHASES[verb]
    assert all(phases.count(phase) >= 2 for phase in phases)


@pytest.mark.parametrize(
    ("how", "rank", "phase", "words"),
    [
        ("save lock", 1, "plan", "'bad' is a lock that cannot be pickled"),
        ("save stateful", 0, "plan", "ValueError: no state_dict today"),
        ("load stateful", 1, "plan", "ValueError: no state_dict today"),
        ("load into", 1, "commit", "ValueError: no load_state_dict today"),
    ],
)
def test_a_state_that_one_rank_cannot_tell_or_take_fails_on_all(ranks2, tmp_path, how, rank, phase, words):
    out = ranks2.run(ops.bad_on_one, str(tmp_path), rank, how)
    failure = agreed([failed for failed, _ in out])
    assert (failure.kind, failure.rank, failure.phase) == ("RankError", rank, phase)
    assert words in failure.message
    assert [seed for _, seed in out] == [1, 1]
