"""The HSDP seed: FSDP1 HYBRID_SHARD on a 2x2 mesh, saved and loaded as it is, and as FSDP on a 1-D mesh.

FSDP1 runs on gloo and CPU once it is told `device_id=torch.device("cpu")`; nothing had to be left out.
"""

import pytest
import seed_ops
from ranks_fixture import DEVICES, pool

CROSSWISE = [("ours", "ours"), ("ours", "stock"), ("stock", "ours")]

pytestmark = [
    pytest.mark.parametrize("device", DEVICES),
    pytest.mark.parametrize(("saver", "loader"), CROSSWISE),
    pytest.mark.parametrize("kind", ["even", "uneven"]),
]


def test_a_step_is_undone_by_a_load(tmp_path, kind, saver, loader, device):
    out = pool(4, device).run(seed_ops.hsdp_round_trip, str(tmp_path), kind, saver, loader)
    assert [len(found) for found in out] == [6] * 4
    for rank, found in enumerate(out):
        for fqn, one in found.items():
            assert one.how == "(Replicate(), Shard(dim=0))"
            assert one.differed, f"rank {rank} {fqn}: the optimizer step changed nothing"
            assert one.equal, f"rank {rank} {fqn}: not what was saved"
            assert one.same_layout, f"rank {rank} {fqn}: mesh or placements changed"


def test_fsdp_loads_what_hsdp_saved(tmp_path, kind, saver, loader, device):
    out = pool(4, device).run(seed_ops.hsdp_to_fsdp, str(tmp_path), kind, saver, loader)
    assert [len(found) for found in out] == [6] * 4
    for rank, found in enumerate(out):
        for fqn, one in found.items():
            assert one.how == "(Shard(dim=0),)"
            assert one.differed, f"rank {rank} {fqn}: equal before the load, so the load proves nothing"
            assert one.equal, f"rank {rank} {fqn}: gathered, not what HSDP saved"
            assert one.same_layout, f"rank {rank} {fqn}: not the target's own mesh and placements"
