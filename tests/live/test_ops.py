"""What live ranks do with a checkpoint: told on one clock, each tensor under its own layout, checked."""

import numpy as np
import pytest
import torch
from ranks_fixture import pool

from ckptlab import save
from ckptlab.errors import CheckpointError
from ckptlab.layout import Layout
from ckptlab.live.ops import reshard
from ckptlab.plan.forecast import forecast
from ckptlab.plan.holding import holdings
from ckptlab.storage import open_checkpoint

ROWS, COLUMNS = Layout.parse("4", "Shard(0)"), Layout.parse("2x2", "Replicate, Shard(1)")


@pytest.fixture
def path(tmp_path):
    save({"a": torch.arange(4096.0).reshape(64, 64), "b": torch.ones(9, 8)}, tmp_path / "c", no_dist=True)
    return str(tmp_path / "c")


def test_all_phases_are_told_on_one_clock(path):
    told = [[] for _ in range(4)]
    pool(4).run(reshard, path, ROWS, progress=lambda rank, event: told[rank].append(event))
    for events in told:
        phases = list(dict.fromkeys(event.phase for event in events))
        assert phases == ["start", "metadata", "plan", "read", "commit", "verify", "done"]
        seconds = [event.seconds for event in events]
        assert seconds == sorted(seconds)


def test_each_tensor_may_have_a_layout_of_its_own(path):
    layouts = {"a": COLUMNS, "b": ROWS}
    outcomes = pool(4).run(reshard, path, layouts)
    checkpoint = open_checkpoint(path)
    seen = forecast(checkpoint.metadata, holdings(checkpoint.metadata.tensors, layouts), 4)
    assert [one.nbytes for one in outcomes] == seen.bytes_by_rank.tolist()
    assert all(one.equal for one in outcomes)
    assert sum(one.elements for one in outcomes) == 2 * 4096 + 72


def test_memory_is_counted_above_the_targets_own(tmp_path):
    """A target of 8 MiB a rank that is read straight into place takes less than that."""
    save({"w": torch.ones(4, 8 << 20, dtype=torch.uint8)}, tmp_path / "c", no_dist=True)
    outcomes = pool(4).run(reshard, str(tmp_path / "c"), Layout.parse("4", "Shard(0)"))
    assert all(0 <= one.peak < 8 << 20 for one in outcomes)
    assert all(one.device_peak == 0 for one in outcomes)


def test_what_is_damaged_is_found_if_that_is_asked_for(path, tmp_path):
    (file,) = (tmp_path / "c").glob("*.distcp")
    data = file.read_bytes()
    at = data.index(np.arange(4096, dtype=np.float32).tobytes())
    file.write_bytes(data[: at + 9] + bytes([data[at + 9] ^ 1]) + data[at + 10 :])
    assert all(one.equal for one in pool(4).run(reshard, path, COLUMNS))
    with pytest.raises(CheckpointError, match="its bytes have crc"):
        pool(4).run(reshard, path, COLUMNS, True)
