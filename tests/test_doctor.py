"""`ckptlab.diagnose`: each reported case is told rightly, mended, and loaded bit for bit."""

import subprocess
import sys

import pytest
import torch
from cases_doctor import CASES, flat, model, values

import ckptlab
from ckptlab.engine.state import flatten
from ckptlab.errors import LayoutError, PathError
from ckptlab.plan.transform import Transform


def same(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    return a == b


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore:the target's dtype is narrower")
def test_a_reported_case_is_told_mended_and_loaded(name, tmp_path):
    case = CASES[name]
    ckptlab.save(case.saved(), tmp_path / "saved", no_dist=True)
    target = case.target()
    found = ckptlab.diagnose(tmp_path / "saved", target, rank=case.rank)
    assert sorted(it.kind for it in found) == sorted(case.kinds), found
    assert case.says in repr(found)
    taken = [it for it in found if it.kind in case.take]
    assert not any(it.applied for it in taken), "what costs something is never taken unasked"
    transform = found.transform_with(taken)
    transform.save(tmp_path / "transform.json")
    assert Transform.read(tmp_path / "transform.json") == transform
    ckptlab.load(target, tmp_path / "saved", transform=transform, no_dist=True)
    loaded = flatten(target).values
    for fqn, value in case.filled().items():
        assert same(value, loaded[fqn]), fqn


@pytest.mark.parametrize("name", CASES)
def test_a_target_that_fits_has_no_finding(name, tmp_path):
    state = CASES[name].saved()
    ckptlab.save(state, tmp_path / "saved", no_dist=True)
    found = ckptlab.diagnose(tmp_path / "saved", state)
    assert not found, found
    assert "nothing found" in repr(found)
    assert not ckptlab.diagnose(tmp_path / "saved", tmp_path / "saved")


def test_a_model_on_the_meta_device_with_tied_and_frozen_parameters(tmp_path):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = torch.nn.Embedding(8, 4)
            self.lm_head = torch.nn.Linear(4, 8, bias=False)
            self.lm_head.weight = self.embed.weight
            self.gate = torch.nn.Linear(4, 4)
            self.gate.requires_grad_(False)

    with torch.device("meta"):
        net = Net()
    saved = {k: values(k, tuple(v.shape)) for k, v in net.state_dict().items() if k != "lm_head.weight"}
    ckptlab.save(saved, tmp_path / "saved", no_dist=True)
    (tied,) = ckptlab.diagnose(tmp_path / "saved", net)
    assert (tied.kind, tied.keys, tied.sure) == ("tied", ("lm_head.weight",), 0.99)
    target = {k: torch.zeros(v.shape) for k, v in net.state_dict().items()}
    ckptlab.load(
        target,
        tmp_path / "saved",
        transform=ckptlab.diagnose(tmp_path / "saved", net).transform,
        no_dist=True,
    )
    assert torch.equal(target["lm_head.weight"], saved["embed.weight"])
    state = {"embed.weight": {"exp_avg": saved["embed.weight"]}}
    ckptlab.save({"net": net_on_cpu(net), "optim": {"state": state}}, tmp_path / "o", no_dist=True)
    both = state | {"gate.bias": {"exp_avg": torch.zeros(4)}}
    (frozen,) = ckptlab.diagnose(tmp_path / "o", {"net": net, "optim": {"state": both}})
    assert (frozen.kind, frozen.keys) == ("frozen", ("optim.state.gate.bias.exp_avg",))


def net_on_cpu(net):
    return {name: torch.zeros(it.shape) for name, it in net.state_dict().items()}


def test_rounding_is_measured_only_when_asked(tmp_path):
    w = torch.tensor([1.0, 1 + 2**-9, 3e38, 0.0])
    ckptlab.save({"w": w}, tmp_path / "saved", no_dist=True)
    target = {"w": torch.zeros(4, dtype=torch.float16)}
    (told,) = ckptlab.diagnose(tmp_path / "saved", target)
    assert told.cost == "each element is rounded to what float16 can say"
    target = {"w": torch.zeros(4, dtype=torch.bfloat16)}
    (measured,) = ckptlab.diagnose(tmp_path / "saved", target, measure=True)
    assert "2 of 4 elements change" in measured.cost
    assert "(in w)" in measured.cost


def test_another_checkpoint_is_a_target_and_needs_no_torch(tmp_path):
    ckptlab.save(model(lambda name: f"module.{name}"), tmp_path / "a", no_dist=True)
    ckptlab.save(model(), tmp_path / "b", no_dist=True)
    code = (
        "import sys, ckptlab\n"
        f"found = ckptlab.diagnose({str(tmp_path / 'a')!r}, {str(tmp_path / 'b')!r})\n"
        "assert [it.kind for it in found] == ['nothing', 'wrapper'], found\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_no_target_is_refused(tmp_path):
    ckptlab.save(model(), tmp_path / "saved", no_dist=True)
    with pytest.raises(LayoutError, match="not int"):
        ckptlab.diagnose(tmp_path / "saved", 3)
    with pytest.raises(PathError):
        ckptlab.diagnose(tmp_path / "none", {})


def test_stock_dcp_loads_what_the_transform_mends(tmp_path):
    import torch.distributed.checkpoint as stock
    from engine_ops import quiet

    from ckptlab.dcp.transform_planner import TransformPlanner

    case = CASES["orig_mod in the middle"]
    with quiet():
        stock.save(case.saved(), checkpoint_id=tmp_path / "saved", no_dist=True)
    target = case.target()
    planner = TransformPlanner(ckptlab.diagnose(tmp_path / "saved", target).transform)
    with quiet():
        stock.load(target, checkpoint_id=tmp_path / "saved", planner=planner, no_dist=True)
    loaded = flat(target)
    assert all(same(value, loaded[fqn]) for fqn, value in case.filled().items())
