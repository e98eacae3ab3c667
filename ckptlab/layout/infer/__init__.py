"""From the pieces that tensors were stored in, and who wrote each, back to the mesh that saved them.

It knows no file and no format.
"""

from ckptlab.layout.infer.answer import Candidate, Contradiction, Inference, infer
from ckptlab.layout.infer.pieces import Pieces

__all__ = ["Candidate", "Contradiction", "Inference", "Pieces", "infer"]
