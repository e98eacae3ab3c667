"""safetensors and torch.save files: what stock torch's ranks wrote, and loads onto every kind of mesh."""

import pytest
import torch
from format_ops import SOURCES, load_onto, save_pieces, whole_state
from safetensors.torch import load_file, save_file
from tensors import as_bytes, same_bits

from ckptlab.storage import open_checkpoint
from ckptlab.storage.convert import convert

TARGETS = ["rows", "columns", "hsdp", "tiles", "fsdp_tp"]


def test_what_each_rank_of_torch_s_writer_left(tmp_path, ranks4):
    ranks4.run(save_pieces, str(tmp_path / "pieces"))
    whole = whole_state()
    checkpoint = open_checkpoint(tmp_path / "pieces")
    assert checkpoint.metadata.writers == (0, 1, 2, 3)
    assert len(checkpoint.metadata.chunks) > 2 * len(whole)
    assert {fqn: checkpoint[fqn].shape for fqn in checkpoint} == {k: tuple(v.shape) for k, v in whole.items()}
    for fqn, value in whole.items():
        assert checkpoint[fqn].numpy().tobytes() == as_bytes(value), fqn
    convert(tmp_path / "pieces", tmp_path / "one.safetensors")
    assert same_bits(load_file(tmp_path / "one.safetensors"), whole)
    everyone_has(ranks4.run(load_onto, str(tmp_path / "pieces"), TARGETS), len(whole))


@pytest.mark.parametrize("format", ["safetensors", "torch"])
def test_one_file_onto_every_mesh(tmp_path, ranks4, format):
    whole = whole_state()
    (torch.save if format == "torch" else save_file)(whole, tmp_path / "m")
    everyone_has(ranks4.run(load_onto, str(tmp_path / "m"), TARGETS), len(whole))


def everyone_has(out, tensors):
    assert len(SOURCES) == 8
    for rank, found in enumerate(out):
        for target, (compared, nbytes, verified, different) in found.items():
            assert compared.different == (), f"rank {rank} under {target}"
            assert compared.tensors == tensors
            assert nbytes == compared.elements * 4, f"rank {rank} under {target} read more than it holds"
            assert (verified, different) == (compared.elements, ())
