"""The strongest of many is measured on other examples than those that chose it."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from nnblip import effects
from nnblip.errors import ResultError

DIMS = ("layer", "role")


def noise(seed: int, n: int = 16) -> xr.DataArray:
    rng = np.random.default_rng(seed)
    return xr.DataArray(rng.normal(size=(n, 5, 6)), {"role": list("abcdef")}, ("example", *DIMS))


def test_of_noise_the_strongest_is_not_strong():
    naive, fair = [], []
    for seed in range(60):
        values = noise(seed)
        naive.append(values.mean("example").max().item())
        fair.append(effects.picked(values, DIMS).values.mean().item())
    error = np.std(fair) / np.sqrt(len(fair))
    assert np.mean(naive) > 0.4, "the largest of thirty means of noise is large"
    assert abs(np.mean(fair)) < 3 * error < 0.2


def test_one_that_is_there_is_found_by_both_halves_and_measured_in_every_example():
    values = noise(0) * 0.1
    values[:, 2, 4] += 1
    found = effects.picked(values, DIMS)
    assert found.cells == [(2, "e")]
    assert found.values.values == pytest.approx(values[:, 2, 4].values)
    draws = values.expand_dims(draw=2) + xr.DataArray([-1.0, 1.0], dims="draw")
    assert effects.picked(draws, DIMS).values.values == pytest.approx(found.values.values)


def test_each_half_chooses_and_the_other_is_measured():
    values = noise(1) * 0.0
    values[0::2, 0, 0], values[1::2, 1, 1] = 1, 2  # what one half has, the other has not
    found = effects.picked(values, DIMS)
    assert found.cells == [(0, "a"), (1, "b")] and (found.values == 0).all()


def test_a_cell_that_few_examples_have_is_not_ranked():
    values = noise(2) * 0.1
    values[:, 3, 3] = np.nan
    values[[0, 1, 2, 3, 5, 7, 9], 3, 3] = 100  # seven; and of eight in one half
    assert (3, "d") not in effects.picked(values, DIMS).cells
    values[11, 3, 3] = 100
    assert (3, "d") not in effects.picked(values, DIMS).cells, "three of the first half"
    values[[4, 6], 3, 3] = 100
    found = effects.picked(values, DIMS)
    assert found.cells == [(3, "d")] and found.values.notnull().sum() == 10
    few = effects.picked(values[:7], DIMS)
    assert few.cells == [] and few.values.isnull().all()


def test_other_dimensions_are_refused():
    with pytest.raises(ResultError, match="expected example, layer"):
        effects.picked(noise(0), ("layer",))
