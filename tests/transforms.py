"""Random parts of transforms, with numpy's own answer to each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

import numpy as np

from ckptlab.plan.transform import Part


@dataclass(frozen=True)
class Case:
    """A part that goes from a stored tensor of one shape into a target of another."""

    part: Part
    stored: tuple[int, ...]
    target: tuple[int, ...]

    def applied(self, stored, target):
        """The target with the stored elements in it, by numpy's own indexing; a fresh array."""
        part, result = self.part, target.copy()
        seen = stored.reshape(part.shape if part.shape is not None else stored.shape)
        seen = seen if part.dims is None else seen.transpose(part.dims)
        taken = seen if part.stored is None else self._at(seen, part.stored)
        into = result if part.into is None else self._at(result, part.into)
        into[...] = taken.reshape(into.shape)
        return result

    @staticmethod
    def _at(array, ranges):
        if len(ranges) == 1 and array.ndim != 1:
            array = array.reshape(-1)
        return array[(*(slice(a, b) for a, b in ranges), ...)]


def random_case(random: Random) -> Case:
    """Any of all the kinds that a part can be."""
    stored = tuple(random.choice([1, 2, 3, 4, 6, 8]) for _ in range(random.randint(0, 3)))
    numel, shape, dims = math.prod(stored), None, None
    if random.random() < 0.4:
        shape = _regrouped(random, numel)
    seen = stored if shape is None else shape
    if random.random() < 0.4:
        dims = tuple(random.sample(range(len(seen)), len(seen)))
        seen = tuple(seen[d] for d in dims)
    ranges, cut = _taken(random, seen)
    inner = cut if random.random() < 0.5 else _merged_or_split(random, cut)
    into, target = _widened(random, inner)
    return Case(Part("s", ranges, into, shape, dims), stored, target)


def _regrouped(random, numel):
    """Any shape of so many elements."""
    sizes = []
    while numel > 1 and len(sizes) < 3 and random.random() < 0.8:
        sizes.append(random.choice([n for n in range(1, numel + 1) if numel % n == 0]))
        numel //= sizes[-1]
    return (*sizes, numel)


def _taken(random, shape):
    """Ranges of a tensor, or none; and the shape of what they cut out."""
    kind = random.choice(["all", "box", "flat"])
    if kind == "box":
        ranges = tuple(_range(random, n) for n in shape)
        return ranges, tuple(b - a for a, b in ranges)
    if kind == "flat":
        start, stop = _range(random, math.prod(shape))
        return ((start, stop),), (stop - start,)
    return None, shape


def _range(random, n):
    start = random.randrange(n)
    return start, random.randint(start + 1, n)


def _merged_or_split(random, shape):
    """The shape, some neighbours of its dims made one, or some of its dims made several."""
    if random.random() < 0.5:
        split = random.randrange(len(shape)) if shape else 0
        return (*shape[:split], *_regrouped(random, math.prod(shape[split : split + 1])), *shape[split + 1 :])
    sizes = []
    for n in shape:
        if sizes and random.random() < 0.5:
            sizes[-1] *= n
        else:
            sizes.append(n)
    return tuple(sizes)


def _widened(random, shape):
    """Where it goes in some target, and the target's shape."""
    kind = random.choice(["all", "box", "flat"])
    if kind == "box" and shape:
        more = {d: random.randint(0, 3) for d in random.sample(range(len(shape)), min(2, len(shape)))}
        before = [random.randint(0, more.get(d, 0)) for d in range(len(shape))]
        ranges = tuple((start, start + n) for start, n in zip(before, shape, strict=True))
        return ranges, tuple(n + more.get(d, 0) for d, n in enumerate(shape))
    if kind == "flat":
        numel = math.prod(shape)
        target = (random.randint(1, 4), random.randint(1, 5), -(-numel // 4))
        if math.prod(target) >= numel:
            start = random.randint(0, math.prod(target) - numel)
            return ((start, start + numel),), target
    return None, shape


def numbers(shape, first=1):
    """An array of this shape, no two elements alike."""
    return np.arange(first, first + math.prod(shape), dtype=np.float32).reshape(shape)
