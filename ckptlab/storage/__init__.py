"""Bytes and files: ranged reads, publishing in one step, and one codec for each format.

It knows no tensors, no ranks and no plans, and it runs nothing that a file asks it to run.
"""

from ckptlab.storage.checkpoint import Checkpoint, FileProblem, open_checkpoint

__all__ = ["Checkpoint", "FileProblem", "open_checkpoint"]
