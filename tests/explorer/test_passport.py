"""What a passport says of a checkpoint, as rows of words."""

import sys
from dataclasses import replace

import pytest
import torch

import ckptlab
from ckptlab.explorer import passport
from ckptlab.storage import open_checkpoint


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    path = tmp_path_factory.mktemp("home-of-ada") / "step-1"
    objects = {
        "step": 3,
        "lr": 0.5,
        "on": True,
        "big": 1 << 200,
        "word": "hush",
        "list": [7, 8],
        "none": None,
    }
    weights = {"w": torch.ones(8, 4), "v": torch.ones(8, 4), "h": torch.ones(3, dtype=torch.bfloat16)}
    ckptlab.save({"model": weights, "extra": objects}, path, no_dist=True)
    return open_checkpoint(path)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/home/ada/runs/step-1000", "step-1000"),
        ("/home/ada/runs/step-1000/", "step-1000"),
        ("runs/..", "runs"),
        ("s3://key:word@bucket/run/step-7/?token=secret#x", "step-7"),
        ("s3://key:word@bucket", "bucket"),
        ("C:\\Users\\ada\\step-3", "step-3"),
        ("/", "checkpoint"),
        (".", "checkpoint"),
    ],
)
def test_of_a_path_only_the_last_name_is_told(path, name):
    assert passport.directory_name(path) == name


def test_facts_and_totals(opened):
    told = dict(passport.facts(opened))
    assert told["format"] == "dcp, saved by ckptlab"
    assert (told["tensors"], told["elements"], told["objects"]) == ("3", "67", "7")
    assert told["bytes"] == "262 B (262)"
    assert told["written by"] == "rank 0"
    dtypes, shapes, left = passport.totals(opened.metadata)
    assert dtypes == [("float32", "2", "256 B"), ("bfloat16", "1", "6 B")]
    assert shapes == [("float32", "8 x 4", "2", "256 B"), ("bfloat16", "3", "1", "6 B")]
    assert left == 0


def test_objects_by_type_and_size_and_by_value_only_numbers(opened):
    said = {key.rpartition(".")[2]: passport.object_words(opened, key) for key in opened.metadata.objects}
    assert said["step"] == "int 3"
    assert said["lr"] == "float 0.5"
    assert said["on"] == "bool True"
    assert said["big"] == "int of 201 bits"
    assert said["word"] == "str of 4"
    assert said["list"] == "list of 2"
    assert said["none"] == "NoneType"


def test_an_object_of_another_class_is_named_and_a_large_one_is_not_read(tmp_path):
    ckptlab.save({"odd": complex(1, 2), "large": "a" * (passport.MOST + 1)}, tmp_path / "c", no_dist=True)
    opened = open_checkpoint(tmp_path / "c")
    assert passport.object_words(opened, "large") == "object, not read"
    assert passport.object_words(opened, "odd").startswith("object with ")
    (tmp_path / "c" / "__0_0.distcp").unlink()
    said = passport.object_words(open_checkpoint(tmp_path / "c"), "odd")
    assert said.startswith("unreadable: ")
    assert str(tmp_path) not in said


def test_a_mesh_recorded_is_told_as_recorded_and_else_as_inferred(opened):
    how, lines = passport.mesh(opened.metadata)
    assert how.startswith("not recorded; inferred")
    assert lines[0].startswith("Mesh(rank=1), possible")
    layout = ckptlab.Layout.parse("replicate=2, shard=2", "Replicate, Shard(0)")
    layouts = {"model.w": layout, "model.v": layout}
    how, lines = passport.mesh(replace(opened.metadata, layouts=layouts))
    assert how == "recorded by the writer"
    assert lines == [f"{layout!r} for 2 tensors"]


def test_what_verify_would_read(opened):
    stored = int(opened.metadata.chunks.length.sum())
    stored += sum(extent.length for extent in opened.metadata.objects.values())
    first, second = passport.verifying(opened)
    assert f"({stored:,} bytes): 3 chunks and 7 objects, in 1 file." in first
    assert "checksum stored with it" in second
    assert "stores no checksums" in passport.verifying(replace(opened, format="safetensors"))[1]
    assert passport.verifying(opened, 2)[-1] == "Of these, 2 files cannot be read whole as things stand."


def test_the_environment_is_versions():
    told = dict(passport.environment())
    assert told["python"] == sys.version.split()[0]
    assert told["torch"] == torch.__version__
    assert told["ckptlab"][0].isdigit()


def test_long_words_are_cut_with_their_length():
    assert passport.clip("a" * 300) == "a" * 300
    assert passport.clip("a" * 1000) == "a" * 280 + "… (1,000 letters)"
