"""What a load cost: bytes asked of storage, and what a narrower dtype took from the elements.

It reads nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch


@dataclass
class Counts:
    """What was asked of storage: bytes of elements, reads of them, and all other bytes (`header_bytes`).

    Those are the wrapping round elements, and what is read of a chunk only to check its crc.
    """

    nbytes: int = 0
    reads: int = 0
    header_bytes: int = 0
    checked: int = 0
    """Chunks whose crc was compared with the stored one."""
    lost: dict[int, Lost] = field(default_factory=dict)
    """What a narrower dtype cost, by chunk."""

    def add(self, other: Counts) -> None:
        """Count what another counted."""
        self.nbytes += other.nbytes
        self.reads += other.reads
        self.header_bytes += other.header_bytes
        self.checked += other.checked


@dataclass(frozen=True)
class Lost:
    """How many elements of how many a conversion changed, and by how much at most (NaN if one became NaN)."""

    changed: int
    of: int
    largest: float

    def __add__(self, other: Lost) -> Lost:
        largest = float(np.maximum(self.largest, other.largest))
        return Lost(self.changed + other.changed, self.of + other.of, largest)

    def __str__(self) -> str:
        if not self.changed:
            return f"none of {self.of:,} elements changed"
        return f"{self.changed:,} of {self.of:,} elements changed, by {self.largest:.3g} at most"


def loss(stored: torch.Tensor, loaded: torch.Tensor) -> Lost:
    """What is not the same any more, by taking what was loaded back to the stored dtype."""
    kept = loaded.detach().cpu().to(stored.dtype)
    wide = torch.complex128 if stored.is_complex() else torch.float64
    apart = (kept.to(wide) - stored.to(wide)).abs()
    # Infinity less infinity is no number, and was not changed.
    changed = ~((kept == stored) | (kept.isnan() & stored.isnan()))
    by = apart[changed]
    largest = float("nan") if bool(by.isnan().any()) else float(by.max()) if by.numel() else 0.0
    return Lost(int(changed.sum()), stored.numel(), largest)
