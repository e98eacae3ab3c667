"""Where ranks of this machine can run, found without importing torch or touching CUDA.

A process that forks ranks must not start CUDA, and torch's own count can do so. It starts nothing.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ckptlab.errors import LayoutError

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where ranks run: a device and a backend, as `LocalRanks` takes them, and how many GPUs they have.

    Rank r runs on GPU r % `gpus`. In words by `str`.
    """

    device: Device
    backend: str
    gpus: int = 0
    shared: bool = False

    def __str__(self) -> str:
        if self.device == "cpu":
            return f"CPU ({self.backend})"
        many = "1 GPU" if self.gpus == 1 else f"{self.gpus} GPUs"
        how = f"shared, {self.backend}" if self.shared else self.backend
        return f"{many} ({how})"


def places(world: int) -> tuple[Place, ...]:
    """Where `world` ranks can run on this machine; the first is where `LocalRanks` runs them unasked."""
    cpu, gpus = Place("cpu", "gloo"), attached_gpus()
    if not gpus or not torch_has_cuda():
        return (cpu,)
    if gpus < world:
        return cpu, Place("cuda", "gloo", gpus, shared=True)
    return Place("cuda", "nccl", world), cpu


def place(world: int, device: Device | None = None, backend: str | None = None) -> Place:
    """Where `world` ranks run, if this is asked for.

    More ranks than GPUs share them, by gloo, which moves memory of GPUs through the CPU; nccl wants one
    GPU a rank. Raises `LayoutError` for what cannot be.
    """
    if world < 1:
        raise LayoutError(f"a world has at least one rank, not {world}")
    if device not in (None, "cpu", "cuda"):
        raise LayoutError(f"ranks run on 'cpu' or 'cuda', not on {device!r}")
    nccl = backend is not None and "nccl" in backend
    if device == "cpu" or (device is None and not nccl and places(world)[0].device == "cpu"):
        if backend == "nccl":
            raise LayoutError("nccl moves memory of GPUs only: take backend='gloo' for ranks on the CPU")
        return Place("cpu", backend or "gloo")
    gpus = attached_gpus()
    if not gpus:
        raise LayoutError(
            f"{world} ranks on CUDA need {world} GPUs, or at least one that they share, "
            "and this machine shows none: take device='cpu'"
        )
    if not torch_has_cuda():
        raise LayoutError("the installed torch was built without CUDA: take device='cpu'")
    if gpus >= world:
        return Place("cuda", backend or "nccl", world)
    if nccl:
        raise LayoutError(
            f"{world} ranks on CUDA need {world} GPUs for nccl, which takes one rank on each, and this "
            f"machine shows {gpus}: take backend='gloo', by which ranks share them, or device='cpu'"
        )
    return Place("cuda", backend or "gloo", gpus, shared=True)


def attached_gpus() -> int:
    """NVIDIA GPUs of this machine that `CUDA_VISIBLE_DEVICES` leaves visible."""
    count = _device_nodes() or _listed_by_driver()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return count
    names = [name.strip() for name in visible.split(",")]
    # CUDA stops at the first entry it does not know; -1 is the usual way to hide the rest.
    known = names[: next((i for i, name in enumerate(names) if name in ("", "-1")), len(names))]
    return min(count, len(known))


def torch_has_cuda() -> bool:
    """Whether the installed torch was built for CUDA, told from its files."""
    spec = importlib.util.find_spec("torch")
    places = (spec.submodule_search_locations if spec else None) or []
    return any(next((Path(place) / "lib").glob("*torch_cuda*"), None) is not None for place in places)


def _device_nodes() -> int:
    dev = Path("/dev")
    if not dev.is_dir():
        return 0
    return sum(re.fullmatch(r"nvidia\d+", node.name) is not None for node in dev.glob("nvidia*"))


def _listed_by_driver() -> int:
    command = shutil.which("nvidia-smi")
    if command is None:
        return 0
    listing = subprocess.run([command, "-L"], capture_output=True, text=True, timeout=20, check=False)
    return sum(line.startswith("GPU ") for line in listing.stdout.splitlines())
