"""One client a process for each target: to connect takes longer than most of what is then asked.

A client is shared by all who reach the same target by the same options, as long as the environment says
the same of who we are. It knows no files, and of a client only that it equals another for the same target.
"""

from __future__ import annotations

import os
import re
from collections.abc import Hashable
from typing import TypeVar

C = TypeVar("C", bound=Hashable)

_KEPT = 8
_IDENTITY = re.compile(r"(AWS|S3|GOOGLE|GCS|GCLOUD|AZURE|HF|FSSPEC)_|HOME$|.*_PROXY$", re.IGNORECASE)

# By process: a forked child has neither the threads nor the connections of its parent's clients. To drop
# one would be to close it, and with it what the parent waits for; so they stay, unused.
_clients: dict[int, dict[Hashable, Hashable]] = {}


def shared(client: C) -> C:
    """The client that this process has already for the same target and identity; else this one, from now on.

    It must be such that threads may share it. The last few are kept for those who come later.
    """
    mine = _clients.setdefault(os.getpid(), {})
    identity = frozenset(item for item in os.environ.items() if _IDENTITY.match(item[0]))
    # Both are one step each, so that no lock is needed, which a fork could find taken.
    found = mine.setdefault((identity, client), client)
    for key in list(mine)[:-_KEPT]:
        mine.pop(key, None)
    assert isinstance(found, type(client))
    return found


def forget(client: Hashable) -> None:
    """Let those who come later make a new one: this one was refused, and its credentials may be too old."""
    mine = _clients.get(os.getpid(), {})
    for key, one in list(mine.items()):
        if one is client:
            mine.pop(key, None)
