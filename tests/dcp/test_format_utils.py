"""Between DCP checkpoints and torch.save files, both ways, and one file sent to all ranks."""

import dcp_ops as ops
import pytest
import torch
import torch.distributed.checkpoint as stock

import ckptlab.dcp as dcp
from ckptlab.dcp.format_utils import dcp_to_torch_save, torch_save_to_dcp
from ckptlab.errors import CheckpointError

# Torch warns whenever it works without a process group.
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is ")
STATE = {"w": torch.arange(6.0).reshape(2, 3), "n": {"k": 5, "l": [torch.ones(2), {"m": "text"}]}}


def same(a, b):
    tensors = torch.equal(a["w"], b["w"]) and torch.equal(a["n"]["l"][0], b["n"]["l"][0])
    return tensors and (a["n"]["k"], a["n"]["l"][1]) == (b["n"]["k"], b["n"]["l"][1])


@pytest.mark.parametrize("saver", ["torch", "ckptlab"])
def test_a_checkpoint_becomes_one_file_nested_as_it_was(tmp_path, saver):
    (stock if saver == "torch" else dcp).save(STATE, checkpoint_id=tmp_path / "saved")
    dcp_to_torch_save(tmp_path / "saved", tmp_path / "whole.anything")
    assert same(torch.load(tmp_path / "whole.anything"), STATE)


@pytest.mark.parametrize("loader", ["torch", "ckptlab"])
def test_one_file_becomes_a_checkpoint(tmp_path, loader):
    torch.save(STATE, tmp_path / "whole")
    torch_save_to_dcp(tmp_path / "whole", tmp_path / "made")
    target = {"w": torch.zeros(2, 3), "n": {"k": 0, "l": [torch.zeros(2), {"m": ""}]}}
    (stock if loader == "torch" else dcp).load(target, checkpoint_id=tmp_path / "made")
    assert same(target, STATE)


def test_a_file_that_would_run_something_is_refused(tmp_path):
    class Runs:
        def __reduce__(self):
            return print, ("run",)

    torch.save({"w": torch.ones(2), "x": Runs()}, tmp_path / "whole")
    with pytest.raises(CheckpointError, match="print"):
        torch_save_to_dcp(tmp_path / "whole", tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_one_file_is_sent_to_all_ranks(ranks4, tmp_path):
    whole = torch.arange(32.0).reshape(8, 4)
    torch.save({"w": whole, "r": whole + 1, "more": 3}, tmp_path / "whole")
    assert ranks4.run(ops.broadcast_load, str(tmp_path / "whole")) == [True] * 4


def test_a_file_that_does_not_fit_fails_on_all_ranks(ranks4, tmp_path):
    torch.save({"w": torch.ones(8, 5)}, tmp_path / "whole")
    for found in ranks4.run(ops.broadcast_load, str(tmp_path / "whole")):
        assert r"w: [8, 5], target [8, 4]" in found
        assert "r: nothing, target [8, 4]" in found
