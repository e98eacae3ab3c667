"""What a target wants: the names that a load gives its leaves, what is tied, what is frozen."""

import doctor_ops
import pytest
import torch

from ckptlab.engine.state import flatten
from ckptlab.engine.target_of import made_on_meta, target_of
from ckptlab.errors import LayoutError


def test_names_are_those_of_a_load():
    state = {"m": {"w": torch.zeros(2, 3), "l": [torch.zeros(()), 4], "p": [1, 2]}, "n": 3, 5: {"x": None}}
    side = target_of(state)
    assert set(side.keys) == set(flatten(state).values)
    assert side.shape("m.w") == (2, 3)
    assert side.objects == {"m.l.1": "int", "m.p": "list", "n": "int", "5.x": "NoneType"}


def test_views_of_one_memory_are_tied_and_others_are_not():
    w = torch.zeros(4, 4)
    side = target_of({"a": w, "b": w.view(4, 4), "c": w[:2], "d": torch.zeros(4, 4), "e": w.T})
    assert side.tied == {"b": "a"}
    with torch.device("meta"):
        linear = torch.nn.Linear(3, 3, bias=False)
        assert target_of({"a": linear.weight, "b": linear.state_dict()["weight"]}).tied == {"b": "a"}


def test_modules_and_optimizers_are_asked_for_their_state():
    linear = torch.nn.Linear(2, 2)
    linear.bias.requires_grad_(False)
    optimizer = torch.optim.SGD([linear.weight], lr=0.1)
    assert target_of(linear).keys == ("weight", "bias")
    side = target_of({"model": linear, "optim": optimizer})
    assert side.frozen == {"bias"}
    assert "optim.param_groups.0.lr" in side
    assert target_of(linear, rank=3).rank == 3


def test_what_is_no_target_is_named():
    with pytest.raises(LayoutError, match="not list"):
        target_of([1])
    with pytest.raises(LayoutError, match="bits8"):
        target_of({"q": torch.empty(2, dtype=torch.bits8, device="meta")})
    with pytest.raises(LayoutError, match="gave no target"):
        made_on_meta("torch:none_such")


def test_a_factory_is_called_where_nothing_takes_memory():
    made = made_on_meta("torch.nn:Identity")
    assert isinstance(made, torch.nn.Identity)


def test_sharded_tensors_have_their_whole_shapes_and_ranks_their_numbers(ranks4, tmp_path):
    ranks4.run(doctor_ops.save_wrapped, str(tmp_path), deadline=150)
    for rank, told in enumerate(ranks4.run(doctor_ops.mended, str(tmp_path), deadline=150)):
        assert told == (["nothing", "wrapper"], rank, True)
