"""The rooms of the house: who may import whom, and by which door each outside library enters."""

import ast
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent / "ckptlab"

ROOMS = [
    ("errors", "events"),
    ("layout",),
    ("metadata",),
    ("plan",),
    ("storage",),
    ("engine",),
    ("explorer",),
    ("doctor",),
    ("live",),
    ("widgets",),
    ("dcp",),
    ("lessons",),
    ("cli",),
]
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}

DOORS = {
    "torch": ("engine/", "live/", "dcp/", "lessons/"),
    "torch.distributed": (
        "engine/ranks.py",
        "engine/state.py",
        "engine/held.py",
        "engine/made.py",
        "live/",
        "dcp/",
        "lessons/",
    ),
    "pickle": ("storage/torch_save.py", "engine/ranks.py", "live/"),
    "isal": ("storage/",),
    "fsspec": ("storage/remote.py",),
    "multiprocessing": ("live/",),
    "subprocess": ("live/",),
    "ipyparallel": ("live/",),
    "ipywidgets": ("widgets/", "lessons/ask.py", "lessons/steps.py"),
    "anywidget": ("widgets/",),
    "traitlets": ("widgets/",),
    "matplotlib": ("widgets/",),
    "typer": ("cli/",),
    "rich": ("cli/",),
}
ANYWHERE = {"numpy", "ml_dtypes"}
NOT_THE_EXPLORER = {"ckptlab.engine", "ckptlab.storage.files"}


def imports(source):
    """Every module that a source imports, lazily or for types too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def violations(path, source):
    """What a file at `path`, relative to the house, imports against the rules."""
    room = path.removesuffix(".py").split("/")[0]
    found = []
    for module in set(imports(source)):
        head, *rest = module.split(".")
        if head == "ckptlab":
            target = rest[0] if rest else None
            if target in LEVEL and room in LEVEL and (LEVEL[target] > LEVEL[room]):
                found.append(f"{path} imports {module}, which is below it")
            if room == "explorer" and module.startswith(tuple(NOT_THE_EXPLORER)):
                found.append(f"{path} imports {module}: the explorer knows no torch and no files")
            continue
        for library, doors in DOORS.items():
            if (module == library or module.startswith(library + ".")) and not path.startswith(doors):
                found.append(f"{path} imports {module}, whose doors are {doors}")
        known = head in DOORS or head in ANYWHERE or head in STDLIB
        if not known:
            found.append(f"{path} imports {module}, which has no door")
    return found


def stdlib():
    import sys

    return set(sys.stdlib_module_names)


STDLIB = stdlib()
FILES = sorted(str(p.relative_to(HOUSE)) for p in HOUSE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES)
def test_a_file_imports_only_what_it_may(path):
    if path == "__init__.py":
        return
    assert violations(path, (HOUSE / path).read_text()) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("plan/x.py", "import torch"),
        ("plan/x.py", "from ckptlab.engine import save"),
        ("layout/x.py", "def f():\n    from ckptlab.metadata import Tensor"),
        ("explorer/x.py", "import matplotlib.pyplot"),
        ("explorer/x.py", "from ckptlab import engine"),
        ("storage/x.py", "import pickle"),
        ("storage/x.py", "from fsspec.core import url_to_fs"),
        ("engine/transfer.py", "import torch.distributed as dist"),
        ("widgets/x.py", "import requests"),
        ("widgets/x.py", "from ckptlab.cli import main"),
        ("dcp/x.py", "from ckptlab.lessons import ask"),
    ],
)
def test_a_planted_violation_is_found(path, source):
    assert violations(path, source)


def test_every_room_is_known():
    there = {
        p.stem for p in HOUSE.iterdir() if (p.suffix == ".py" or p.is_dir()) and not p.name.startswith("_")
    }
    assert there - {"py", "notebooks"} == set(LEVEL)
