from itertools import combinations

import numpy as np
import pytest

from ckptlab.explorer.scene import NEUTRAL
from ckptlab.widgets.palette import CATEGORIES, CYCLE, colour, ink


def linear(shade):
    """Amounts of light, red, green and blue, of a colour of the screen."""
    parts = [int(shade[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return np.array([c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts])


def light(shade):
    return np.dot((0.2126, 0.7152, 0.0722), linear(shade))


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
def test_categories_stand_out_from_both_papers(shade):
    assert contrast(shade, "#111111") > 2
    assert contrast(shade, "#ffffff") > 1.4


# What is seen of linear red, green and blue where one kind of cone is lacking
# (Machado, Oliveira and Fernandes 2009, severity 1).
SIGHT = {
    "full": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
# To CIE XYZ, for the white of a screen.
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(linear):
    """CIE L*a*b*, in which a distance of about 2 can just be seen."""
    t = XYZ @ linear / (XYZ @ np.ones(3))
    x, y, z = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("sight", SIGHT)
def test_no_two_categories_look_alike(sight):
    seen = {shade: lab((SIGHT[sight] @ linear(shade)).clip(0, 1)) for shade in CATEGORIES}
    distance = {(a, b): np.linalg.norm(seen[a] - seen[b]) for a, b in combinations(CATEGORIES, 2)}
    nearest = min(distance, key=distance.get)
    assert distance[nearest] > 12, nearest
