"""Small extents of a far file that lie near each other, fetched together and kept for a while.

A request costs as much as the transfer of a MiB, and chunks of small tensors lie side by side. It
knows no format and fetches nothing itself.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SMALL = 1 << 20
"""Bytes of an extent up to which it is fetched whole, with its neighbours."""

GAP = 256 << 10
"""Bytes between two extents up to which they are fetched together, and what lies between them, too."""

SPAN = 64 << 20
KEPT = 256 << 20

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Spans:
    """Where the spans of one file begin and end, ascending."""

    starts: Ints
    ends: Ints

    @classmethod
    def of(cls, starts: Ints, lengths: Ints) -> Spans:
        """The spans of extents: neighbours up to `GAP` bytes apart, cut at about `SPAN` bytes.

        Empty extents and those of more than `SMALL` bytes are left out.
        """
        small = (lengths > 0) & (lengths <= SMALL)
        low = starts[small]
        order = np.argsort(low, kind="stable")
        low = low[order]
        if not len(low):
            return cls(low, low)
        ends = np.maximum.accumulate(low + lengths[small][order])
        apart = np.r_[True, low[1:] - ends[:-1] > GAP]
        group = np.cumsum(apart) - 1
        piece = (low - low[apart][group]) // SPAN
        first = np.flatnonzero(apart | np.r_[True, piece[1:] != piece[:-1]])
        return cls(low[first], np.maximum.reduceat(low + lengths[small][order], first))

    def around(self, start: int, length: int) -> tuple[int, int] | None:
        """Begin and end of the span in which these bytes lie, if one holds them all."""
        i = int(np.searchsorted(self.starts, start, side="right")) - 1
        if i < 0 or start + length > int(self.ends[i]):
            return None
        return int(self.starts[i]), int(self.ends[i])


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
