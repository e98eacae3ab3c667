"""Every mismatch is named, each once, with what is stored, what is wanted and what to do."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptlab.errors import MismatchError
from ckptlab.layout import Layout
from ckptlab.metadata import Extent, Tensor
from ckptlab.plan.check import Mismatch, check, refuse
from ckptlab.plan.metadata_of import metadata_of

ROW = Layout.parse("2", "Shard(0)")


def saved(*tensors, objects=()):
    metadata = metadata_of(tensors, ROW)
    return dataclasses.replace(metadata, objects={fqn: Extent(0, 0, 1) for fqn in objects})


def wants(*tensors, objects=()):
    return {**{t.fqn: t for t in tensors}, **dict.fromkeys(objects)}


def tensor(fqn, *shape, dtype="float32"):
    return Tensor(fqn, dtype, shape)


def test_what_fits_is_not_mentioned():
    assert check(saved(tensor("w", 4, 4), objects=["step"]), wants(tensor("w", 4, 4), objects=["step"])) == ()


STORED = {"a": tensor("a", 4, 3), "b": tensor("b", 5), "c": tensor("c", 2, 2, dtype="bfloat16"), "step": None}
ASKED = {
    "a": {"a": None, "a shape": tensor("a", 4, 5), "a dtype": tensor("a", 4, 3, dtype="int64")},
    "b": {"b": None, "b type": None, "b shape dtype": tensor("b", 6, dtype="float64")},
    "d": {"": None, "d missing": tensor("d", 1)},
    "step": {"step": None, "step type": tensor("step", 1)},
}


@settings(deadline=None)
@given(st.fixed_dictionaries({key: st.sampled_from(list(ways)) for key, ways in ASKED.items()}))
def test_every_mismatch_is_named_once(ways):
    metadata = saved(*(t for t in STORED.values() if t), objects=["step"])
    target, expected = {}, [("unexpected", "c")]
    for key, way in ways.items():
        fqn, *kinds = way.split() or [""]
        if not fqn:
            continue
        fits = STORED[key] if key in STORED and not kinds else ASKED[key][way]
        target[fqn] = fits
        expected += [(kind, fqn) for kind in kinds]
    found = check(metadata, target)
    assert sorted((m.kind, m.fqn) for m in found) == sorted(expected)
    for one in found:
        assert one.stored
        assert one.wanted
        assert one.remedy.endswith((".", "?"))


@pytest.mark.parametrize(
    ("stored", "wanted", "words"),
    [
        (tensor("w", 3, 4), tensor("w", 4, 3), "transpose"),
        (tensor("w", 3, 4), tensor("w", 3, 5), "dim 1"),
        (tensor("w", 3, 4), tensor("w", 12), "2 dims, the target 1"),
        (tensor("w", 3, 4), tensor("w", 3, 4, dtype="float16"), "dtype='narrow'"),
        (tensor("w", 3, 4), None, "Give a tensor"),
    ],
)
def test_the_remedy_tells_the_likely_cause(stored, wanted, words):
    (found,) = check(saved(stored), {"w": wanted})
    assert words in found.remedy


def test_a_missing_key_comes_with_the_nearest():
    found = check(saved(tensor("model.layer.weight", 2)), wants(tensor("layer.weight", 2)))
    assert [m.kind for m in found] == ["missing", "unexpected"]
    assert "'model.layer.weight'" in found[0].remedy


def test_one_error_lists_all():
    some = [Mismatch("shape", f"w{i}", "[1]", "[2]", "Why?") for i in range(25)]
    refuse("there", [])
    with pytest.raises(MismatchError, match=r"there does not fit .*25 mismatches") as caught:
        refuse("there", some)
    assert caught.value.problems == tuple(some)
    assert "w19" in str(caught.value)
    assert "w20" not in str(caught.value)
    assert "and 5 more" in str(caught.value)
    with pytest.raises(MismatchError, match="1 mismatch:"):
        refuse("there", some[:1])
