import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ckptlab.storage import kept as module
from ckptlab.storage.kept import Kept


def test_a_thing_is_fetched_once_whoever_asks():
    kept, fetched, go = Kept(), [], threading.Event()

    def fetch():
        fetched.append(1)
        assert go.wait(60)
        return b"it"

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(kept.get, "key", fetch) for _ in range(4)]
        go.set()
        assert [one.result(60) for one in asked] == [b"it"] * 4
    assert len(fetched) == 1
    kept.clear()
    assert kept.get("key", lambda: b"new") == b"new"


def test_a_failure_is_raised_and_not_kept():
    kept = Kept()

    def fail():
        raise ValueError("the cause")

    for _ in range(2):
        with pytest.raises(ValueError, match="the cause"):
            kept.get("key", fail)
    assert kept.get("key", lambda: b"it") == b"it"


def test_what_was_not_asked_for_the_longest_goes_first(monkeypatch):
    monkeypatch.setattr(module, "KEPT", 10)
    kept, fetched = Kept(), []

    def get(key, nbytes=4):
        kept.get(key, lambda: fetched.append(key) or bytes(nbytes))

    for key in "abacab":
        get(key)
    assert fetched == ["a", "b", "c", "b"]
    get("large", 100)
    get("large", 100)
    assert fetched[-1] == "large"
    assert fetched.count("large") == 1
