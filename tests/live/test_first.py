"""The first checkpoint: made by real ranks once, or the one that was asked for."""

import pytest

from ckptlab import open_checkpoint
from ckptlab.layout import Layout
from ckptlab.live.first import ASKED, demo_checkpoint
from ckptlab.live.local import LocalRanks
from ckptlab.live.ops import reshard
from ckptlab.plan.forecast import forecast
from ckptlab.plan.holding import holdings


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return demo_checkpoint(tmp_path_factory.mktemp("first") / "demo")


def test_it_was_saved_by_four_ranks_under_hsdp(demo):
    metadata = open_checkpoint(demo).metadata
    hsdp = Layout.parse("replicate=2, shard=2", "Replicate, Shard(0)")
    assert {metadata.layouts[t.fqn] for t in metadata.tensors if t.fqn.startswith("model.")} == {hsdp}
    assert set(metadata.writers) == {0, 1, 2, 3}
    assert any(t.fqn.endswith("exp_avg") for t in metadata.tensors)


def test_it_is_made_once(demo):
    before = open_checkpoint(demo).metadata.save_id
    assert demo_checkpoint(demo) == demo
    assert open_checkpoint(demo).metadata.save_id == before


def test_the_one_that_was_asked_for_comes_first(demo, monkeypatch, tmp_path):
    monkeypatch.setenv(ASKED, "/somebody/elses")
    assert demo_checkpoint(tmp_path / "not made") == "/somebody/elses"
    assert not (tmp_path / "not made").exists()


def test_a_reshard_comes_out_as_foretold_and_is_told_as_it_goes(demo):
    layout = Layout.parse("2x2", "StridedShard(0, split_factor=2), Shard(0)")
    metadata = open_checkpoint(demo).metadata
    foretold = forecast(metadata, holdings(metadata.tensors, layout), 4)
    told = []
    with LocalRanks(4, "cpu") as ranks:
        outcomes = ranks.run(
            reshard, demo, layout, progress=lambda rank, what: told.append((rank, what.phase))
        )
    assert [o.nbytes for o in outcomes] == foretold.bytes_by_rank.tolist()
    assert [o.reads for o in outcomes] == foretold.reads.tolist()
    assert all(o.equal and o.elements for o in outcomes)
    for rank in range(4):
        phases = list(dict.fromkeys(phase for r, phase in told if r == rank))
        assert phases == ["start", "metadata", "plan", "read", "commit", "verify", "done"]
