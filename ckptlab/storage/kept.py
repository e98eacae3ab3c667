"""What was fetched of far files last, kept for a while in case more of it is asked for.

It knows no format and fetches nothing itself.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future

KEPT = 256 << 20


class Kept:
    """What was fetched last, up to `KEPT` bytes; each thing is fetched by one thread, others wait for it."""

    def __init__(self) -> None:
        self._held: OrderedDict[Hashable, Future[bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, fetch: Callable[[], bytes]) -> bytes:
        """What is kept under the key, fetched if it is not there; what `fetch` raises is not kept."""
        with self._lock:
            mine = key not in self._held
            future = self._held.setdefault(key, Future())
            self._held.move_to_end(key)
        if mine:
            try:
                future.set_result(fetch())
            except BaseException as error:
                with self._lock:
                    self._held.pop(key, None)
                future.set_exception(error)
                raise
            self._let_go()
        return future.result()

    def clear(self) -> None:
        """Keep nothing any more."""
        with self._lock:
            self._held.clear()

    def _let_go(self) -> None:
        """Drop what was not asked for the longest, but for the latest."""
        with self._lock:
            done = [
                (key, len(it.result())) for key, it in self._held.items() if it.done() and not it.exception()
            ]
            over = sum(nbytes for _, nbytes in done) - KEPT
            for key, nbytes in done[:-1]:
                if over <= 0:
                    return
                del self._held[key]
                over -= nbytes
