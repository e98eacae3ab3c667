import json

import numpy as np
import pytest
import scenes

from ckptlab.widgets.pack import ALIGN, pack


def column(place, data):
    """What the front end does with the place of a column."""
    kind, start, size, *count = place
    assert start % ALIGN == 0
    if kind == "text":
        return data[start : start + size].decode().split("\0") if count[0] else []
    return np.frombuffer(data, np.dtype(kind).newbyteorder("<"), size, start)


SCENES = {
    "hsdp": scenes.hsdp(),
    "tiles": scenes.tiles(256),
    "bars": scenes.bars(),
    "values": scenes.values([0, -1, 1023, 1 << 40, -(1 << 62)]),
    "nothing": scenes.nothing(),
}


@pytest.mark.parametrize("name", SCENES)
def test_every_mark_comes_back_from_the_columns(name):
    scene = SCENES[name]
    header, data = pack(scene)
    header = json.loads(json.dumps(header))  # it travels as JSON
    assert header["title"] == scene.title
    assert [(k["text"], k["colour"], k["style"]) for k in header["legend"]] == [
        (k.text, k.colour, k.style) for k in scene.legend
    ]
    for packed, panel in zip(header["panels"], scene.panels, strict=True):
        for word in ("name", "kind", "title", "caption", "width", "height", "rigid"):
            assert packed[word] == getattr(panel, word)
        assert [(n["x"], n["y"], n["text"], n["anchor"], n["turned"]) for n in packed["notes"]] == [
            (n.x, n.y, n.text, n.anchor, n.turned) for n in panel.notes
        ]
        for own in ("box", "colour", "style", "first", "ranks"):
            np.testing.assert_array_equal(column(packed[own], data), getattr(panel.marks, own).ravel())
        assert tuple(column(packed["labels"], data)) == panel.marks.labels


@pytest.mark.parametrize("name", SCENES)
def test_every_fact_comes_back_from_the_columns(name):
    header, data = pack(SCENES[name])
    for packed, panel in zip(header["panels"], SCENES[name].panels, strict=True):
        assert [f["label"] for f in packed["facts"]] == [f.label for f in panel.marks.facts]
        for seen, fact in zip(packed["facts"], panel.marks.facts, strict=True):
            values = column(seen["values"], data).reshape(len(panel.marks), seen["wide"])
            np.testing.assert_array_equal(values, fact.values.reshape(values.shape))
            assert tuple(column(seen["words"], data)) == fact.words
            assert seen["kind"] == fact.kind


def test_marks_are_no_json():
    """The header of many marks is hardly larger than that of few."""
    few, many = (len(json.dumps(pack(scenes.tiles(n))[0])) for n in (64, 16_384))
    assert many < few + 200


def test_numbers_travel_no_wider_than_they_must():
    (packed,) = pack(scenes.values([1, 127]))[0]["panels"]
    assert packed["facts"][0]["values"][0] == "int8"
    (packed,) = pack(scenes.values([1, 128]))[0]["panels"]
    assert packed["facts"][0]["values"][0] == "int16"
    (packed,) = pack(scenes.values([1, -(1 << 31) - 1]))[0]["panels"]
    assert packed["facts"][0]["values"][0] == "int64"


def test_texts_keep_empty_and_foreign_words():
    scene = scenes.values([1, 2, 3])
    header, data = pack(scene)
    words = header["panels"][0]["facts"][-1]["words"]
    assert column(words, data) == ["one", "zwei, ja", "trois: é"]
    assert column(["text", 0, 0, 1], b"") == [""]
    assert column(["text", 0, 0, 0], b"") == []
