"""The transform as a value: printed, saved, read again, put together; every wrong entry named at once."""

import json
import pickle
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transforms import random_case

from ckptlab.errors import LayoutError
from ckptlab.plan.transform import Part, Transform

MENDED = Transform(
    rename=[[r"^module\.", ""]],
    parts={
        "head": Part("emb"),
        "qkv": [Part("q", into=[[0, 4], [0, 2]]), Part("kv", [[2, 6], [0, 2]], [[4, 8], [0, 2]])],
        "gate": (Part("up", stored=((0, 8),), shape=(4, 2), dims=(1, 0)),),
    },
    leave=["lora_*"],
    drop=["*._extra_state"],
    dtype="widen",
)

SHOWN = """\
Transform
  rename  '^module\\\\.' -> ''
  parts   head
            emb
          qkv
            q, into [0:4, 0:2]
            kv, [2:6, 0:2], into [4:8, 0:2]
          gate
            up, as 4 x 2, dims (1, 0), [0:8]
  leave   lora_*
  drop    *._extra_state
  dtype   widen"""

WRITTEN = """\
{
  "ckptlab_transform": 1,
  "rename": [
    ["^module\\\\.", ""]
  ],
  "parts": {
    "head": ["emb"],
    "qkv": [
      {"fqn": "q", "into": [[0, 4], [0, 2]]},
      {"fqn": "kv", "stored": [[2, 6], [0, 2]], "into": [[4, 8], [0, 2]]}
    ],
    "gate": [{"fqn": "up", "stored": [[0, 8]], "shape": [4, 2], "dims": [1, 0]}]
  },
  "leave": [
    "lora_*"
  ],
  "drop": [
    "*._extra_state"
  ],
  "dtype": "widen"
}
"""


def test_it_is_shown_and_written_as_people_read_it(tmp_path):
    assert str(MENDED) == SHOWN
    MENDED.save(tmp_path / "mend.json")
    assert (tmp_path / "mend.json").read_text() == WRITTEN
    assert Transform.read(tmp_path / "mend.json") == MENDED
    assert eval(repr(MENDED)) == MENDED
    assert pickle.loads(pickle.dumps(MENDED)) == MENDED
    assert str(Transform()) == "Transform (nothing changes)"


@settings(max_examples=50)
@given(st.integers(0, 2**32))
def test_any_part_comes_back_from_text(seed):
    transform = Transform(parts={"ü . \n'": random_case(Random(seed)).part})
    assert Transform.from_json(transform.to_json()) == transform == eval(repr(transform))


def test_two_together():
    one = Transform(rename=(("a", "b"),), parts={"x": Part("y")}, leave=("l",), dtype="widen")
    both = one | Transform(rename=(("c", "d"),), parts={"x": Part("y"), "z": Part("y")}, leave=("l", "m"))
    assert both == Transform(
        (("a", "b"), ("c", "d")), {"x": (Part("y"),), "z": (Part("y"),)}, ("l", "m"), (), "widen"
    )
    assert (Transform(dtype="exact") | Transform(dtype="narrow") | one).dtype == "narrow"
    with pytest.raises(LayoutError, match="both have parts for 'x', which differ"):
        one | Transform(parts={"x": Part("other")})


WRONG = {
    "rename": [["(", "a"], ["a", r"\2"], "x", [1, "a"]],
    "parts": {
        "p": [{"fqn": "", "stored": [[3, 1]], "dims": [0, 2]}],
        "q": [],
        "r": [3, {"fqn": "x", "boxes": 1, "into": [[0]], "shape": [-1]}],
        "s": [{"fqn": "x", "shape": [2], "dims": [1, 0]}],
    },
    "leave": "a*",
    "drop": ["", 3],
    "dtype": "float",
}
NAMED = [
    "rename: '(' -> 'a': missing ), unterminated subpattern at position 0",
    r"rename: 'a' -> '\\2': invalid group reference 2 at position 1",
    "rename: 'x' is not a pair of a pattern and its replacement",
    "rename: (1, 'a') is not a pair of a pattern and its replacement",
    "parts of 'p': fqn is '', not a name",
    "parts of 'p': stored has the range (3, 1), which ends before it begins",
    "parts of 'p': dims is (0, 2), not each dim from 0 on once",
    "parts of 'q': () is not one part or more",
    "parts of 'r': into is ((0,),), not a (start, stop) for each dim",
    "parts of 'r': shape is (-1,), not sizes",
    "parts of 's': dims (1, 0) are of 2 dims, shape (2,) is not",
    "leave is 'a*', not a list of patterns",
    "drop: '' is no pattern",
    "drop: 3 is no pattern",
    "dtype is 'float', not one of exact, widen, narrow",
]


def test_every_wrong_entry_is_named_at_once():
    parts = {
        fqn: [Part(**it) if isinstance(it, dict) and "boxes" not in it else it for it in those]
        for fqn, those in WRONG["parts"].items()
    }
    parts["r"] = [3, Part("x", into=[[0]], shape=[-1])]
    with pytest.raises(LayoutError, match="this transform: 16 wrong entries:") as caught:
        Transform(**{**WRONG, "parts": parts})
    assert list(caught.value.problems) == [*NAMED[:8], "parts of 'r': 3 is no part", *NAMED[8:]]


def test_every_wrong_entry_of_a_file_is_named_at_once(tmp_path):
    text = json.dumps({"ckptlab_transform": 1, "moves": [], **WRONG})
    (tmp_path / "mend.json").write_text(text)
    with pytest.raises(LayoutError, match=r"mend\.json: 18 wrong entries:") as caught:
        Transform.read(tmp_path / "mend.json")
    assert sorted(caught.value.problems) == sorted(
        [
            *NAMED,
            "'moves' is unknown; it may be drop, dtype, leave, parts, rename",
            "parts of 'r': 3 is no part",
            "parts of 'r': 'boxes' is unknown; it may be dims, fqn, into, shape, stored",
        ]
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "mend.json is no JSON: "),
        ("[]", 'mend.json is no transform: it lacks "ckptlab_transform": 1'),
        ('{"ckptlab_transform": 2}', 'it lacks "ckptlab_transform": 1'),
    ],
)
def test_what_is_no_transform_is_refused(tmp_path, text, why):
    (tmp_path / "mend.json").write_text(text)
    with pytest.raises(LayoutError, match=why):
        Transform.read(tmp_path / "mend.json")


def test_a_name_alone_may_be_written_without_a_list():
    assert Transform.from_json('{"ckptlab_transform": 1, "parts": {"head": "emb"}}') == Transform(
        parts={"head": Part("emb")}
    )
