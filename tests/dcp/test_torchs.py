"""Submodules: torch's own where the house has none, and torch's names where a module of ours has none."""

import importlib
import pkgutil
import subprocess
import sys

import pytest
import torch.distributed.checkpoint as stock

import ckptlab.dcp as dcp

OURS = {
    "_fsspec_filesystem", "api", "default_planner", "filesystem", "format_utils", "optimizer",
    "state_dict_loader", "state_dict_saver",
}  # fmt: skip
THEIRS = sorted({module.name for module in pkgutil.iter_modules(stock.__path__)} - OURS)


@pytest.mark.parametrize("name", THEIRS)
def test_a_submodule_of_torch_is_the_very_same(name):
    theirs = importlib.import_module(f"torch.distributed.checkpoint.{name}")
    assert importlib.import_module(f"ckptlab.dcp.{name}") is theirs
    assert getattr(dcp, name) is theirs
    assert theirs.__name__ == theirs.__spec__.name == f"torch.distributed.checkpoint.{name}"


@pytest.mark.parametrize("name", sorted(OURS))
def test_a_submodule_of_ours_has_all_the_names_of_torchs(name):
    theirs = importlib.import_module(f"torch.distributed.checkpoint.{name}")
    ours = importlib.import_module(f"ckptlab.dcp.{name}")
    assert ours is not theirs
    for public in vars(theirs):
        if not public.startswith("__"):
            assert getattr(ours, public) is not None or getattr(theirs, public) is None


def test_a_module_within_a_package_of_torchs_is_the_same_too():
    from ckptlab.dcp._experimental import barriers
    from torch.distributed.checkpoint._experimental import barriers as theirs

    assert barriers is theirs


def test_every_public_name_is_there():
    names = {name for name in vars(stock) if not name.startswith("_")}
    assert [name for name in names if getattr(dcp, name, None) is None] == []


def test_what_neither_has_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'sav'"):
        _ = dcp.sav
    with pytest.raises(AttributeError, match="no attribute 'FileSystemWrite'"):
        _ = dcp.filesystem.FileSystemWrite
    with pytest.raises(ModuleNotFoundError, match=r"ckptlab\.dcp\.plan"):
        importlib.import_module("ckptlab.dcp.plan")


def test_a_submodule_can_be_the_first_import():
    code = (
        "from ckptlab.dcp.planner import SavePlan\n"
        "from torch.distributed.checkpoint import SavePlan as theirs\n"
        "assert theirs is SavePlan"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
