"""What stands round the elements in safetensors files: headers, names of parts, the index.

It makes bytes and names, and knows no torch and no file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from ckptlab.errors import CheckpointError
from ckptlab.metadata import Tensor
from ckptlab.storage.safetensors import DTYPES, SINGLE_FILE, SUFFIX

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_ORDER = {dtype: i for i, dtype in enumerate(DTYPES.values())}
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
          "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}  # fmt: skip
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]I?B|B|)\s*", re.IGNORECASE)


def unfit(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors of a dtype that the format has no name for."""
    return [tensor for tensor in tensors if tensor.dtype not in _NAMES]


def write_header(tensors: Sequence[Tensor], notes: Mapping[str, str]) -> tuple[bytes, list[Tensor]]:
    """What a file begins with, and the tensors in the order in which their elements follow it.

    The same bytes as the safetensors library writes: large elements first, so that each tensor is aligned,
    and a header padded to 8 bytes.
    """
    ordered = sorted(tensors, key=lambda tensor: (_ORDER[tensor.dtype], tensor.fqn.encode()))
    top: dict[str, object] = {"__metadata__": dict(sorted(notes.items()))} if notes else {}
    end = 0
    for tensor in ordered:
        places = [end, end + tensor.nbytes]
        top[tensor.fqn] = {"dtype": _NAMES[tensor.dtype], "shape": tensor.shape, "data_offsets": places}
        end = places[1]
    text = json.dumps(top, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, ordered


def split(tensors: Sequence[Tensor], most: int) -> list[list[Tensor]]:
    """The tensors in parts of at most `most` bytes, in their order; a larger tensor is a part of its own."""
    parts: list[list[Tensor]] = [[]]
    nbytes = 0
    for tensor in tensors:
        if parts[-1] and nbytes + tensor.nbytes > most:
            parts.append([])
            nbytes = 0
        parts[-1].append(tensor)
        nbytes += tensor.nbytes
    return parts


def part_names(n: int, generation: str) -> list[str]:
    """File names of `n` parts, as HuggingFace calls them; a later `generation` has names of its own."""
    if n == 1:
        return [SINGLE_FILE]
    stem = f"model-{generation}" if generation else "model"
    return [f"{stem}-{i:05d}-of-{n:05d}{SUFFIX}" for i in range(1, n + 1)]


def write_index(parts: Mapping[str, Sequence[Tensor]]) -> bytes:
    """The index of parts by file name."""
    listed = {tensor.fqn: name for name, tensors in parts.items() for tensor in tensors}
    total = sum(tensor.nbytes for tensors in parts.values() for tensor in tensors)
    top = {"metadata": {"total_size": total}, "weight_map": dict(sorted(listed.items()))}
    return (json.dumps(top, indent=2, ensure_ascii=False) + "\n").encode()


def parse_size(size: int | str) -> int:
    """Bytes, from a number or words such as `5GB` (powers of 1000), `500 MiB` (of 1024) or `1000`.

    `CheckpointError` for anything else, and for less than a byte.
    """
    found = _SIZE.fullmatch(str(size))
    nbytes = int(float(found[1]) * _UNITS[found[2].upper().removeprefix("B")]) if found else 0
    if nbytes < 1:
        raise CheckpointError(f"{size!r} is no size; write bytes as a number, or words such as '5GB'", [size])
    return nbytes
