"""HSDP with optimizer state: where stock DCP hands back wrong state without a word, and ours does not.

FSDP1 HYBRID_SHARD keeps its Adam state as DTensors on the 2x2 mesh. Stock's
`load_sharded_optimizer_state_dict` spreads it over all four ranks instead (pytorch#145978).
"""

import pytest
import seed_ops
from ranks_fixture import DEVICES, pool

from ckptlab.errors import RankError

CROSSWISE = [("ours", "ours"), ("ours", "stock"), ("stock", "ours")]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("saver", ["ours", "stock"])
@pytest.mark.parametrize("kind", ["even", "uneven"])
def test_ours_brings_all_of_it_back(tmp_path, kind, saver, device):
    out = pool(4, device).run(seed_ops.fsdp_with_adam, str(tmp_path), kind, saver, "ours", True)
    for rank, found in enumerate(out):
        assert len(found) == 6 + 3 * 6
        for fqn, one in found.items():
            assert one.how == ("Tensor" if fqn.endswith(".step") else "DTensor")
            assert one.differed, f"rank {rank} {fqn}: equal before the load"
            assert one.equal, f"rank {rank} {fqn}: not what was saved"
            assert one.same_layout, f"rank {rank} {fqn}: mesh or placements changed"


@pytest.mark.parametrize("saver", ["ours", "stock"])
def test_stock_hands_back_wrong_state_without_a_word(tmp_path, saver):
    try:
        out = pool(4).run(seed_ops.fsdp_with_adam, str(tmp_path), "even", saver, "stock", True)
    except RankError as error:
        pytest.fail(
            "stock DCP now raises where it used to hand back wrong optimizer state in silence "
            f"(good news: say so in the README and turn this test round): {error}"
        )
    wrong = {fqn for found in out for fqn, one in found.items() if not one.equal}
    assert wrong, "stock DCP now brings HSDP optimizer state back right: say so in the README, drop this test"
    assert all(fqn.startswith("optim.state.") and "exp_avg" in fqn for fqn in wrong)
    assert any(fqn.endswith("weight.exp_avg") for fqn in wrong)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("source", "target"),
    [("hsdp", "hsdp"), ("hsdp", "fsdp"), ("fsdp_tp", "fsdp_tp"), ("fsdp_tp", "hsdp"), ("fsdp", "fsdp_tp")],
)
@pytest.mark.parametrize(("saver", "loader"), CROSSWISE)
def test_fsdp2_with_adam_from_one_sharding_to_another(tmp_path, saver, loader, source, target, device):
    out = pool(4, device).run(
        seed_ops.fsdp2_round_trip, str(tmp_path), "uneven", saver, loader, source, target
    )
    for rank, found in enumerate(out):
        assert len(found) == 6 + 3 * 6
        for fqn, one in found.items():
            assert one.differed, f"rank {rank} {fqn} {one.how}: equal before the load"
            assert one.equal, f"rank {rank} {fqn} {one.how}: gathered, not what was saved"
            assert one.same_layout, f"rank {rank} {fqn} {one.how}: not the target's own layout"
    ways = {one.how for one in out[0].values()}
    assert (source == "fsdp_tp") == any(how.startswith("(_StridedShard") for how in ways)
