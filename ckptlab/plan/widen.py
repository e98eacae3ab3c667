"""Which dtypes hold all values of which others.

It knows no tensor and no checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping

_FLOATS: Mapping[str, tuple[int, int, int]] = {
    "float8_e4m3fn": (4, 3, 0),
    "float8_e4m3fnuz": (4, 3, 0),
    "float8_e5m2": (5, 2, 1),
    "float8_e5m2fnuz": (5, 2, 0),
    "float8_e8m0fnu": (8, 0, 0),
    "float16": (5, 10, 1),
    "bfloat16": (8, 7, 1),
    "float32": (8, 23, 1),
    "float64": (11, 52, 1),
}
"""Bits of exponent and of mantissa, and whether it has infinities."""
_COMPLEX = {"complex32": "float16", "complex64": "float32", "complex128": "float64"}


def widens(stored: str, wanted: str) -> bool:
    """Whether every value of dtype `stored` is one of dtype `wanted` too, so that a cast loses nothing.

    >>> widens("bfloat16", "float32"), widens("float32", "bfloat16"), widens("float16", "bfloat16")
    (True, False, False)
    >>> widens("int32", "float64"), widens("int64", "float64"), widens("bool", "uint8")
    (True, False, True)
    """
    if stored in (wanted, "bool"):
        # float8_e8m0fnu has powers of two, and no zero.
        return stored == wanted or wanted != "float8_e8m0fnu"
    if wanted in _COMPLEX:
        return widens(_COMPLEX.get(stored, stored), _COMPLEX[wanted])
    if stored in _FLOATS:
        # Those of 8 bits differ in what they do with the few values that they have.
        if stored.startswith("float8") and wanted.startswith("float8"):
            return False
        a, b = _FLOATS[stored], _FLOATS.get(wanted, (0, 0, 0))
        return all(x <= y for x, y in zip(a, b, strict=True))
    bits, sign = _integer(stored)
    if wanted in _FLOATS:
        exponent, mantissa, _ = _FLOATS[wanted]
        return 0 < bits - sign <= mantissa + 1 and bits - sign < 2 ** (exponent - 1)
    room, minus = _integer(wanted)
    return 0 < bits - sign <= room - minus and sign <= minus


def _integer(dtype: str) -> tuple[int, int]:
    """Bits, and how many of them are a sign; none for what is no integer."""
    unsigned = dtype.removeprefix("u")
    if not unsigned.startswith("int"):
        return 0, 0
    return int(unsigned.removeprefix("int")), int(unsigned == dtype)
