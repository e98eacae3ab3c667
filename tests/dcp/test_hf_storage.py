"""Torch's storages of safetensors, driven by its own protocol; the same files through the engine."""

import json

import pytest
import torch
import torch.distributed.checkpoint as stock

import ckptlab.dcp as dcp

# Torch warns whenever it works without a process group.
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is ")
safetensors = pytest.importorskip("safetensors.torch")
STATE = {"w": torch.arange(6.0).reshape(2, 3), "v": torch.ones(3, dtype=torch.bfloat16)}


def blank():
    return {key: torch.zeros_like(value) for key, value in STATE.items()}


def same(target):
    return all(torch.equal(target[key], value) for key, value in STATE.items())


def test_they_are_torchs_own():
    assert dcp.HuggingFaceStorageWriter is stock.HuggingFaceStorageWriter
    assert dcp.hf_storage.HuggingFaceStorageReader is stock.HuggingFaceStorageReader
    assert dcp.quantized_hf_storage.QuantizedHuggingFaceStorageReader is dcp.QuantizedHuggingFaceStorageReader


def test_saved_and_loaded(tmp_path):
    dcp.save(STATE, storage_writer=dcp.HuggingFaceStorageWriter(path=str(tmp_path)))
    (name,) = tmp_path.glob("*.safetensors")
    assert same(safetensors.load_file(name))
    target = blank()
    dcp.load(target, storage_reader=dcp.HuggingFaceStorageReader(path=str(tmp_path)))
    assert same(target)


def test_what_is_not_there_is_told_as_elsewhere(tmp_path):
    safetensors.save_file(STATE, tmp_path / "model.safetensors")
    with pytest.raises(dcp.CheckpointException, match="Missing key in checkpoint state_dict: x"):
        dcp.load({"x": torch.zeros(2)}, storage_reader=dcp.HuggingFaceStorageReader(path=str(tmp_path)))


def test_quantized_weights(tmp_path):
    weight = torch.randint(1, 100, (4, 4)).to(torch.float8_e4m3fn)
    # Torch finds the scales by this name.
    scale = torch.tensor([[0.5, 2.0], [1.0, 4.0]])
    tensors = {"a.weight": weight, "a.weight_scale_inv": scale}
    safetensors.save_file(tensors, tmp_path / "model.safetensors")
    index = {"weight_map": dict.fromkeys(tensors, "model.safetensors")}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    target = {"a.weight": torch.zeros(4, 4)}
    reader = dcp.QuantizedHuggingFaceStorageReader(str(tmp_path), block_size=2)
    dcp.load(target, storage_reader=reader)
    expected = weight.float() * scale.repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert torch.equal(target["a.weight"], expected)


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
def test_a_path_of_such_files_needs_no_reader(tmp_path, name):
    if name.endswith(".pt"):
        torch.save(STATE, tmp_path / name)
    else:
        safetensors.save_file(STATE, tmp_path / name)
    target = blank()
    dcp.load(target, checkpoint_id=tmp_path / name)
    assert same(target)
