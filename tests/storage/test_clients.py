import os
from dataclasses import dataclass

import pytest

from ckptlab.storage import clients
from ckptlab.storage.clients import forget, shared


@dataclass(frozen=True)
class Client:
    """Equal to another for the same target, as fsspec's are."""

    target: str


@pytest.fixture(autouse=True)
def nobody(monkeypatch):
    monkeypatch.setattr(clients, "_clients", {})


def test_one_target_has_one_client():
    first = shared(Client("a"))
    assert shared(Client("a")) is first
    assert shared(Client("b")) is not first


def test_another_identity_has_another_client(monkeypatch):
    first = shared(Client("a"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    second = shared(Client("a"))
    assert second is not first
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("SOMETHING", "else")
    assert shared(Client("a")) is first


def test_a_client_that_was_refused_is_not_handed_out_again():
    first = shared(Client("a"))
    forget(Client("a"))
    assert shared(Client("a")) is first
    forget(first)
    assert shared(Client("a")) is not first


def test_only_the_last_few_are_kept():
    first = shared(Client("0"))
    later = [shared(Client(str(i))) for i in range(1, 9)]
    assert all(shared(one) is one for one in later)
    assert shared(Client("0")) is not first


def test_another_process_leaves_its_parents_alone(monkeypatch):
    first = shared(Client("a"))
    monkeypatch.setattr(os, "getpid", lambda: -1)
    for i in range(20):
        assert shared(Client("a" if not i else str(i))) is not first
    assert any(one is first for mine in clients._clients.values() for one in mine.values())
