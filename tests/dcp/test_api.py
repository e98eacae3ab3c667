"""Every failure is torch's exception and a CheckpointError at once, on the engine's way and on torch's."""

import pickle

import pytest
import torch
import torch.distributed.checkpoint as stock

import ckptlab.dcp as dcp
from ckptlab.dcp.api import CheckpointFailedError, as_stock, told_as_stock
from ckptlab.engine.ranks import Failure
from ckptlab.errors import CheckpointError, CorruptError, RankError


class FaultyReader(dcp.FileSystemReader):
    def read_data(self, plan, planner):
        raise OSError("the disk is on fire")


@pytest.fixture
def saved(tmp_path):
    dcp.save({"a": torch.ones(2), "b": torch.ones(2)}, checkpoint_id=tmp_path)
    return tmp_path


def test_it_is_caught_by_every_name(saved):
    for kind in (dcp.CheckpointException, stock.CheckpointException, CheckpointError, Exception):
        with pytest.raises(kind, match=r"missing +c"):
            dcp.load({"c": torch.zeros(2)}, checkpoint_id=saved)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_our_name_catches_what_torch_raises(tmp_path):
    with pytest.raises(dcp.CheckpointException):
        stock.load({"a": torch.ones(2)}, checkpoint_id=tmp_path)


@pytest.mark.parametrize(
    ("target", "kind", "words"),
    [
        ({"c": torch.zeros(2)}, RuntimeError, "Missing key in checkpoint state_dict: c."),
        (
            {"a": torch.zeros(3)},
            ValueError,
            "Size mismatch between saved torch.Size([2]) and current: torch.Size([3]) for a",
        ),
        ({"a": "text"}, ValueError, "Invalid checkpoint metadata for a"),
    ],
)
def test_what_does_not_fit_is_said_in_torchs_words_too(saved, target, kind, words):
    with pytest.raises(dcp.CheckpointException) as caught:
        dcp.load(target, checkpoint_id=saved)
    error, _ = caught.value.failures[0]
    assert type(error) is kind
    assert words in str(error)
    assert words in str(caught.value)
    assert [p.fqn for p in caught.value.problems] == list(target)


# Torch warns whenever it works without a process group.
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_torchs_own_protocol_fails_with_the_same_exception(saved):
    with pytest.raises(dcp.CheckpointException, match="the disk is on fire") as caught:
        dcp.load({"a": torch.zeros(2)}, storage_reader=FaultyReader(saved))
    assert type(caught.value.failures[0][0]) is OSError
    assert type(caught.value.__cause__) is stock.CheckpointException


def test_each_rank_that_failed_is_a_failure():
    failed = [Failure(3, "write", "OSError: full", "..."), Failure(5, "write", "OSError: full", "...")]
    told = as_stock(RankError("ranks 3 and 5 failed", 3, "write", failed))
    assert {rank: str(error) for rank, (error, _) in told.failures.items()} == {
        3: "OSError: full",
        5: "OSError: full",
    }


def test_it_crosses_a_process_boundary():
    told = as_stock(CorruptError("cut short", ["w"]))
    again = pickle.loads(pickle.dumps(told))
    assert (type(again), str(again), again.problems) == (CheckpointFailedError, str(told), ("w",))
    assert list(again.failures) == [0]


def test_what_is_told_already_stays_as_it_is():
    once = as_stock(CorruptError("cut short"))
    with pytest.raises(CheckpointFailedError) as caught, told_as_stock():
        raise once
    assert caught.value is once


def test_what_nobody_foresaw_is_told_too():
    with pytest.raises(dcp.CheckpointException, match="no room") as caught, told_as_stock():
        raise OSError("no room")
    assert type(caught.value.__cause__) is OSError
