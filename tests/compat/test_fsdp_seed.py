"""The FSDP example: model and Adam state saved together by FSDP1 without a mesh, loaded apart.

On CUDA ranks share GPUs by gloo where there are too few: FSDP1 without a mesh calls nothing that cannot.
"""

import pytest
import seed_ops
from ranks_fixture import DEVICES, pool

CROSSWISE = [("ours", "ours"), ("ours", "stock"), ("stock", "ours")]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize(("saver", "loader"), CROSSWISE)
@pytest.mark.parametrize("kind", ["even", "uneven"])
def test_model_and_adam_state_come_back(tmp_path, kind, saver, loader, world, device):
    out = pool(world, device, shared=True).run(
        seed_ops.fsdp_with_adam, str(tmp_path), kind, saver, loader, False
    )
    for rank, found in enumerate(out):
        assert len(found) == 6 + 3 * 6
        for fqn, one in found.items():
            # In a world of one FSDP1 leaves the model's own tensors plain.
            plain = fqn.endswith(".step") or (world == 1 and fqn.startswith("model."))
            assert one.how == ("Tensor" if plain else "ShardedTensor")
            assert one.differed or one.empty, f"rank {rank} {fqn}: equal before the load"
            assert one.equal, f"rank {rank} {fqn}: not what was saved"
            assert one.same_layout, f"rank {rank} {fqn}: no longer a {one.how}"
    assert all(any(not found[fqn].empty for found in out) for fqn in out[0])
