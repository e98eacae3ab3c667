"""Shards that several ranks hold and that went apart: named by key, ranks and largest difference."""

import math
import os

import fault_ops as ops
import pytest
import torch
from faults import agreed

from ckptlab.engine.divergence import difference, replicas_of
from ckptlab.engine.held import hold
from ckptlab.engine.ranks import Team


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_a_replica_that_differs_is_named_with_its_largest_difference(ranks4, tmp_path, rank):
    changes = [(rank, "w", 2, 0.25), (rank, "w", 5, -3.5)]
    failure = agreed(ranks4.run(ops.diverged, str(tmp_path), changes))
    first, second = sorted({rank, (rank + 2) % 4})
    assert failure.kind == "CheckpointError"
    box = "Box[0:5, 0:4]" if rank % 2 == 0 else "Box[5:9, 0:4]"
    words = f"m.w {box}: rank {second} is not the same as rank {first} is"
    assert words in failure.message
    assert "2 elements differ, by 3.5 at most" in failure.message
    assert len(failure.problems) == 1
    assert "m.v" not in failure.message
    assert os.listdir(tmp_path) == []


def test_one_of_many_replicas_is_the_one_at_fault(ranks4, tmp_path):
    failure = agreed(ranks4.run(ops.diverged, str(tmp_path), [(0, "v", 3, 1.0)]))
    assert "m.v Box[0:6]: rank 0 is not the same as ranks 1, 2, 3 are, 1 element differs, by 1 at most" in (
        failure.message
    )


def test_replicas_that_all_went_apart_are_all_named(ranks4, tmp_path):
    changes = [(1, "v", 0, 1.0), (2, "v", 0, 2.0), (3, "v", 1, math.nan), (1, "w", 0, 1.0)]
    failure = agreed(ranks4.run(ops.diverged, str(tmp_path), changes))
    assert len(failure.problems) == 2
    assert "m.v Box[0:6]: ranks 1, 2, 3 are not the same as rank 0 is" in failure.message
    assert "by nan at most" in failure.message
    assert "m.w Box[5:9, 0:4]: rank 3 is not the same as rank 1 is" in failure.message


def test_replicas_are_taken_for_the_same_whatever_the_order_of_keys(ranks4, tmp_path):
    failure = agreed(ranks4.run(ops.diverged, str(tmp_path), [(2, "w", 0, 1.0)], "check", -1))
    assert len(failure.problems) == 1


def test_of_many_only_the_first_are_measured(ranks4, tmp_path):
    failure = agreed(ranks4.run(ops.many_diverged, str(tmp_path), 20))
    assert len(failure.problems) == 20
    assert "and 12 more shards" in failure.message
    assert "t07" in failure.message
    assert "t08" not in failure.message


def test_replicas_are_trusted_when_asked(ranks4, tmp_path):
    equal = ranks4.run(ops.diverged_but_trusted, str(tmp_path), 2)
    assert equal in ([True, True, False, True], [False, True, True, True]), "one of the two was saved"


@pytest.mark.parametrize(
    "dtype", ["bool", "uint16", "int64", "bfloat16", "float8_e4m3fn", "complex32", "complex128"]
)
def test_a_difference_of_one_bit_is_found_in_every_dtype(dtype):
    kind = getattr(torch, dtype)
    bits = torch.zeros(3 * kind.itemsize, dtype=torch.uint8)
    a = bits.clone().view(kind)
    bits[kind.itemsize] = 1
    count, largest = difference(a, bits.view(kind))
    assert count == 1
    assert 0 < largest <= 1
    assert difference(a, a) == (0, 0.0)


def test_a_difference_is_the_largest_and_zeros_of_two_signs_differ_by_nothing():
    a, b = torch.tensor([1.0, 2.0, 0.0, 8.0]), torch.tensor([1.5, -2.0, -0.0, 8.0])
    assert difference(a, b) == (3, 4.0)
    assert difference(torch.tensor([1 + 1j]), torch.tensor([4 + 5j])) == (1, 4.0)


def test_alone_there_are_no_replicas():
    assert replicas_of(hold({}, 0, (0,)), Team.of(), {}).digests == {}
