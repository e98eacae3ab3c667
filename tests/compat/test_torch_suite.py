"""PyTorch's own tests of torch.distributed.checkpoint, with only the import changed.

They are not part of this project: CKPTLAB_TORCH_TESTS names the folder test/distributed/checkpoint of
pytorch's source, of the version that is installed or one near it. Every test that passes on torch
must pass on ckptlab; CKPTLAB_TORCH_FILES may choose some of its files.
"""

import os

import pytest
import torch_suite

FOLDER = os.environ.get("CKPTLAB_TORCH_TESTS")
CHOSEN = os.environ.get("CKPTLAB_TORCH_FILES", "").split()
NAMES = (CHOSEN or torch_suite.files(FOLDER)) if FOLDER else []

SMALL = """
import unittest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import Metadata


class TestSmall(unittest.TestCase):
    def test_passes_on_both(self):
        self.assertTrue(dcp.Metadata is Metadata)

    def test_passes_on_torch_alone(self):
        self.assertEqual(dcp.__name__, "torch.distributed." + "checkpoint")

    def test_fails_on_both(self):
        self.assertTrue(False)

    @unittest.skip("no such device")
    def test_is_skipped(self):
        pass
"""


@pytest.mark.skipif(not FOLDER, reason="CKPTLAB_TORCH_TESTS names no folder with PyTorch's own tests")
@pytest.mark.timeout(3 * torch_suite.SECONDS)
@pytest.mark.parametrize("name", NAMES or ["none"])
def test_what_passes_on_torch_passes_on_ckptlab(name):
    torchs, ours = torch_suite.compare(FOLDER, name)
    if "passed" not in torchs.values():
        pytest.skip(f"nothing of it passes on torch here: {set(torchs.values())}")
    assert torch_suite.lost(torchs, ours) == []


@pytest.mark.parametrize(
    ("source", "ours"),
    [
        ("import torch.distributed.checkpoint as dcp", "import ckptlab.dcp as dcp"),
        ("from torch.distributed.checkpoint.api import X", "from ckptlab.dcp.api import X"),
        ('patch("torch.distributed.checkpoint.metadata.X")', 'patch("ckptlab.dcp.metadata.X")'),
        (
            "from torch.testing._internal.distributed.checkpoint_utils import with_temp_dir",
            "from torch.testing._internal.distributed.checkpoint_utils import with_temp_dir",
        ),
        ("import torch.distributed as dist", "import torch.distributed as dist"),
    ],
)
def test_only_the_import_is_changed(source, ours):
    assert torch_suite.rewrite(source) == ours


def test_what_is_lost_is_found(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "test_small.py").write_text(SMALL)
    assert torch_suite.files(tmp_path) == ["sub/test_small.py"]
    torchs, ours = torch_suite.compare(tmp_path, "sub/test_small.py")
    tests = {
        name: f"sub/test_small.py::TestSmall::test_{name}" for name in ("passes_on_both", "fails_on_both")
    }
    assert torchs[tests["passes_on_both"]] == ours[tests["passes_on_both"]] == "passed"
    assert torchs[tests["fails_on_both"]] == "failure"
    assert list(torchs.values()).count("skipped") == 1
    (lost,) = torch_suite.lost(torchs, ours)
    assert lost == "sub/test_small.py::TestSmall::test_passes_on_torch_alone: failure"
