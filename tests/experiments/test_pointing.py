"""Maps against boxes: by hand, and against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import spearmanr

from nnblip import datasets
from nnblip.datasets import scenes
from nnblip.errors import InputError
from nnblip.examples import Example
from nnblip.experiments.pointing import correlation, coverage, pointed, regions


def asked(box, size=(80, 40)):
    return Example(Image.new("RGB", size), "what is it", "red", None, "e", extra={"box": box})


def test_a_box_covers_patches_by_its_share_of_their_area():
    # patches are 20 wide and 10 high: the box has all of one, half of the next, and a quarter below it
    found = coverage(asked("20,10,50,25"), 4)
    np.testing.assert_allclose(found, [[0, 0, 0, 0], [0, 1, 0.5, 0], [0, 0.5, 0.25, 0], [0, 0, 0, 0]])
    both = coverage(asked("20,10,50,25 0,0,20,10"), 4)
    np.testing.assert_allclose(both, found + np.eye(1, 16).reshape(4, 4))


def test_coverage_of_scenes_is_that_of_their_pixels():
    for example in list(datasets.generated_scenes(40, seed=77))[::7]:
        mask = np.zeros((scenes.SIZE, scenes.SIZE))
        for box in example.extra["box"].split():
            left, upper, right, lower = map(int, box.split(","))
            mask[upper:lower, left:right] = 1
        np.testing.assert_allclose(coverage(example, 8), mask.reshape(8, 8, 8, 8).mean((1, 3)), atol=1e-12)


@pytest.mark.parametrize("box", ["1,2,3", "a,b,c,d", "5,5,5,9", "9,1,2,3", "0,0,81,40"])
def test_a_box_that_is_none_is_told_of(box):
    with pytest.raises(
        InputError, match=r"of .e.: expected 'left,upper,right,lower' in pixels of a picture of 80 x 40"
    ):
        coverage(asked(box), 4)


@pytest.mark.parametrize("box", ["", None])
def test_a_map_is_held_against_a_box_only_where_there_is_one(box):
    with pytest.raises(InputError, match=r".e.: expected where what is asked about is"):
        coverage(asked(box), 4)


def test_pointing_by_hand():
    cover, truth = np.zeros((2, 2)), np.array([[4.0, 3.0], [2.0, 1.0]])
    cover[0] = 1, 0.5
    assert pointed(truth, cover, truth) == (1, pytest.approx((4 + 1.5) / 10), pytest.approx(1))
    assert pointed(-truth, cover, truth)[2] == pytest.approx(-1) and np.isnan(pointed(-truth, cover, truth)[:2]).all()
    miss = pointed(np.array([[-9.0, 1], [3, 0]]), cover, truth)
    assert miss[:2] == (0, pytest.approx(0.5 / 4)), "what is negative points at nothing"
    assert pointed(np.array([[2.0, 0], [2, 0]]), cover, truth)[0] == 0.5, "of two that are as strong one touches it"
    assert np.isnan(pointed(np.ones((2, 2)), cover, truth)[2])


@given(st.integers(0, 999), st.integers(2, 6))
def test_the_rank_correlation_is_scipys(seed, side):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 5, (2, side, side)).astype(float)  # with ties
    if np.ptp(a) and np.ptp(b):
        assert correlation(a, b) == pytest.approx(spearmanr(a.ravel(), b.ravel()).statistic)


@given(st.integers(0, 999))
def test_random_regions_are_as_large_and_touch_no_box(seed):
    rng = np.random.default_rng(seed)
    cover = np.zeros((8, 8))
    row, column = rng.integers(0, 6, 2)
    cover[row : row + 2, column : column + 3] = 0.5
    if seed % 2:
        cover[(row + 4) % 8, (column + 4) % 8] = 0.1  # a second object
    own, *others = regions(cover, 6, rng)
    assert own == np.flatnonzero(cover).tolist()
    assert others and len({tuple(one) for one in others}) == len(others) <= 6
    for other in others:
        assert len(other) == len(own) and not set(other) & set(own)
        if not seed % 2:
            moved = np.subtract(np.unravel_index(other, (8, 8)), np.unravel_index(own, (8, 8)))
            assert (moved == moved[:, :1]).all(), "the same shape"


def test_where_there_is_no_room_there_is_no_random_region():
    cover = np.zeros((4, 4))
    cover[:3] = 1
    assert len(regions(cover, 6, np.random.default_rng(0))) == 1
