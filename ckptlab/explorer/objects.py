"""The objects of a checkpoint by value, in words, where that is safe: plain values only, and small ones.

What is not shown says why. It unpickles nothing by itself: `storage` reads plain values through its
allow-list. It knows no torch.
"""

from __future__ import annotations

import reprlib
from dataclasses import dataclass, field

from ckptlab.errors import CheckpointError, UnsafeError
from ckptlab.metadata import human_bytes
from ckptlab.storage import Checkpoint

MOST = 64 << 10
"""Bytes of an object that is read without being asked for."""

_words = reprlib.Repr()
_words.maxstring, _words.maxother, _words.maxdict, _words.maxlist, _words.maxtuple = 80, 80, 6, 8, 8


@dataclass
class Objects:
    """Give it the key of an object, and it says the value: `3`, `{'lr': 0.1}`, or `not shown: ...`.

    Each is read once. Objects far away are not read, so that a page of them is no page of requests.
    """

    checkpoint: Checkpoint
    _known: dict[str, str] = field(default_factory=dict, repr=False)

    def __call__(self, key: str) -> str:
        """The value of the object of this name, in words."""
        if key not in self._known:
            extent, known = self.checkpoint.metadata.objects[key], self.checkpoint.values
            if known is None or key not in known:
                if extent.length > MOST:
                    return f"not shown: {human_bytes(extent.length)}; press to read"
                if not self.checkpoint.files.mapped:
                    return "not shown: far away; press to read"
            self.read(key)
        return self._known[key]

    def read(self, key: str) -> None:
        """Read it, however large and far away it is."""
        try:
            self._known[key] = _words.repr(self.checkpoint[key])
        except UnsafeError as error:
            self._known[key] = f"not shown: holds {', '.join(map(str, error.problems)) or 'tensors'}"
        except CheckpointError as error:
            self._known[key] = f"not shown: {str(error).splitlines()[0]}"
