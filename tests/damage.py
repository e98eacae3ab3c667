"""Checkpoints to be damaged, and the deeds, for the tests of what verifies them."""

from __future__ import annotations

import os

import torch
import torch.distributed.checkpoint as stock
from crosswise_ops import LAYOUTS

from ckptlab import save
from ckptlab.storage import open_checkpoint

SAVERS = ["ours", "stock"]
IN_ONE_PIECE = [name for name in LAYOUTS if name != "stripes"]
STATE = {
    "model": {"w": torch.arange(6000.0).reshape(100, 60), "b": torch.ones(7, dtype=torch.bfloat16)},
    "step": 7,
    "history": [0.25, (1, "two")],
}


def alone(saver, state, path):
    """Saved by this process alone."""
    if saver == "ours":
        save(state, path, no_dist=True)
    else:
        stock.save(state, checkpoint_id=path, no_dist=True)


def place(path, fqn):
    """The file, start and length of a key with one chunk."""
    metadata = open_checkpoint(path).metadata
    if fqn in metadata.objects:
        extent = metadata.objects[fqn]
        return path / metadata.files[extent.file], extent.start, extent.length
    row = int(metadata.chunks.first[metadata.rows[fqn]])
    chunks = metadata.chunks
    return path / metadata.files[chunks.file[row]], int(chunks.start[row]), int(chunks.length[row])


def put(file, data):
    """Other bytes in a file, as if they had always been there: its time stays."""
    then = file.stat().st_mtime
    file.write_bytes(data)
    os.utime(file, (then, then))


def flip(file, at):
    data = bytearray(file.read_bytes())
    data[at] ^= 4
    put(file, data)


def whats(found):
    return [(f.severity, f.what) for f in found.findings]
