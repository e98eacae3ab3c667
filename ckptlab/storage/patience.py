"""Trying again: which failures of far storage pass by themselves, and how long to wait for that.

Errors are told apart by what they say of themselves, so it imports no client library. It knows no
files and no formats.
"""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable, Iterator
from typing import TypeGuard, TypeVar

T = TypeVar("T")

PATIENCE = 15.0
"""Seconds after which a failure that should have passed is told."""

_TRIES = 2
_LONGEST_WAIT = 3.0
_PASSING_STATUS = {408, 425, 429}
_NOT_IMPLEMENTED = 501
_LASTING = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
_PASSING_ERRNO = {errno.EIO, errno.EREMOTEIO, errno.EBUSY, errno.EAGAIN, errno.ETIMEDOUT, errno.ENETUNREACH}
# What aiohttp, botocore, urllib3, requests and http.client call a connection that broke.
_PASSING_NAMES = {
    "ClientConnectionError",
    "ClientPayloadError",
    "ConnectionError",
    "HTTPClientError",
    "IncompleteRead",
    "IncompleteReadError",
    "ProtocolError",
    "ResponseStreamingError",
}


def passing(error: BaseException) -> bool:
    """Whether the same request may go well a moment later.

    Busy and broken servers, broken connections and timeouts are; what is missing, forbidden or not
    possible is not.
    """
    chain = list(_causes(error))
    for cause in chain:
        status = _status(cause)
        if status is not None:
            return status in _PASSING_STATUS or (status >= 500 and status != _NOT_IMPLEMENTED)
    if any(isinstance(cause, _LASTING) for cause in chain):
        return False
    return any(
        isinstance(cause, TimeoutError | ConnectionError | EOFError)
        or (isinstance(cause, OSError) and cause.errno in _PASSING_ERRNO)
        or any(kind.__name__ in _PASSING_NAMES for kind in type(cause).__mro__)
        for cause in chain
    )


def patiently(step: Callable[[], T], patience: float = PATIENCE) -> T:
    """Do a step, again and again while it fails with what passes; its error after `patience` seconds.

    It is done twice at least. Waits grow from 0.1 to 3 seconds, each by chance half as long or half
    as long again, so that many ranks do not come back at once.
    """
    began, tries = time.monotonic(), 0
    while True:
        try:
            return step()
        except Exception as error:
            tries += 1
            wait = min(_LONGEST_WAIT, 0.1 * 2 ** (tries - 1)) * random.uniform(0.5, 1.5)
            late = time.monotonic() + wait - began > patience
            if not passing(error) or (late and tries >= _TRIES):
                raise
            time.sleep(wait)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what caused it, and so on."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error carries, wherever its library puts it."""
    response = getattr(error, "response", None)
    told = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
    if _is_status(value := told.get("HTTPStatusCode")):
        return value
    # One after the other: aiohttp warns of who asks for its `code`, and has a `status`.
    for name in ("status", "status_code", "code"):
        if _is_status(value := getattr(error, name, None)):
            return value
    return None


def _is_status(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and 100 <= value < 600
