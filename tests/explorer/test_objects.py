"""Objects by value: plain ones in words, others with the reason why not."""

import os

import numpy as np
import pytest
import torch

import ckptlab
from ckptlab.explorer import objects
from ckptlab.explorer.objects import Objects


class Asks:
    """What a pickle could make run."""

    def __reduce__(self):
        return os.getcwd, ()


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    path = tmp_path_factory.mktemp("objects") / "checkpoint"
    state = {"step": 3, "lr": {"groups": [0.1, None], "name": "x" * 500}, "w": torch.ones(2)}
    state |= {"array": np.arange(3), "big": list(range(100_000)), "run": Asks()}
    ckptlab.save(state, path, no_dist=True)
    return Objects(ckptlab.open_checkpoint(path))


def test_plain_values_are_shown_shortened(said):
    keys = {key.partition(".")[0]: key for key in said.checkpoint.metadata.objects}
    assert said("step") == "3"
    shown = {key: said(key) for key in said.checkpoint.metadata.objects}
    assert max(map(len, shown.values())) < 400
    assert any("0.1" in words for words in shown.values())
    assert keys


def test_what_is_no_plain_value_says_why(said):
    assert said("run").startswith("not shown: holds ")
    assert "getcwd" in said("run")


def test_large_and_far_ones_are_read_when_asked_for(said, monkeypatch):
    (key,) = [key for key in said.checkpoint.metadata.objects if key.startswith("big")][:1]
    monkeypatch.setattr(objects, "MOST", 10)
    fresh = Objects(said.checkpoint)
    assert fresh(key).startswith("not shown: ")
    assert fresh(key).endswith("press to read")
    fresh.read(key)
    assert "not shown" not in fresh(key)
    monkeypatch.undo()
    monkeypatch.setattr(type(said.checkpoint.files), "mapped", False)
    assert Objects(said.checkpoint)("step") == "not shown: far away; press to read"


def test_a_damaged_one_is_said(said):
    fresh, extent = Objects(said.checkpoint), said.checkpoint.metadata.objects["step"]
    name = said.checkpoint.metadata.files[extent.file]
    file = f"{said.checkpoint.path}/{name}"
    with open(file, "r+b") as out:
        out.seek(extent.start)
        whole = out.read(extent.length)
        out.seek(extent.start)
        out.write(bytes(extent.length))
    try:
        assert fresh("step").startswith("not shown: ")
    finally:
        with open(file, "r+b") as out:
            out.seek(extent.start)
            out.write(whole)
