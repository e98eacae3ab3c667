"""Metadata of checkpoints that nobody had to save, for tests of what is seen and planned."""

from ckptlab.layout import Layout
from ckptlab.metadata import Tensor
from ckptlab.plan.metadata_of import metadata_of

HSDP = Layout.parse("replicate=2, shard=2", "Replicate, Shard(0)")

TENSORS = (
    Tensor("model.embed.weight", "float32", (1003, 96)),
    Tensor("model.layers.0.norm.weight", "float32", (96,)),
    Tensor("model.layers.0.wq.weight", "bfloat16", (96, 96)),
    Tensor("model.layers.1.norm.weight", "float32", (96,)),
    Tensor("optimizer.step", "float32", ()),
)


def hsdp_metadata():
    return metadata_of(TENSORS, HSDP)
