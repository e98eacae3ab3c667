"""Counting GPUs, and what ranks are offered of them, without any."""

import pytest

from ckptlab.live import gpus


@pytest.mark.parametrize(
    ("visible", "count"),
    [(None, 4), ("", 0), ("-1", 0), ("0", 1), ("0,2", 2), ("1,-1,2", 1), ("0,1,2,3,4,5", 4)],
)
def test_visible_devices_narrow_the_count(monkeypatch, visible, count):
    monkeypatch.setattr(gpus, "_device_nodes", lambda: 4)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus.attached_gpus() == count


def test_the_driver_is_asked_where_there_are_no_nodes(monkeypatch, tmp_path):
    listing = "GPU 0: NVIDIA (UUID: x)\n  MIG 1g Device 0:\nGPU 1: NVIDIA (UUID: y)\n"
    command = tmp_path / "nvidia-smi"
    command.write_text(f"#!/bin/sh\nprintf '%s' '{listing}'\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(gpus, "_device_nodes", lambda: 0)
    assert gpus.attached_gpus() == 2


def test_torch_is_told_from_its_files(monkeypatch, tmp_path):
    for name, expected in (("libtorch_cpu.so", False), ("libtorch_cuda.so", True)):
        (tmp_path / "torch" / "lib").mkdir(parents=True, exist_ok=True)
        (tmp_path / "torch" / "lib" / name).touch()
        spec = type("Spec", (), {"submodule_search_locations": [str(tmp_path / "torch")]})
        monkeypatch.setattr(gpus.importlib.util, "find_spec", lambda name, spec=spec: spec)
        assert gpus.torch_has_cuda() is expected


@pytest.mark.parametrize(
    ("attached", "offered"),
    [
        (0, ["CPU (gloo)"]),
        (1, ["CPU (gloo)", "1 GPU (shared, gloo)"]),
        (3, ["CPU (gloo)", "3 GPUs (shared, gloo)"]),
        (4, ["4 GPUs (nccl)", "CPU (gloo)"]),
        (8, ["4 GPUs (nccl)", "CPU (gloo)"]),
    ],
)
def test_what_four_ranks_are_offered_they_are_given(monkeypatch, attached, offered):
    monkeypatch.setattr(gpus, "attached_gpus", lambda: attached)
    monkeypatch.setattr(gpus, "torch_has_cuda", lambda: True)
    found = gpus.places(4)
    assert [str(one) for one in found] == offered
    assert [gpus.place(4, one.device, one.backend) for one in found] == list(found)
    assert gpus.place(4) == found[0]


def test_a_torch_without_cuda_offers_the_cpu(monkeypatch):
    monkeypatch.setattr(gpus, "attached_gpus", lambda: 4)
    monkeypatch.setattr(gpus, "torch_has_cuda", lambda: False)
    assert gpus.places(2) == (gpus.Place("cpu", "gloo"),)
