"""What is known of one side of a load, the checkpoint or the target, before any byte is read.

Plain records of names, shapes and dtypes; it knows no torch, no file and no finding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from ckptlab.metadata import Metadata, Tensor
from ckptlab.plan.diagnose.families import Family, Words, families

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Side:
    """The tensors and objects of a side, by name, in its own order.

    `tied` leads from a tensor to the earlier one whose memory it shares; `frozen` are parameters that no
    gradient changes. `objects` tells of each what it is, in words ("" if nobody looked). `rank` is that of
    the process whose target it is.
    """

    tensors: Mapping[str, Tensor]
    objects: Mapping[str, str] = field(default_factory=dict)
    tied: Mapping[str, str] = field(default_factory=dict)
    frozen: frozenset[str] = frozenset()
    rank: int = 0

    @property
    def keys(self) -> tuple[str, ...]:
        """All names: of the tensors, then of the objects."""
        return (*self.tensors, *self.objects)

    @cached_property
    def families(self) -> Mapping[Words, Family]:
        """All names by their families."""
        return families((key, key) for key in self.keys)

    def __contains__(self, key: str) -> bool:
        return key in self.tensors or key in self.objects

    def shape(self, key: str) -> Shape | None:
        """The shape of a tensor; None for an object."""
        tensor = self.tensors.get(key)
        return None if tensor is None else tensor.shape

    def nbytes(self, keys: Iterable[str]) -> int:
        """Bytes of those of `keys` that are tensors."""
        return sum(self.tensors[key].nbytes for key in keys if key in self.tensors)


def side_of(metadata: Metadata) -> Side:
    """A checkpoint as a side.

    >>> from ckptlab.layout import Layout
    >>> from ckptlab.plan.metadata_of import metadata_of
    >>> side_of(metadata_of([Tensor("w", "float32", (4,))], Layout.parse("2", "Shard(0)"))).shape("w")
    (4,)
    """
    return Side({tensor.fqn: tensor for tensor in metadata.tensors}, dict.fromkeys(metadata.objects, ""))
