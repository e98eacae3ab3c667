"""A small checkpoint that the command line is tried on."""

import pytest
import torch

import ckptlab


@pytest.fixture(scope="package")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "step-1"
    torch.manual_seed(0)
    ckptlab.save({"model": {"w": torch.randn(10, 6), "b": torch.randn(7)}, "step": 3}, path, no_dist=True)
    return path
