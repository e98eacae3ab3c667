"""How many GPUs a rank could be given, found without importing torch or touching CUDA.

A process that forks ranks must not start CUDA, and torch's own count can do so.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path


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
