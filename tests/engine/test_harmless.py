"""What people keep in a state besides tensors comes back; what could run something does not."""

import collections
import datetime
import io
import pathlib
import random
import uuid

import numpy as np
import pytest
import torch

import ckptlab
import ckptlab.dcp as dcp
from ckptlab.engine.harmless import harmless

# Torch warns whenever it works without a process group.
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is ")
NOW = datetime.datetime(2026, 11, 22, 9, 8, 7, tzinfo=datetime.UTC)
VALUES = {
    "numpy's generator": np.random.RandomState(3).get_state(),
    "an array": np.arange(6.0).reshape(2, 3),
    "an array of text": np.array(["a", "bc"]),
    "numbers of numpy": [np.float32(1.5), np.int64(2), np.bool_(True)],
    "python's generator": random.Random(3).getstate(),
    "times": [NOW, NOW.date(), NOW.time(), datetime.timedelta(3)],
    "paths": [pathlib.Path("/a/b"), pathlib.PurePosixPath("c")],
    "an id": uuid.UUID(int=5),
    "sets": [{1, 2}, frozenset([3])],
    "what torch has": [torch.float32, torch.device("cpu"), torch.Size([1])],
}


class Plain(dcp.DefaultLoadPlanner):
    """A planner of somebody's own, so that torch's protocol is used."""

    def resolve_tensor(self, read_item):
        return super().resolve_tensor(read_item)


LOADS = {
    "ours": ckptlab.load,
    "by torch's names": lambda target, path: dcp.load(target, checkpoint_id=path),
    "by torch's protocol": lambda target, path: dcp.load(target, checkpoint_id=path, planner=Plain()),
}


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("kind", list(VALUES))
def test_values_come_back(tmp_path, kind, load):
    dcp.save({"x": VALUES[kind]}, checkpoint_id=tmp_path)
    target = {"x": None}
    LOADS[load](target, tmp_path)
    assert type(target["x"]) is type(VALUES[kind])
    np.testing.assert_equal(target["x"], VALUES[kind])


def test_bytes_in_memory_come_back(tmp_path):
    dcp.save({"x": io.BytesIO(b"abc")}, checkpoint_id=tmp_path)
    target = {"x": None}
    dcp.load(target, checkpoint_id=tmp_path)
    assert target["x"].getvalue() == b"abc"


def test_what_the_user_allowed_stays_allowed_afterwards():
    with torch.serialization.safe_globals([collections.deque]):
        with harmless():
            assert collections.deque in torch.serialization.get_safe_globals()
            assert uuid.UUID in torch.serialization.get_safe_globals()
        assert collections.deque in torch.serialization.get_safe_globals()
    assert uuid.UUID not in torch.serialization.get_safe_globals()
