"""The copy of what a rank offers: bit for bit, apart from the original, aliases once, buffers kept."""

import pytest
import torch
from crosswise_ops import DTYPES, full
from seed_ops import same

from ckptlab.engine.agree import offer
from ckptlab.engine.ranks import Team
from ckptlab.engine.staging import Stage
from ckptlab.engine.state import flatten


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
    assert stage.nbytes == 4000 + 2000
    assert len({copies[fqn].data_ptr() for fqn in ("w", "tied", "turned")}) == 1
    assert same(copies["turned"], tensor.t())


def test_buffers_are_filled_again_whatever_order_the_keys_have():
    stage = Stage()
    first = staged(stage, {"a": torch.zeros(30), "b": torch.ones(7), "c": torch.ones(30)})
    kept = set(places(first).values())
    again = staged(stage, {"b": torch.ones(7), "c": torch.ones(30) * 2, "a": torch.ones(30) * 3})
    assert set(places(again).values()) == kept
    assert [copy[0].item() for copy in again.values()] == [1.0, 2.0, 3.0]


def test_buffers_that_are_not_needed_are_let_go():
    stage = Stage()
    staged(stage, {"a": torch.zeros(30), "b": torch.ones(7)})
    assert stage.nbytes == 120 + 28
    staged(stage, {"b": torch.ones(7), "c": torch.ones(3)})
    assert stage.nbytes == 28 + 12


def test_objects_are_pickled_when_they_are_offered():
    value = {"steps": [1, 2]}
    mine = offer(flatten({"n": [value["steps"], {"k": 1}]}), Team.of())
    copied = Stage().copy(mine)
    assert copied.objects == mine.objects
    assert all(isinstance(data, bytes) for data in copied.objects.values())


def test_a_tensor_without_memory_is_refused():
    with pytest.raises(NotImplementedError, match="no data"):
        staged(Stage(), {"w": torch.ones(2, device="meta")})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, which this machine has not")
def test_memory_of_a_gpu_is_copied_into_pinned_buffers():
    tensor = torch.arange(1000.0, device="cuda")
    stage = Stage()
    copy = staged(stage, {"w": tensor})["w"]
    tensor.zero_()
    assert copy.is_pinned()
    assert copy.tolist() == [float(i) for i in range(1000)]
    assert places(staged(stage, {"w": tensor}))["w"] == copy.data_ptr()
