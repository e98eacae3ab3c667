"""What would be lost without a word is said: keys of some ranks only, values that differ, empty loads."""

import warnings

import fault_ops as ops
import pytest
import torch
from faults import agreed
from ranks_fixture import pool

import ckptlab
from ckptlab.storage.local import LocalFiles


@pytest.fixture
def ranks2():
    return pool(2)


# ---------------------------------------------------------------- one rank misses a key


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("key", ["copies", "plain", "step"])
def test_a_key_that_another_rank_holds_whole_is_saved_all_the_same(ranks2, tmp_path, rank, key):
    assert ranks2.run(ops.saved_without, str(tmp_path), rank, key) == [(None, 2)] * 2


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_lacks_its_part_of_a_tensor_is_refused_by_name(ranks2, tmp_path, rank):
    out = ranks2.run(ops.saved_without, str(tmp_path), rank, "rows")
    failure = agreed([failed for failed, _ in out])
    assert "tensor 'rows' [4, 3]" in failure.message
    assert "hold 6 of its 12 elements; the rest would be lost" in failure.message
    assert [seed for _, seed in out] == [1, 1]


@pytest.mark.parametrize("strict", [True, "both"])
def test_ranks_may_ask_for_different_keys(ranks2, tmp_path, strict):
    out = ranks2.run(ops.loaded_without, str(tmp_path), 0, strict)
    assert out == [(True, ["rows", "step"], ()), (True, ["copies", "plain"], ())]


def test_a_key_that_one_rank_asks_for_in_vain_stops_the_load_on_all(ranks2, tmp_path):
    out = ranks2.run(ops.loaded_with_more, str(tmp_path), 1)
    failure = agreed([failed for failed, _ in out])
    assert failure.kind == "MismatchError"
    assert "missing     more" in failure.message or "missing more" in " ".join(failure.message.split())
    assert [untouched for _, untouched in out] == [True, True]


# ---------------------------------------------------------------- nothing was loaded


def test_a_load_that_finds_nothing_says_so(tmp_path):
    ckptlab.save({"model": {"w": torch.ones(2)}, "step": 3}, tmp_path)
    target = {"w": torch.zeros(2)}
    with pytest.warns(UserWarning, match=r"nothing was loaded: .* are w, .*'s model\.w, step"):
        report = ckptlab.load(target, tmp_path, strict=False)
    assert report.loaded == ()
    with pytest.warns(UserWarning, match="nothing was loaded: .* are none"):
        ckptlab.load({}, tmp_path)


def test_what_is_loaded_in_part_is_reported_and_an_empty_checkpoint_has_nothing(tmp_path):
    ckptlab.save({"w": torch.ones(2)}, tmp_path / "one")
    ckptlab.save({}, tmp_path / "none")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = ckptlab.load({"w": torch.zeros(2), "v": torch.zeros(1)}, tmp_path / "one", strict=False)
        ckptlab.load({}, tmp_path / "none")
    assert (report.loaded, report.missing) == (("w",), ("v",))


# ---------------------------------------------------------------- what an older save left


def test_files_that_cannot_be_cleared_are_said_and_cleared_by_the_next_save(tmp_path, monkeypatch):
    def refuses(self, name):
        raise PermissionError(13, "Permission denied", name)

    ckptlab.save({"w": torch.ones(2)}, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(LocalFiles, "remove", refuses)
        with pytest.warns(UserWarning, match=r"is saved, but .*Permission denied"):
            ckptlab.save({"w": torch.ones(2) * 2}, tmp_path)
    assert len(list(tmp_path.glob("*.distcp"))) == 2
    target = {"w": torch.zeros(2)}
    ckptlab.load(target, tmp_path)
    assert target["w"].tolist() == [2, 2]
    ckptlab.save({"w": torch.ones(2) * 3}, tmp_path)
    assert len(list(tmp_path.glob("*.distcp"))) == 1
