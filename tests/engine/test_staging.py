"""The copy of what a rank offers: bit for bit, apart from the original, aliases once, memory kept."""

from itertools import pairwise

import pytest
import torch
from crosswise_ops import DTYPES, full
from seed_ops import same

from ckptlab.engine.agree import offer
from ckptlab.engine.ranks import Team
from ckptlab.engine.staging import Stage
from ckptlab.engine.state import flatten

VIEWS = {
    "whole": lambda t: t,
    "turned": lambda t: t.t(),
    "steps": lambda t: t[1:, ::2],
    "column": lambda t: t[:, 1],
    "row": lambda t: t[2:3],
    "repeated": lambda t: t[:1].expand(3, 4),
    "none": lambda t: t[:0],
    "one": lambda t: t[5, 3],
}


def staged(stage, state):
    """What is staged of each key."""
    held = stage.copy(offer(flatten(state), Team.of())).held
    return {fqn: one.memory[0] for fqn, one in held.items()}


def places(copies):
    return {fqn: copy.data_ptr() for fqn, copy in copies.items()}


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_copy_is_the_same_bit_for_bit_and_another_memory(dtype):
    tensor = full(f"staged {dtype}", (4, 3), dtype)
    bits = tensor.view(torch.uint8)
    wanted = bits.clone()
    copy = staged(Stage(), {"w": tensor})["w"]
    bits.zero_()
    assert (copy.dtype, copy.shape) == (tensor.dtype, tensor.shape)
    assert torch.equal(copy.view(torch.uint8), wanted)


@pytest.mark.parametrize(
    "view",
    [
        lambda t: t.t(),
        lambda t: t[1:, ::2],
        lambda t: t[:, 1],
        lambda t: t.permute(1, 0)[None],
        lambda t: t[:1].expand(5, 6),
        lambda t: t[0, 0],
        lambda t: t[:0],
        lambda t: t.reshape(2, 3, 4).permute(1, 2, 0),
    ],
)
def test_every_view_is_copied_as_it_is_seen(view):
    tensor = torch.arange(24.0).reshape(4, 6)
    wanted = view(tensor).clone()
    copy = staged(Stage(), {"w": view(tensor)})["w"]
    tensor.zero_()
    assert copy.shape == wanted.shape
    assert same(copy, wanted)


def test_a_conjugate_and_a_negative_are_copied_as_they_are_seen():
    tensor = torch.tensor([1 + 2j, 3 - 4j])
    copies = staged(Stage(), {"t": tensor, "c": tensor.conj(), "n": tensor.conj().imag})
    assert copies["t"].tolist() == [1 + 2j, 3 - 4j]
    assert copies["c"].resolve_conj().tolist() == [1 - 2j, 3 + 4j]
    assert copies["n"].tolist() == [-2.0, 4.0]


def test_the_same_memory_is_copied_once():
    tensor = torch.arange(1000.0).reshape(10, 100)
    stage = Stage()
    copies = staged(stage, {"w": tensor, "tied": tensor, "turned": tensor.t(), "part": tensor[:5]})
    assert 4000 + 2000 <= stage.nbytes < 4000 + 2000 + 2 * 64
    assert len({copies[fqn].data_ptr() for fqn in ("w", "tied", "turned")}) == 1
    assert same(copies["turned"], tensor.t())


def test_no_two_copies_share_a_byte():
    shapes = [(3,), (), (0, 4), (65,), (1,), (5, 7)]
    state = {
        f"{dtype} {shape}": full(f"{dtype} {shape}", shape, dtype) for dtype in DTYPES for shape in shapes
    }
    copies = staged(Stage(), state)
    assert all(same(copies[fqn], state[fqn]) for fqn in state)
    taken = sorted((copy.data_ptr(), copy.nbytes) for copy in copies.values() if copy.nbytes)
    assert all(at + n <= after for (at, n), (after, _) in pairwise(taken))


def test_memory_is_filled_again_whatever_order_the_keys_have():
    stage = Stage()
    first = staged(stage, {"a": torch.zeros(30), "b": torch.ones(7), "c": torch.ones(30)})
    again = staged(stage, {"b": torch.ones(7), "c": torch.ones(30) * 2, "a": torch.ones(30) * 3})
    assert min(places(again).values()) == min(places(first).values())
    assert [copy[0].item() for copy in again.values()] == [1.0, 2.0, 3.0]
    assert [len(copy) for copy in again.values()] == [7, 30, 30]


def test_memory_that_is_not_needed_is_let_go():
    stage = Stage()
    staged(stage, {"a": torch.zeros(300), "b": torch.ones(70)})
    assert 1480 <= stage.nbytes < 1480 + 2 * 64
    staged(stage, {"b": torch.ones(70), "c": torch.ones(3)})
    assert 292 <= stage.nbytes < 292 + 2 * 64
    staged(stage, {"step": 3})
    assert stage.nbytes == 0


def test_a_state_that_grew_a_little_or_much_is_all_there():
    stage = Stage()
    for n in (100, 101, 130, 128, 4000, 3999, 3000, 10):
        tensor = torch.arange(float(n))
        assert same(staged(stage, {"w": tensor})["w"], tensor)
        assert 4 * n <= stage.nbytes < 6 * n + 64


def test_objects_are_pickled_when_they_are_offered():
    value = {"steps": [1, 2]}
    mine = offer(flatten({"n": [value["steps"], {"k": 1}]}), Team.of())
    copied = Stage().copy(mine)
    assert copied.objects == mine.objects
    assert all(isinstance(data, bytes) for data in copied.objects.values())


def test_a_tensor_without_memory_is_refused():
    with pytest.raises(NotImplementedError, match="no data"):
        staged(Stage(), {"w": torch.ones(2, device="meta")})


@pytest.fixture
def gpu():
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU, which this machine has not")


@pytest.mark.gpu
def test_memory_of_a_gpu_is_copied_into_pinned_memory_that_is_kept(gpu):
    tensor = torch.arange(1000.0, device="cuda")
    stage = Stage()
    copy = staged(stage, {"w": tensor, "there": torch.ones(3)})["w"]
    tensor.zero_()
    assert copy.device.type == "cpu"
    assert copy.is_pinned()
    assert copy.tolist() == [float(i) for i in range(1000)]
    assert places(staged(stage, {"w": tensor}))["w"] == copy.data_ptr()
    assert not copy.any()


@pytest.mark.gpu
def test_pinned_memory_is_as_large_as_the_state_and_is_let_go(gpu, monkeypatch):
    let_go = []

    class Watched:
        def __init__(self, real):
            self.cudaHostRegister, self._unregister = real.cudaHostRegister, real.cudaHostUnregister

        def cudaHostUnregister(self, place):
            let_go.append((place, int(self._unregister(place))))

    watched = Watched(torch.cuda.cudart())
    monkeypatch.setattr(torch.cuda, "cudart", lambda: watched)
    stage = Stage()
    pinned = staged(stage, {"w": torch.ones(3 << 20, device="cuda")})["w"]
    assert stage.nbytes == 12 << 20
    assert pinned.is_pinned()
    unpinned = staged(stage, {"w": torch.ones(3 << 20)})["w"]
    assert not unpinned.is_pinned()
    # The copy of a save that is under way is still memory, and still pinned.
    assert pinned.is_pinned()
    assert pinned.sum() == 3 << 20
    assert let_go == []
    place = pinned.data_ptr()
    del pinned
    assert let_go == [(place, 0)]


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_view_of_a_gpus_memory_is_copied_as_it_is_seen(gpu, dtype):
    whole = full(f"staged {dtype}", (6, 4), dtype)
    state = {name: view(whole) for name, view in VIEWS.items()}
    there = whole.view(torch.uint8).to("cuda").view(whole.dtype)
    copies = staged(Stage(), {name: view(there) for name, view in VIEWS.items()})
    there.view(torch.uint8).zero_()
    assert [name for name in VIEWS if not same(copies[name], state[name])] == []


@pytest.mark.gpu
def test_a_conjugate_of_a_gpu_is_copied_as_it_is_seen(gpu):
    tensor = torch.randn(1 << 20, dtype=torch.complex64)
    there = tensor.to("cuda")
    copies = staged(Stage(), {"t": there, "c": there.conj(), "n": there.conj().imag})
    there.zero_()
    assert torch.equal(copies["t"], tensor)
    assert torch.equal(copies["c"].resolve_conj(), tensor.conj().resolve_conj())
    assert torch.equal(copies["n"], -tensor.imag)


@pytest.mark.gpu
def test_what_a_gpu_is_still_to_compute_is_copied_when_it_is_there(gpu):
    factor = torch.full((4096, 4096), 1.0 / 4096, device="cuda")
    tensor = torch.ones(4096, 4096, device="cuda")
    stage = Stage()
    for _ in range(2):
        for _ in range(30):
            tensor = factor @ tensor
        tensor.fill_(5)
        copy = staged(stage, {"w": tensor})["w"]
        tensor.fill_(7)
        assert bool((copy == 5).all())
