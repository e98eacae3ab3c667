"""What a narrower dtype makes of stored elements, against torch."""

import torch

import ckptlab
from ckptlab.explorer.rounding import rounding


def test_the_worst_of_all_blocks_is_told(tmp_path):
    torch.manual_seed(0)
    state = {
        "a": torch.randn(64, 33),
        "b": torch.tensor([1e-8, 1.0, 70000.0, 0.0, float("nan"), float("inf")]),
    }
    state["z"] = torch.ones(5)
    ckptlab.save(state, tmp_path / "c", no_dist=True)
    checkpoint = ckptlab.open_checkpoint(tmp_path / "c")
    for dtype in (torch.bfloat16, torch.float16):
        name = str(dtype).removeprefix("torch.")
        told = rounding(checkpoint, {"a": name})
        exact, rounded = state["a"].double(), state["a"].to(dtype).double()
        assert told.count == exact.numel()
        assert told.changed == int((exact != rounded).sum())
        assert told.largest == float((exact - rounded).abs().max())
        assert told.relative == float(((exact - rounded).abs() / exact.abs()).max())
        assert told.fqn == "a"
        both = rounding(checkpoint, {"a": name, "z": name})
        assert (both.relative, both.changed, both.fqn) == (told.relative, told.changed, "a")
    lossy = rounding(checkpoint, {"b": "float16"})
    assert (lossy.changed, lossy.lost) == (2, 2), lossy
    assert "2 become 0, infinite or NaN" in str(lossy)
    assert str(rounding(checkpoint, {"b": "float64"})) == "none of 6 elements changes"
