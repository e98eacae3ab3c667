"""A bit is flipped and the crcs of zlib are compared: the place must come out."""

import random
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptlab.storage.bitflip import flipped_bit


@settings(max_examples=300, deadline=None)
@given(data=st.binary(min_size=1, max_size=300), at=st.integers(0, 10**6))
def test_the_place_of_any_flipped_bit(data, at):
    byte, bit = at // 8 % len(data), at % 8
    flipped = bytearray(data)
    flipped[byte] ^= 1 << bit
    assert flipped_bit(zlib.crc32(data) ^ zlib.crc32(flipped), len(data)) == (byte, bit)


@pytest.mark.parametrize("at", [0, 12_345_678, (16 << 20) - 1])
def test_in_megabytes(at):
    data = bytearray(16 << 20)
    before = zlib.crc32(data)
    data[at] ^= 0x20
    assert flipped_bit(before ^ zlib.crc32(data), len(data)) == (at, 5)


def test_other_damage_is_not_taken_for_a_bit():
    chance = random.Random(0)
    taken = 0
    for _ in range(200):
        data = chance.randbytes(1000)
        taken += flipped_bit(zlib.crc32(data) ^ zlib.crc32(chance.randbytes(1000)), 1000) is not None
    assert taken == 0
    assert flipped_bit(0, 1000) is None
    assert flipped_bit(1, 0) is None
    assert flipped_bit(1, 1 << 29) is None
