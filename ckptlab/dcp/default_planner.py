"""`torch.distributed.checkpoint.default_planner`: torch's planners, which unpickle no code here.

With a planner as torch made it the engine plans, and takes only its options; one that was
changed plans for itself, by torch's protocol. It opens no file.
"""

from __future__ import annotations

import io
from typing import Any

import torch
from torch.distributed.checkpoint import default_planner as torchs
from torch.distributed.checkpoint._traverse import set_element
from torch.distributed.checkpoint.planner import ReadItem

from ckptlab.dcp.torchs import rest_of
from ckptlab.engine.harmless import harmless
from ckptlab.errors import UnsafeError

__all__ = ["DefaultLoadPlanner", "DefaultSavePlanner", "_EmptyStateDictLoadPlanner"]

DefaultSavePlanner = torchs.DefaultSavePlanner
__getattr__ = rest_of(__name__)


class DefaultLoadPlanner(torchs.DefaultLoadPlanner):
    """How to load, with torch's own parameters; `allow_partial_load` leaves what the checkpoint has not."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Put an object into the state_dict. `UnsafeError` if it is not made of plain values."""
        fqn = read_item.dest_index.fqn
        try:
            with harmless():
                loaded = torch.load(value, weights_only=True)
        except Exception as error:
            raise UnsafeError(
                f"object {fqn!r} is not made of plain values, so it is not unpickled: {error}\n"
                "If you trust its writer, allow its classes by torch.serialization.add_safe_globals.",
                [fqn],
            ) from error
        if self.flatten_state_dict:
            set_element(self.original_state_dict, self.mappings[fqn], loaded)
        else:
            # The first may be a copy, made to flatten sharded tensors; the caller looks into the second.
            self.state_dict[fqn] = self.original_state_dict[fqn] = loaded


class _EmptyStateDictLoadPlanner(torchs._EmptyStateDictLoadPlanner, DefaultLoadPlanner):
    """Fills an empty state_dict with all that is stored, or with what is stored under `keys`."""

    def __init__(self, keys: set[str] | None = None, *args: Any, **kwargs: Any) -> None:
        super().__init__(keys, *args, **kwargs)  # type: ignore[no-untyped-call]
