"""State dicts as named leaves, with stock DCP's own flattening as the oracle."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint._nested_dict import flatten_state_dict

from ckptlab.engine.state import expand, flatten, hand_over, put, unflatten
from ckptlab.errors import LayoutError

TENSOR = torch.zeros(2)
values = st.one_of(st.just(TENSOR), st.integers(0, 3), st.none(), st.text("ab", max_size=2), st.just((1, 2)))
keys = st.one_of(st.text("abc", min_size=1, max_size=2), st.integers(0, 2), st.just("a.b"))


def states(least=0):
    """Nested states whose dicts within have at least so many entries."""

    def nested(inner):
        return st.one_of(
            st.dictionaries(keys, inner, min_size=least, max_size=3), st.lists(inner, max_size=3)
        )

    return st.dictionaries(keys.map(str), st.recursive(values, nested, max_leaves=8), max_size=4)


@settings(max_examples=500, deadline=None)
@given(states())
def test_names_and_paths_are_stocks(state):
    try:
        flat, paths = flatten_state_dict(state)
    except ValueError:
        with pytest.raises(LayoutError, match="both called"):
            flatten(state)
        return
    leaves = flatten(state)
    assert list(leaves.values) == list(leaves.paths) == list(flat)
    for fqn, value in leaves.values.items():
        assert leaves.paths[fqn] == paths[fqn]
        assert value is flat[fqn]


def texts(value):
    """Dict keys as text, as they come back; what holds nothing is gone."""
    if isinstance(value, dict):
        return {str(key): texts(inner) for key, inner in value.items() if inner != {}}
    return [texts(inner) for inner in value] if isinstance(value, list) else value


@settings(max_examples=300, deadline=None)
@given(states(least=1))
@example({"a": [{}, TENSOR]})
def test_unflatten_is_the_way_back(state):
    try:
        leaves = flatten(state)
    except LayoutError:
        return
    back = unflatten(*leaves)
    assert flatten(back) == leaves


def test_unflatten_makes_dicts_and_lists():
    state = {"model": {"layers": [{"w": TENSOR}, {"w": TENSOR, "n": 3}]}, "step": 1, "rates": [1, 2]}
    leaves = flatten(state)
    back = unflatten(*leaves)
    assert texts(back) == texts(state)
    assert unflatten({"a.b": 1}, {}) == {"a.b": 1}


def test_lists_that_share_each_other_are_looked_into_once():
    value = [1]
    for _ in range(60):
        value = [value, value]
    assert flatten({"a": value}).values == {"a": value}
    value = [TENSOR]
    for _ in range(3):
        value = [value, [1], value]
    assert len(flatten({"a": value}).values) == 8 + 7


def test_put_finds_keys_that_are_no_text():
    state = {"groups": {0: {"lr": 1}, "1": {"lr": 1}}, "list": [{"x": 1}]}
    put(state, ("groups", "0", "lr"), 5)
    put(state, ("groups", "1", "lr"), 6)
    put(state, ("list", 0, "x"), 7)
    put(state, ("new",), 8)
    assert state == {"groups": {0: {"lr": 5}, "1": {"lr": 6}}, "list": [{"x": 7}], "new": 8}


def test_a_stateful_is_asked_for_its_state_and_given_it_back():
    module = torch.nn.Linear(2, 1)
    target = {"module": module, "step": 1}
    state = expand(target)
    assert list(state["module"]) == ["weight", "bias"]
    filled = {"module": {"weight": torch.full((1, 2), 3.0), "bias": torch.ones(1)}, "step": 4}
    hand_over(target, filled)
    assert target["module"] is module
    assert module.weight.tolist() == [[3.0, 3.0]]
    assert target["step"] == 4


def test_states_are_asked_and_filled_in_the_order_of_their_keys():
    """Ranks that made their dicts in other orders would meet in each other's collectives."""
    asked, filled = [], []

    class Part:
        def __init__(self, name):
            self.name = name

        def state_dict(self):
            asked.append(self.name)
            return {"x": self.name}

        def load_state_dict(self, state):
            filled.append((self.name, state))

    target = {"model": Part("model"), "optim": Part("optim"), "first": Part("first"), "step": 3}
    state = expand(target)
    assert list(state) == ["model", "optim", "first", "step"]
    hand_over(target, state)
    assert asked == ["first", "model", "optim"]
    assert filled == [(name, {"x": name}) for name in asked]
