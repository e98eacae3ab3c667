"""What a pickle asks for, against what unpicklers really ask for; nothing that they see goes unseen here."""

import datetime
import io
import pathlib
import pickle
import random
from collections import OrderedDict
from fractions import Fraction

import numpy as np
import pytest
from hostile import ATTEMPTS

from ckptlab.storage.asks import follow


class Stand:
    """Takes the place of whatever a pickle asks for."""

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass

    def __setitem__(self, key, value):
        pass

    append = extend = add = update = __init__


def asked(data, unpickler):
    """The names that an unpickler asks for, and whether it came to the end; it is given no real one."""
    names = []

    class Recording(unpickler):
        def find_class(self, module, name):
            names.append((module, name))
            return type(name.replace("\0", ""), (Stand,), {})

        def persistent_load(self, pid):
            return pid

    try:
        Recording(io.BytesIO(data)).load()
    except Exception:
        return names, False
    return names, True


VALUE = {
    "date": datetime.date(2020, 1, 2),
    "path": pathlib.PurePosixPath("a/b"),
    "ordered": OrderedDict(x=1, y=[Fraction(1, 3), Fraction(2, 3)]),
    "array": np.arange(5.0),
    "plain": [1, 2**70, -5, 1.5, None, True, "ü", b"bytes", (1,), (1, 2, 3, 4), {1, 2}, frozenset([3]), {}],
}


@pytest.mark.parametrize("protocol", range(6))
def test_names_are_those_that_are_asked_for(protocol):
    data = pickle.dumps(VALUE, protocol)
    names, whole = asked(data, pickle.Unpickler)
    found = follow(data + b"trailing")
    assert whole
    assert list(found.names) == list(dict.fromkeys(names))
    assert (found.whole, found.odd, found.outside, found.end) == (True, [], False, len(data))


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_attempts(attempt, tmp_path):
    data = ATTEMPTS[attempt](str(tmp_path / "canary"))
    names, _ = asked(data, pickle.Unpickler)
    found = follow(data)
    assert set(names) <= set(found.names)
    assert found.names or found.odd
    assert not (tmp_path / "canary").exists()


def test_one_after_the_other():
    data = b"".join(pickle.dumps(value) for value in (1, Fraction(1, 2), [2]))
    at, names = 0, []
    for _ in range(3):
        found = follow(data, at)
        names, at = [*names, *found.names], found.end
    assert names == [("fractions", "Fraction")]
    assert at == len(data)


def test_constants_that_are_wanted():
    data = pickle.dumps([b"\x80inner", "\x80spelled", "other", b"x", "€"])
    assert follow(data, keep=lambda c: c[:1] == b"\x80").constants == [b"\x80inner", b"\x80spelled"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x80\x04N\x8c\x01x\x93.", "worked out"),
        (b"\x80\x04\x8c\x02os(\x8c\x06system\x93.", "worked out"),
        (b"\x80\x04]\x93.", "cannot be followed"),
        (b"\x80\x04h\x05.", "cannot be followed"),
        (b"\x80\x04(0.", "cannot be followed"),
        (b"\x80\x04(a.", "cannot be followed"),
        (b"\x80\x04", "cannot be followed"),
        (b"", "cannot be followed"),
        (b"\xff\xff", "cannot be followed"),
        (b"cos\xff\nsystem\n.", "cannot be followed"),
    ],
)
def test_what_cannot_be_followed_is_said(data, words):
    assert any(words in odd for odd in follow(data).odd)


def test_no_damage_makes_a_name_go_unseen():
    """Pickles with bytes changed, taken out and put in: whatever unpicklers ask for is seen, or it is odd."""
    dice = random.Random(5)
    seeds = [pickle.dumps(VALUE, protocol) for protocol in range(6)]
    seeds += [ATTEMPTS[attempt]("x") for attempt in ATTEMPTS]
    asked_for = 0
    for _ in range(1500):
        data = bytearray(dice.choice(seeds))
        for _ in range(dice.randint(1, 4)):
            at = dice.randrange(len(data))
            match dice.randrange(4):
                case 0:
                    data[at] = dice.randrange(256)
                case 1:
                    del data[at : at + dice.randint(1, 4)]
                case 2:
                    data[at:at] = dice.choice(seeds)[: dice.randint(1, 30)]
                case 3:
                    data[at:at] = bytes([dice.choice(b"cio\x93\x94Rhq(0212Qu}].NT\x8c")])
            data = data or bytearray(b".")
        found = follow(bytes(data))
        # The one in C takes memory for the highest number that a value is given.
        unpicklers = [pickle._Unpickler] + (
            [pickle.Unpickler] if b"r" not in data and b"p" not in data else []
        )
        for unpickler in unpicklers:
            names, whole = asked(bytes(data), unpickler)
            asked_for += len(names)
            assert found.odd or set(names) <= set(found.names), bytes(data)
            assert found.odd or found.whole or not whole, bytes(data)
    assert asked_for > 1000
