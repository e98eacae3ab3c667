from itertools import combinations

import pytest

from ckptlab.explorer.scene import NEUTRAL
from ckptlab.widgets.palette import CATEGORIES, CYCLE, colour, ink


def light(shade):
    parts = [int(shade[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(k * c for k, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(a, b):
    low, high = sorted((light(a), light(b)))
    return (high + 0.05) / (low + 0.05)


def test_categories_beyond_the_last_start_again():
    assert len(set(CYCLE)) == len(CYCLE) == 3 * len(CATEGORIES)
    assert colour(len(CYCLE) + 5) == colour(5) == CATEGORIES[5]


def test_nobodys_colour_is_grey_and_follows_the_theme():
    bright, dim = colour(NEUTRAL), colour(NEUTRAL, dark=True)
    assert bright != dim
    assert all(c[1:3] == c[3:5] == c[5:7] for c in (bright, dim))


@pytest.mark.parametrize("shade", CYCLE)
def test_labels_read_on_every_fill(shade):
    assert contrast(shade, ink(shade)) >= 4.5


@pytest.mark.parametrize("shade", CATEGORIES)
def test_categories_stand_out_from_dark_paper(shade):
    assert contrast(shade, "#111111") > 2


def test_categories_differ_by_more_than_a_shade():
    def apart(a, b):
        return sum(abs(int(a[i : i + 2], 16) - int(b[i : i + 2], 16)) for i in (1, 3, 5))

    assert min(apart(a, b) for a, b in combinations(CATEGORIES, 2)) > 75
