"""Elements that do not lie where placements say, as FSDP2 over TP leaves them: refused on all ranks."""

from misplaced_ops import saved_and_loaded


def test_no_rank_saves_or_loads_elements_that_lie_elsewhere(ranks4, tmp_path):
    for found in zip(*ranks4.run(saved_and_loaded, str(tmp_path / "saved")), strict=True):
        said = {failed.message for failed in found}
        assert len(said) == 1
        assert "'w': rank 2 has 9 elements of it, not 6 as [Shard(0)] says" in said.pop()
