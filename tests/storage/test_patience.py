import errno
import http.client

import pytest

from ckptlab.storage import patience as module
from ckptlab.storage.patience import passing, patiently


class ClientError(Exception):
    """As botocore's."""

    def __init__(self, status):
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}


class HttpError(Exception):
    """As gcsfs's, or with another name for the number."""

    def __init__(self, **told):
        self.__dict__.update(told)


class ClientPayloadError(Exception):
    """As aiohttp's."""


class CutShort(ClientPayloadError):
    pass


def caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("kind", ["boto", "code", "status", "status_code"])
def test_a_busy_or_broken_server_passes(status, kind):
    error = ClientError(status) if kind == "boto" else HttpError(**{kind: status})
    assert passing(error)
    assert passing(caused(OSError(errno.EINVAL, "wrapped"), error))


@pytest.mark.parametrize("status", [400, 401, 403, 404, 412, 416, 501])
def test_what_a_server_refuses_does_not(status):
    assert not passing(ClientError(status))
    assert not passing(caused(OSError(errno.EIO, "wrapped"), HttpError(code=status)))


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError(),
        ConnectionResetError(),
        BrokenPipeError(),
        EOFError(),
        OSError(errno.EIO, "io"),
        OSError(errno.EBUSY, "SlowDown"),
        ClientPayloadError(),
        CutShort(),
        http.client.IncompleteRead(b""),
        caused(ValueError(), ConnectionResetError()),
    ],
    ids=repr,
)
def test_broken_connections_and_timeouts_pass(error):
    assert passing(error)


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(),
        PermissionError(errno.EACCES, "no"),
        IsADirectoryError(),
        ValueError(),
        NotImplementedError(),
        OSError(errno.ENOSPC, "full"),
        HttpError(code="SlowDown", status=True),
        caused(PermissionError(), TimeoutError()),
    ],
    ids=repr,
)
def test_what_is_missing_forbidden_or_impossible_does_not(error):
    assert not passing(error)


def test_causes_that_go_in_a_circle_end():
    one, other = ValueError(), ValueError()
    one.__cause__, other.__cause__ = other, one
    assert not passing(one)


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only in sleep."""
    waits = []
    monkeypatch.setattr(module.time, "sleep", waits.append)
    monkeypatch.setattr(module.time, "monotonic", lambda: sum(waits))
    return waits


def failing(times, error, results=("done",)):
    left = [error] * times + list(results)

    def step():
        value = left.pop(0)
        if isinstance(value, Exception):
            raise value
        return value

    return step


def test_a_step_is_done_again_until_it_goes_well(clock):
    assert patiently(failing(4, TimeoutError())) == "done"
    assert len(clock) == 4
    assert all(0.05 * 2**i <= wait <= 0.15 * 2**i for i, wait in enumerate(clock))


def test_what_lasts_is_told_at_once(clock):
    with pytest.raises(PermissionError):
        patiently(failing(1, PermissionError()))
    assert clock == []


def test_patience_ends(clock):
    with pytest.raises(TimeoutError):
        patiently(failing(1000, TimeoutError()), 15.0)
    assert 10 < sum(clock) <= 15
    assert max(clock) <= 4.5


def test_a_step_that_took_all_the_time_is_done_once_more(clock):
    def slow():
        clock.append(60.0)
        raise TimeoutError

    with pytest.raises(TimeoutError):
        patiently(slow, 15.0)
    assert clock.count(60.0) == 2
