import pytest

from ckptlab.errors import LayoutError
from ckptlab.metadata import Tensor
from ckptlab.plan.bind import bind
from ckptlab.plan.implied import implied
from ckptlab.plan.transform import Part, Transform

STORED = {
    "m.qkv": Tensor("m.qkv", "bfloat16", (12, 4)),
    "m.up": Tensor("m.up", "float32", (6, 4)),
    "m.gate": Tensor("m.gate", "float32", (2, 4)),
    "m.flat": Tensor("m.flat", "float32", (15,)),
    "m.norm": Tensor("m.norm", "float32", (4,)),
    "old.1": Tensor("old.1", "int64", ()),
    "step": None,
}
TRANSFORM = Transform(
    rename=((r"^m\.", "model."),),
    parts={
        "q": (Part("m.qkv", stored=((0, 4), (0, 4))),),
        "kv": (Part("m.qkv", stored=((4, 12), (0, 4)), dims=None),),
        "up_gate": (
            Part("m.gate", into=((6, 8), (0, 4))),
            Part("m.up", into=((0, 6), (0, 4))),
        ),
        "turned": (Part("m.flat", shape=(5, 3), dims=(1, 0)),),
        "number": (Part("step"),),
    },
    drop=("old.*",),
)


def test_all_that_a_transform_makes_is_wanted_and_fits():
    target = implied(TRANSFORM, STORED)
    assert {key: it and (it.dtype, it.shape) for key, it in target.items()} == {
        "model.norm": ("float32", (4,)),
        "q": ("bfloat16", (4, 4)),
        "kv": ("bfloat16", (8, 4)),
        "up_gate": ("float32", (8, 4)),
        "turned": ("float32", (3, 5)),
        "number": None,
    }
    assert all(it is None or it.fqn == key for key, it in target.items())
    bound = bind(TRANSFORM, STORED, target)
    assert bound.found == ()
    assert bound.filled == set(target)


def test_nothing_changes_without_a_word():
    assert implied(Transform(), STORED) == STORED


def test_parts_that_tell_no_shape_are_refused():
    two = Transform(parts={"w": (Part("m.up"), Part("m.gate", into=((6, 8), (0, 4))))})
    with pytest.raises(LayoutError, match="the parts of 'w' do not tell its shape"):
        implied(two, STORED)
