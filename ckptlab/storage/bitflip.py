"""Which one flipped bit turned a checksum into another: a crc32 tells not only that, but where.

A crc is linear: a flipped bit changes it by a number that depends on the bit's place alone, x to
the power of its distance from the end. Finding the place is a discrete logarithm, done in
about the square root of the length. It knows no file and no checkpoint.
"""

from __future__ import annotations

import math

_POLYNOMIAL = 0xEDB88320
_FIELD = (1 << 32) - 1
"""So many bits in a row change a crc32 by different numbers."""


def flipped_bit(difference: int, length: int) -> tuple[int, int] | None:
    """The byte and the bit of it (0 is the lowest) whose flip changes the crc32 of `length` bytes so.

    `difference` is one crc xor the other. None if no single bit does, or more than one may. Where more
    was changed than a bit, some bit fits by chance in one of `2**32 / (8 * length)` cases.

    >>> import zlib
    >>> one, other = b"a checkpoint", b"a cheakpoint"
    >>> flipped_bit(zlib.crc32(one) ^ zlib.crc32(other), len(one))
    (5, 1)
    """
    bits = 8 * length
    if not 0 < bits < _FIELD or not difference:
        return None
    small = math.isqrt(bits) + 1
    steps: dict[int, int] = {}
    number = _POLYNOMIAL
    for power in range(small):
        steps.setdefault(number, power)
        number = _times_x(number)
    back = _multiplier(_power_of_x(_FIELD - small))
    for giant in range(small + 1):
        power = steps.get(difference, -1) + giant * small
        if difference in steps and power < bits:
            place = bits - 1 - power
            return place // 8, place % 8
        difference = (
            back[0][difference & 255]
            ^ back[1][difference >> 8 & 255]
            ^ back[2][difference >> 16 & 255]
            ^ back[3][difference >> 24]
        )
    return None


def _times_x(number: int) -> int:
    return number >> 1 ^ (_POLYNOMIAL if number & 1 else 0)


def _times(one: int, other: int) -> int:
    """The product in the field that the polynomial makes; the highest bit stands for 1."""
    product = 0
    for bit in range(31, -1, -1):
        if one >> bit & 1:
            product ^= other
        other = _times_x(other)
    return product


def _power_of_x(power: int) -> int:
    result, square = 1 << 31, 1 << 30
    while power:
        if power & 1:
            result = _times(result, square)
        square, power = _times(square, square), power >> 1
    return result


def _multiplier(factor: int) -> list[list[int]]:
    """Products with a factor, by each byte of the other."""
    return [[_times(byte << shift, factor) for byte in range(256)] for shift in (0, 8, 16, 24)]
