"""A load by one process: into the state's own memory, strictly or not, and what it says of the rest."""

import gc
import re
import time
import warnings
from collections import Counter

import pytest
import torch
from engine_ops import stock_save

from ckptlab import load, open_checkpoint, save
from ckptlab.engine.verify import verify_loaded
from ckptlab.errors import LayoutError, MismatchError, PathError, UnsafeError


class Private:
    """A class that no allow-list knows."""

    def __init__(self):
        self.x = 1


@pytest.fixture
def path(tmp_path):
    save({"model": {"w": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3)}, "step": 5}, tmp_path)
    return tmp_path


def poison(*shape, dtype=torch.float32):
    return torch.full(shape, -7, dtype=dtype)


def test_it_fills_the_tensors_where_they_are(path):
    w, b = poison(2, 3), poison(3)
    state = {"model": {"w": w, "b": b}, "step": 0}
    report = load(state, path)
    assert state["model"]["w"] is w
    assert w.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert b.tolist() == [1, 1, 1]
    assert state["step"] == 5
    assert report.loaded == ("model.w", "model.b", "step")
    assert (report.missing, report.unexpected) == ((), ())
    assert (report.nbytes, report.reads, report.rank) == (36, 2, 0)
    assert {"metadata", "plan", "read", "commit"} <= report.seconds.keys()
    assert report.metadata.tensors == open_checkpoint(path).metadata.tensors


@pytest.mark.parametrize(
    "target",
    [
        poison(3, 2).t(),
        poison(2, 6)[:, ::2],
        poison(4, 5)[1:3, 2:],
        torch.nn.Parameter(poison(2, 3)),
    ],
)
def test_targets_in_any_memory(path, target):
    base = target.detach().clone()
    assert base.count_nonzero() == 6
    load({"model": {"w": target}}, path)
    assert target.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_view_leaves_its_neighbours_alone(path):
    whole = poison(4, 5)
    load({"model": {"w": whole[1:3, 2:]}}, path)
    whole[1:3, 2:] = -7
    assert (whole == -7).all()


def test_a_missing_key_is_an_error_or_is_reported(path):
    state = {"model": {"w": poison(2, 3), "new": poison(2)}, "epoch": 9}
    with pytest.raises(MismatchError) as caught:
        load(state, path)
    assert [(m.kind, m.fqn) for m in caught.value.problems] == [
        ("missing", "model.new"),
        ("missing", "epoch"),
    ]
    assert (state["model"]["w"] == -7).all()
    report = load(state, path, strict=False)
    assert report.missing == ("epoch", "model.new")
    assert report.loaded == ("model.w",)
    assert state["model"]["w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert (state["model"]["new"] == -7).all()
    assert state["epoch"] == 9


def test_what_nobody_asks_for_is_reported(path):
    report = load({"model": {"b": poison(3)}}, path)
    assert report.unexpected == ("model.w", "step")


def test_a_load_of_nothing_says_so(path):
    with pytest.warns(UserWarning, match="nothing was loaded") as caught:
        report = load({}, path)
    assert caught[0].filename == __file__
    assert (report.loaded, report.nbytes) == ((), 0)
    assert report.unexpected == ("model.b", "model.w", "step")


def test_another_dtype_is_refused_widened_or_narrowed_with_the_loss_measured(tmp_path):
    save(
        {"w": torch.tensor([1.0, 1 + 2**-10, float("inf"), float("nan"), -70000.0]), "b": torch.ones(3)},
        tmp_path,
    )
    state = {"w": poison(5, dtype=torch.float16), "b": poison(3, dtype=torch.float64)}
    for policy, refused in (("exact", ["w", "b"]), ("widen", ["w"])):
        with pytest.raises(MismatchError, match="dtype") as caught:
            load(state, tmp_path, dtype=policy)
        assert [m.fqn for m in caught.value.problems] == refused
        assert (state["w"] == -7).all()
    with pytest.warns(UserWarning, match="narrower") as caught:
        load(state, tmp_path, dtype="narrow")
    assert [str(w.message).split("\n")[1:] for w in caught] == [
        ["  w, now float16: 1 of 5 elements changed, by inf at most"]
    ]
    assert caught[0].filename == __file__
    assert state["w"].tolist()[:3] == [1.0, 1 + 2**-10, float("inf")]
    assert state["b"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("policy", ["exact", "widen", "narrow"])
def test_what_loses_nothing_warns_of_nothing(path, policy):
    wide = torch.float32 if policy == "exact" else torch.float64
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load({"model": {"w": poison(2, 3, dtype=wide)}}, path, dtype=policy)


def test_a_set_of_keys(path):
    for which in ("model.b", ["model.b"], re.compile("b$"), lambda key: key.endswith("b")):
        w, b = poison(2, 3), poison(3)
        report = load({"model": {"w": w, "b": b}, "step": 0}, path, keys=which)
        assert report.loaded == ("model.b",)
        assert report.unexpected == ()
        assert (w == -7).all()
        assert b.tolist() == [1, 1, 1]
    with pytest.raises(MismatchError, match=r"no key 'model.bb'; did you mean 'model.b'"):
        load({"model": {"w": w, "b": b}}, path, keys=["model.bb"])
    with pytest.raises(MismatchError, match=r"no key 'optim.\*'"):
        load({"model": {"w": w, "b": b}}, path, keys="optim.*")


def test_other_names(path):
    for rename in (
        {"model.w": "weight"},
        [(r"^model\.w$", "weight")],
        lambda key: "weight" if "w" in key else None,
    ):
        w = poison(2, 3)
        report = load({"weight": w}, path, rename=rename)
        assert report.loaded == ("weight",)
        assert report.unexpected == (() if callable(rename) else ("model.b", "step"))
        assert w.tolist() == [[0, 1, 2], [3, 4, 5]]
    state = {"number": 0}
    load(state, path, rename={"step": "number"})
    assert state == {"number": 5}
    with pytest.raises(LayoutError, match=r"'model.w' and 'model.b' the same name 'x'"):
        load({"x": w}, path, rename=lambda key: "x")
    with pytest.raises(LayoutError, match=r"no key 'model.v'; did you mean"):
        load({"x": w}, path, rename={"model.v": "x"})


def test_strict_both_ways(path):
    with pytest.raises(MismatchError, match="2 mismatches") as caught:
        load({"model": {"b": poison(3)}}, path, strict="both")
    assert [(m.kind, m.fqn) for m in caught.value.problems] == [
        ("unexpected", "model.w"),
        ("unexpected", "step"),
    ]
    w, b = poison(2, 3), poison(3)
    load({"model": {"w": w, "b": b}, "step": 0}, path, strict="both")
    assert b.tolist() == [1, 1, 1]


def test_tensors_without_memory_are_made(path):
    state = {"model": {"w": torch.empty(2, 3, device="meta"), "b": poison(3)}}
    load(state, path)
    assert state["model"]["w"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_model_without_memory_is_loaded(tmp_path):
    saved = torch.nn.Linear(3, 2)
    save({"model": saved}, tmp_path)
    with torch.device("meta"):
        model = torch.nn.Linear(3, 2)
    load({"model": model}, tmp_path)
    assert torch.equal(model.weight, saved.weight)
    assert torch.equal(model.bias, saved.bias)
    assert isinstance(model.weight, torch.nn.Parameter)


def test_an_object_of_an_unknown_class_is_not_unpickled_and_nothing_is_loaded(tmp_path):
    stock_save({"w": torch.ones(2), "odd": Private()}, tmp_path)
    state = {"w": poison(2), "odd": None}
    with pytest.raises(UnsafeError, match=r"'odd'.*not made of plain values") as caught:
        load(state, tmp_path)
    assert caught.value.problems == ("odd",)
    assert (state["w"] == -7).all()
    assert state["odd"] is None
    load({"w": state["w"]}, tmp_path)
    assert state["w"].tolist() == [1, 1]


def test_plain_containers_come_back(tmp_path):
    words = {"a": [1, (2, 3.5, None)], "b": {"c": {4, 5}}, "d": Counter("aab"), "e": torch.Size([2])}
    save({"words": [words["a"]], "set": words["b"]["c"], "size": words["e"]}, tmp_path)
    state = {"words": None, "set": None, "size": None}
    load(state, tmp_path)
    assert state == {"words": [[1, (2, 3.5, None)]], "set": {4, 5}, "size": torch.Size([2])}


@pytest.mark.parametrize(
    "value",
    [
        torch.tensor([1 + 2j, 3 - 4j]).conj(),
        torch.arange(12.0).reshape(3, 4).t(),
        torch.arange(4.0).expand(3, 4),
        torch.nn.Parameter(torch.ones(2, 2)),
    ],
)
def test_whatever_memory_stock_saved_from(tmp_path, value):
    stock_save({"w": value}, tmp_path)
    target = torch.full(value.shape, 9, dtype=value.dtype)
    load({"w": target}, tmp_path)
    assert torch.equal(target, value.detach())


def test_a_stateful_is_loaded(tmp_path):
    torch.manual_seed(0)
    one, two = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    save({"module": one}, tmp_path)
    assert not torch.equal(one.weight, two.weight)
    load({"module": two}, tmp_path)
    assert torch.equal(one.weight, two.weight)
    assert torch.equal(one.bias, two.bias)


def test_no_checkpoint_there(tmp_path):
    with pytest.raises(PathError, match="is empty: no checkpoint"):
        load({"w": torch.ones(1)}, tmp_path)


def test_progress_is_told_and_ends_complete(path):
    events = []
    report = load({"model": {"w": poison(2, 3), "b": poison(3)}}, path, progress=events.append)
    read = [e for e in events if e.phase == "read"]
    assert (read[0].done, read[-1].done, read[-1].total) == (0, report.nbytes, report.nbytes)


@pytest.mark.parametrize("verified", [False, True])
def test_progress_names_the_tensor_that_was_moved_last(tmp_path, verified):
    """A listener that takes its time hears of every tensor: the next is moved when it is due again."""
    keys, events = ["a", "b", "c"], []
    save({key: torch.ones(300, 200) for key in keys}, tmp_path)

    def slow(event):
        events.append(event)
        time.sleep(0.06)

    state = {key: torch.zeros(300, 200) for key in keys}
    load(state, tmp_path, progress=slow)
    if verified:
        events.clear()
        verify_loaded(state, tmp_path, progress=slow)
    assert [event.about for event in events if event.about] == keys


def test_garbage_is_collected_again_afterwards(path):
    assert gc.isenabled()
    seen = []
    load({"model": {"b": poison(3)}}, path, progress=lambda _: seen.append(gc.isenabled()))
    assert set(seen) == {False}
    with pytest.raises(MismatchError):
        load({"model": {"b": poison(4)}}, path)
    assert gc.isenabled()
