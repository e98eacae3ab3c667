"""The judge of a load is judged: it sees a load that did nothing, and one flipped bit."""

import dataclasses

import pytest
import torch

from ckptlab import load, open_checkpoint, save
from ckptlab.engine import verify_loaded
from ckptlab.metadata import Tensor, Tensors
from ckptlab.storage.dcp_write import write_metadata


@pytest.fixture
def path(tmp_path):
    save({"a": torch.arange(12.0).reshape(3, 4), "b": torch.ones(5, dtype=torch.bfloat16), "n": 1}, tmp_path)
    return str(tmp_path)


def blank():
    return {"a": torch.zeros(3, 4), "b": torch.zeros(5, dtype=torch.bfloat16), "n": 0}


def test_a_good_load_is_equal(path):
    state = blank()
    load(state, path)
    verdict = verify_loaded(state, path, no_dist=True)
    assert verdict.equal
    assert (verdict.elements, verdict.different, verdict.rank) == (17, (), 0)


def test_a_load_that_read_nothing_is_seen(path):
    verdict = verify_loaded(blank(), path)
    assert not verdict.equal
    assert verdict.different == ("a", "b")


@pytest.mark.parametrize(("key", "byte"), [("a", 0), ("a", 47), ("b", 9)])
def test_one_flipped_bit_is_seen(path, key, byte):
    state = blank()
    load(state, path)
    state[key].reshape(-1).view(torch.uint8)[byte] ^= 1
    assert verify_loaded(state, path).different == (key,)


def test_minus_zero_is_not_zero_and_a_nan_is_itself(tmp_path):
    save({"w": torch.tensor([0.0, float("nan")])}, tmp_path)
    assert verify_loaded({"w": torch.tensor([0.0, float("nan")])}, str(tmp_path)).equal
    assert not verify_loaded({"w": torch.tensor([-0.0, float("nan")])}, str(tmp_path)).equal


def test_elements_that_are_stored_nowhere_are_never_equal(tmp_path):
    save({"w": torch.ones(2, 3)}, tmp_path)
    metadata = open_checkpoint(tmp_path).metadata
    larger = dataclasses.replace(metadata, tensors=Tensors.of([Tensor("w", "float32", (4, 3))]))
    (tmp_path / ".metadata").write_bytes(write_metadata(larger, str(tmp_path)))
    state = {"w": torch.cat([torch.ones(2, 3), torch.zeros(2, 3)])}
    assert verify_loaded(state, str(tmp_path)).different == ("w",)


def test_other_dtypes_and_keys(path):
    assert verify_loaded({"a": torch.arange(12.0).reshape(3, 4).double()}, path).different == ("a",)
    assert verify_loaded({"other": torch.ones(2), "n": 3}, path).elements == 0


def test_progress_counts_the_bytes(path):
    events = []
    verify_loaded(blank(), path, progress=events.append)
    assert (events[-1].phase, events[-1].done, events[-1].total) == ("verify", 58, 58)
