"""Round numbers along an axis.

Arithmetic alone: it knows no scene.
"""

from __future__ import annotations

import math


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most `most` multiples of 1, 2 or 5 times a power of ten, from `low` to `high`.

    >>> ticks(-5.07, 4.83)
    [-4.0, -2.0, 0.0, 2.0, 4.0]
    """
    # Each is divided by itself, since the whole span may be beyond a float.
    rough = high / most - low / most
    if not (math.isfinite(rough) and rough > 1e-300):
        return [low] if low == high else [low, high]
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * times for times in (1, 2, 5, 10, 20) if power * times >= rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    if last - first + 1 > most:
        first, last, step = math.ceil(low / (2 * step)), math.floor(high / (2 * step)), 2 * step
    # A step of 0.1 is no binary fraction; the decimals that a person would write are.
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]
