import pickle

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from ckptlab.storage import opcodes
from ckptlab.storage.opcodes import (
    STOP,
    Rows,
    Shared,
    dict_of,
    fetches,
    framed,
    header,
    integer,
    list_of,
    text,
    texts,
    tuple_of,
)


def loaded(code, protocol=2):
    return pickle.loads(header(protocol) + code + STOP)


@given(st.integers(-(2**70), 2**70) | st.sampled_from([255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**63 - 1]))
@example(-(2**47))
@example(-(2**31) - 1)
def test_integers_are_spelled_as_pickle_does(value):
    assert header(2) + integer(value) + STOP == pickle.dumps(value, 2)


@given(st.text())
def test_text(value):
    assert loaded(text(value)) == value


@given(st.lists(st.text()))
@example(["a", "\ud800 of no pair"])
def test_many_texts(values):
    assert texts(values) == [text(value) for value in values]


@given(st.lists(st.text(), min_size=1, max_size=20, unique=True))
def test_what_many_values_are_fetched_by(values):
    shared = Shared()
    shared(text("before"))
    found = fetches(shared.several(texts(values)))
    assert loaded(shared.definitions + list_of(found)) == values


@given(st.lists(st.integers(0, 2**40), max_size=6))
def test_containers(values):
    codes = [integer(v) for v in values]
    assert loaded(tuple_of(codes)) == tuple(values)
    assert loaded(list_of(codes)) == values
    assert loaded(dict_of(code for v in values for code in (integer(v), text(str(v))))) == {
        v: str(v) for v in values
    }


def test_constants():
    assert loaded(tuple_of([opcodes.NONE, opcodes.TRUE, opcodes.FALSE])) == (None, True, False)
    assert loaded(opcodes.named("collections", "OrderedDict")).__name__ == "OrderedDict"


def test_shared_values_are_made_once_and_are_one_object():
    shared = Shared()
    codes = [shared(tuple_of([text(str(i % 300))])) for i in range(900)]
    made = pickle.loads(framed([shared.definitions, list_of(codes), STOP]))
    assert made == [(str(i % 300),) for i in range(900)]
    assert all(made[i] is made[i + 300] for i in range(600))


def test_rows_of_the_same_form():
    shared = Shared()
    names = np.array([shared.number(text(word)) for word in ("x", "y", "x")], np.int64)
    assert names.tolist() == [0, 1, 0]
    rows = Rows(3)
    rows.fetch(names)
    rows.integer(np.array([0, 70000, 2**62]))
    made = pickle.loads(framed([shared.definitions, b"](", rows.opcodes(), b"e", STOP]))
    assert made == ["x", 0, "y", 70000, "x", 2**62]
    assert Rows(0).opcodes() == b""
