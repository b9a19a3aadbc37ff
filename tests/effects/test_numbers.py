"""Statistics of plain arrays."""

import numpy as np
from scipy import stats

from nnblip.effects.numbers import group_intervals, half_width, mean_groups, mean_known

# --- numbers --------------------------------------------------------------------------------


def test_infinite_numbers_spoil_only_their_own_mean():
    values = np.array([[[-np.inf]], [[1.0]], [[3.0]]])
    found = mean_groups(values, np.array([[0], [1], [1]]), 3)[:, 0, 0]
    np.testing.assert_array_equal(found, [-np.inf, 2, np.nan])
    np.testing.assert_array_equal(mean_known(np.array([[1, np.nan], [np.nan, np.nan], [1, 3]]), 1), [1, np.nan, 2])


def test_half_width_is_students():
    assert np.isnan(half_width(1.0, [0, 1])).all()
    np.testing.assert_allclose(half_width(2.0, [2, 9], 0.9), stats.t.ppf(0.95, [1, 8]) * 2 / np.sqrt([2, 9]))


def test_groups_without_any_known_unit():
    mean, low, high, count = group_intervals(np.array([[np.nan], [1.0], [np.nan]]), np.array([1, 0, 1]), 2)
    np.testing.assert_array_equal(mean, [[1], [np.nan]])
    assert np.isnan(low).all() and np.isnan(high).all() and count.tolist() == [[1], [0]]
