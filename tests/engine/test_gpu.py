"""States on GPUs: ranks that share them over gloo, and one rank by nccl. Targets are zeros before a load."""

import gpu_ops as ops
import pytest
from ranks_fixture import pool

from ckptlab.layout import Layout

pytestmark = pytest.mark.gpu

CROSSWISE = [("ours", "ours"), ("ours", "stock"), ("stock", "ours")]


@pytest.fixture
def four():
    """Four ranks on CUDA, on one GPU if there is no more."""
    return pool(4, "cuda", shared=True)


@pytest.fixture
def one():
    """A single rank on CUDA, by nccl."""
    return pool(1, "cuda")


def all_there(found, tensors=None, vacuous=()):
    """Every rank loaded everything that was wanted onto its GPU, bit for bit."""
    for loaded in found:
        assert loaded.tensors > 0
        assert tensors is None or loaded.tensors == tensors
        assert all(device.startswith("cuda:") for device in loaded.devices), loaded.devices
        assert set(loaded.vacuous) <= set(vacuous)
        assert loaded.different == ()


@pytest.mark.parametrize(("saver", "loader"), CROSSWISE)
@pytest.mark.parametrize(
    ("source", "target"), [("hsdp", "fsdp"), ("fsdp", "fsdp_tp"), ("fsdp_tp", "hsdp"), ("hsdp", "fsdp_tp")]
)
def test_a_model_and_its_moments_go_from_layout_to_layout(four, tmp_path, saver, loader, source, target):
    found = four.run(ops.from_layout_to_layout, str(tmp_path), saver, loader, source, target)
    all_there(found, tensors=6 * 4)


@pytest.mark.parametrize(("mesh", "placement"), [("4", "Shard(1)"), ("2x2", "Replicate, Shard(0)")])
def test_the_explorers_ranks_load_on_their_gpus(four, tmp_path, mesh, placement):
    path = str(tmp_path)
    four.run(ops.save_model, path)
    for outcome, device in four.run(ops.by_the_explorer, path, Layout.parse(mesh, placement)):
        assert device == "cuda"
        assert outcome.elements > 0
        assert outcome.equal


@pytest.mark.parametrize("loader", ["ours", "stock"])
def test_what_gpus_saved_the_cpu_loads_and_the_other_way(four, tmp_path, loader):
    path, cpu = str(tmp_path), pool(4)
    four.run(ops.save_model, path)
    for loaded in cpu.run(ops.load_model, path, loader):
        assert loaded.devices == ("cpu",)
        assert (loaded.vacuous, loaded.different) == ((), ())
    cpu.run(ops.save_model, f"{path}/cpu")
    all_there(four.run(ops.load_model, f"{path}/cpu", loader), tensors=6 * 4)


@pytest.mark.parametrize("world", [1, 4])
@pytest.mark.parametrize(("saver", "loader"), CROSSWISE)
def test_views_of_every_dtype(tmp_path, saver, loader, world):
    found = pool(world, "cuda", shared=True).run(ops.views_of_every_dtype, str(tmp_path), saver, loader)
    all_there(found, len(ops.DTYPES) * len(ops.VIEWS), vacuous=["bool.one"])


@pytest.mark.parametrize(("saver", "loader"), CROSSWISE)
def test_large_tensors_and_many_small_ones(four, tmp_path, saver, loader):
    for found in zip(*four.run(ops.much_and_many, str(tmp_path), saver, loader), strict=True):
        all_there(found, tensors=64)


@pytest.mark.parametrize("world", [1, 4])
@pytest.mark.parametrize(("saver", "loader"), CROSSWISE)
def test_training_goes_on_where_it_was_saved(tmp_path, saver, loader, world):
    for found, alike in pool(world, "cuda", shared=True).run(ops.resumed, str(tmp_path), saver, loader):
        # The random numbers' states lie in memory of the CPU, also that of a GPU.
        assert found.devices[0] == "cpu"
        assert found.devices[1].startswith("cuda:")
        assert found.tensors == 6 + 3 * 6 + 2
        assert (found.vacuous, found.different) == ((), ())
        assert alike


@pytest.mark.parametrize("world", [1, 4])
@pytest.mark.parametrize("loader", ["ours", "stock"])
def test_a_state_may_change_as_soon_as_its_async_save_returns(tmp_path, loader, world):
    for twice, pinned in pool(world, "cuda", shared=True).run(ops.changed_while_saved, str(tmp_path), loader):
        assert pinned
        for found in twice:
            assert found.devices[0] == "cpu"
            assert found.tensors == 5
            assert (found.vacuous, found.different) == ((), ())


def test_what_another_stream_has_still_to_do_comes_first(one, tmp_path):
    assert one.run(ops.on_another_stream, str(tmp_path)) == [[]]


def test_replicas_on_gpus_that_diverged_are_refused(four, tmp_path):
    out = four.run(ops.diverged, str(tmp_path))
    for replicas, plain, _ in out:
        assert "rank 3 is not the same as rank 1 is, 1 element differs, by 0.25 at most" in replicas
        assert "same: ranks 0, 2 differ" in plain
    all_there([found for *_, found in out], tensors=2)


@pytest.mark.parametrize(
    ("stored", "asked", "how"),
    [
        ("float32", "bfloat16", "narrow"),
        ("float32", "float8_e4m3fn", "narrow"),
        ("bfloat16", "float32", "widen"),
        ("float8_e5m2", "float16", "widen"),
    ],
)
def test_dtypes_are_converted_as_torch_does(four, tmp_path, stored, asked, how):
    out = four.run(ops.converted, str(tmp_path), stored, asked, how)
    all_there([found for found, _ in out], tensors=2)
    for _, said in out:
        assert any("narrower than the checkpoint's" in words for words in said) == (how == "narrow")


def test_tensors_without_memory_are_made_on_the_gpu(four, tmp_path):
    for devices, different, plain in four.run(ops.made_of_nothing, str(tmp_path)):
        assert all(device.startswith("cuda:") for device in devices)
        assert different == []
        assert plain == [[0, 1], [2, 3], [4, 5]]


def test_a_rank_that_has_no_such_gpu_is_named_by_all(four, tmp_path):
    for rank, message, untouched in four.run(ops.one_fails, str(tmp_path), 2):
        assert rank == 2
        assert message.startswith("rank 2 failed in phase")
        assert untouched
