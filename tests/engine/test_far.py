"""What is foretold of far storage is what is asked of it: requests and bytes, as the server counts them."""

import pytest
import s3_ops as ops
import torch
from s3server import far, gate, server

import ckptlab
from ckptlab import Layout
from ckptlab.explorer.far import far_of
from ckptlab.plan.forecast import forecast
from ckptlab.plan.holding import holdings
from ckptlab.storage import kept

__all__ = ["far", "gate", "server"]

LAYOUTS = {"rows": Layout.parse("4", "Shard(0)"), "columns": Layout.parse("4", "Shard(1)")}


def foretold(path, layout, world, verify=False):
    """What a load of all is to cost; no bytes of elements are read for it."""
    opened = ckptlab.open_checkpoint(path)
    tensors = opened.metadata.tensors
    copies = Layout.parse(str(world), "Replicate")
    layouts = {t.fqn: layout if len(t.shape) > 1 else copies for t in tensors}
    return forecast(opened.metadata, holdings(tensors, layouts), world, far_of(opened, verify))


def check(gate, seen, reports):
    """Foretold is told is counted by the server."""
    assert [r.requests for r in reports] == seen.requests.tolist()
    assert [r.fetched for r in reports] == seen.fetched.tolist()
    asked = gate.asked(".distcp")
    assert len(asked) == seen.requests.sum()
    assert sum(r.sent for r in asked) == seen.fetched.sum()
    assert not [r for r in gate.requests if r.method == "HEAD" and r.path.endswith(".distcp")]


@pytest.mark.parametrize("by", ["ours", "stock"])
def test_what_is_asked_of_far_storage_is_as_foretold(ranks4, gate, far, by):
    ranks4.run(ops.save_mixed, far, by)
    for layout, verify in (("rows", False), ("columns", by == "stock")):
        seen = foretold(far, LAYOUTS[layout], 4, verify)
        gate.clear()
        loaded = ranks4.run(ops.load_mixed, far, layout, verify)
        assert all(equal for equal, _ in loaded)
        check(gate, seen, [report for _, report in loaded])
    # One process, into another dtype.
    target = {fqn: torch.zeros(shape, dtype=torch.float64) for fqn, shape in ops.MIXED.items()}
    gate.clear()
    report = ckptlab.load(target | dict.fromkeys(f"o{i}" for i in range(5)), far, dtype="widen")
    check(gate, foretold(far, Layout.parse("1", "Replicate"), 1), [report])
    for fqn, tensor in target.items():
        assert torch.equal(tensor.nan_to_num(), ops.full(fqn, ops.MIXED[fqn]).double().nan_to_num())


@pytest.mark.parametrize("by", ["ours", "stock"])
def test_nothing_is_fetched_twice_where_little_can_be_kept(gate, far, by, monkeypatch):
    """Tensors of two shapes in turn, which are read shape by shape; and one that is longer than a request."""
    monkeypatch.setattr(kept, "KEPT", 1 << 20)
    monkeypatch.setattr("ckptlab.plan.spans.SPAN", 1 << 20)
    wanted = {f"t{i:02}": torch.full((128 + i % 2, 1024), float(i)) for i in range(16)}
    wanted |= {"o": 1, "long": torch.ones(2_200_000)}
    if by == "ours":
        ckptlab.save(wanted, far)
    else:
        with ops.quiet():
            ops.stock_dcp.save(wanted, storage_writer=ops.FsspecWriter(far), no_dist=True)
    seen = foretold(far, Layout.parse("1", "Replicate"), 1)
    target = {fqn: torch.zeros_like(t) if fqn != "o" else 0 for fqn, t in wanted.items()}
    gate.clear()
    report = ckptlab.load(target, far, threads=1)
    check(gate, seen, [report])
    assert report.fetched < 1.1 * report.nbytes
    assert seen.requests[0] < 18
    assert all(torch.equal(t, wanted[fqn]) for fqn, t in target.items() if fqn != "o")
