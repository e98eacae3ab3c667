"""A transform bound to names and shapes: what goes where, what stays, and everything that does not fit."""

import pytest

from ckptlab.errors import LayoutError
from ckptlab.layout import Box
from ckptlab.metadata import Tensor
from ckptlab.plan.bind import bind
from ckptlab.plan.transform import Part, Transform


def told(dtype="float32", /, **shapes):
    """Tensors by name; an object where the shape is None."""
    return {
        name.replace("__", "."): None if shape is None else Tensor(name.replace("__", "."), dtype, shape)
        for name, shape in shapes.items()
    }


def problems(bound):
    return [(m.kind, m.fqn) for m in bound.found]


def test_names_by_patterns_by_parts_and_left():
    stored = told(module__w=(4,), module__b=(4,), emb=(6, 2), old=(1,), head=(3,), step=None, lr=None)
    target = told(w=(4,), b=(4,), emb=(6, 2), tied=(6, 2), head=(9,), step=None, rate=None)
    bound = bind(
        Transform(
            rename=((r"^module\.", ""),),
            parts={"tied": Part("emb"), "rate": Part("lr")},
            leave=("hea?",),
            drop=("o*",),
        ),
        stored,
        target,
    )
    assert {key: [fill.stored.fqn for fill in fills] for key, fills in bound.fills.items()} == {
        "w": ["module.w"],
        "b": ["module.b"],
        "emb": ["emb"],
        "tied": ["emb"],
    }
    assert all(fill.way.plain for fills in bound.fills.values() for fill in fills)
    assert bound.objects == {"step": "step", "rate": "lr"}
    assert bound.kept == {"head": (Box((0,), (9,)),)}
    assert problems(bound) == [("unexpected", "head")]
    assert bound.filled == {"w", "b", "emb", "tied", "step", "rate"}


def test_patterns_of_renames_are_applied_in_turn_to_every_key():
    bound = bind(Transform(rename=(("^a", "b"), ("b", "c"))), told(a1=(1,), b2=(1,)), told(c1=(1,), c2=(1,)))
    assert {key: fills[0].stored.fqn for key, fills in bound.fills.items()} == {"c1": "a1", "c2": "b2"}


def test_what_parts_do_not_fill_stays_only_if_that_is_said():
    stored, target = told(emb=(5, 2)), told(emb=(8, 2))
    parts = {"emb": Part("emb", into=((1, 6), (0, 2)))}
    kept = bind(Transform(parts=parts, leave=("emb",)), stored, target)
    assert (problems(kept), kept.kept) == ([], {"emb": (Box((0, 0), (1, 2)), Box((6, 0), (2, 2)))})
    [refused] = bind(Transform(parts=parts), stored, target).found
    assert (refused.kind, refused.fqn) == ("shape", "emb")
    assert refused.remedy == (
        "No part fills Box[0:1, 0:2], Box[6:8, 0:2]; to let them stay as they are, name 'emb' in leave."
    )


def test_parts_that_overlap_are_refused():
    parts = {"w": (Part("a", into=((0, 3),)), Part("a", into=((2, 5),)))}
    [found] = bind(Transform(parts=parts), told(a=(3,)), told(w=(5,))).found
    assert (found.kind, found.remedy) == ("shape", "1 elements are filled by more than one part.")
    flat = {"w": (Part("a", into=((0, 3),)), Part("a", into=((3, 6),)))}
    assert bind(Transform(parts=flat), told(a=(3,)), told(w=(2, 3))).found == ()


def test_everything_that_does_not_fit_is_found_at_once():
    stored = {**told(a=(4,), b=(2, 3), o=None, spare=(1,)), **told("float16", h=(4,))}
    target = told(a=(5,), b=(3, 2), h=(4,), gone=(1,), part=(4,), o=(1,), p=None, q=None, two=None)
    parts = {
        "b": Part("b"),
        "part": Part("aa"),
        "p": Part("a"),
        "q": Part("o", shape=(1,)),
        "two": (Part("o"), Part("o")),
        "nobody": Part("a"),
    }
    bound = bind(Transform(parts=parts), stored, target)
    assert problems(bound) == [
        ("shape", "a"),
        ("shape", "b"),
        ("dtype", "h"),
        ("missing", "gone"),
        ("missing", "part"),
        ("type", "o"),
        ("type", "p"),
        ("type", "q"),
        ("type", "two"),
        ("type", "two"),
        ("unexpected", "spare"),
        ("unexpected", "nobody"),
    ]
    remedies = {m.fqn: m.remedy for m in bound.found}
    assert remedies["b"].startswith("The transform's part: merging or splitting dims makes no 3 x 2 of 2 x 3")
    assert remedies["part"] == "Its part 'aa' is not in the checkpoint; did you mean 'a'."
    assert remedies["q"] == "An object has no parts: give its name alone."


def test_two_keys_of_one_name_are_refused_unless_one_is_dropped():
    stored, target = told(w=(1,), module__w=(1,), x=(1,), module__x=(1,)), told(w=(1,), x=(1,))
    rename = ((r"^module\.", ""),)
    with pytest.raises(LayoutError, match=r"'w': 'w' and 'module.w'\n  'x': 'x' and 'module.x'"):
        bind(Transform(rename=rename), stored, target)
    bound = bind(Transform(rename=rename, drop=("module.*",)), stored, target)
    assert [fills[0].stored.fqn for fills in bound.fills.values()] == ["w", "x"]
    assert bound.found == ()


def test_keys_that_were_not_asked_for_this_time_are_not_unexpected():
    stored, target = told(a=(1,), b=(1,), c=(1,)), told(a=(1,))
    transform = Transform(parts={"z": Part("c")})
    assert problems(bind(transform, stored, target, ["a", "b", "z"])) == []
    assert problems(bind(transform, stored, target)) == [("unexpected", "b"), ("unexpected", "z")]


def test_a_pattern_that_is_a_name_means_that_name_whatever_signs_it_has():
    bound = bind(Transform(leave=("w[0]",)), {}, {"w[0]": Tensor("w[0]", "int8", ())})
    assert bound.kept == {"w[0]": (Box((), ()),)}
