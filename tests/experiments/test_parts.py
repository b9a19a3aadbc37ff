"""Thirds of layers, and shares that have intervals."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from nnblip.errors import ModelError
from nnblip.experiments.numbers import SHARE, mean
from nnblip.experiments.parts import cuts, share, shares, thirds


def array(values: object) -> xr.DataArray:
    return xr.DataArray(np.asarray(values, float), dims=("example", "layer")[: np.ndim(values)])


def test_thirds_have_all_layers_once_and_the_middle_what_is_left_over():
    assert {name: list(part) for name, part in thirds(12).items()} == {
        "early": [0, 1, 2, 3], "middle": [4, 5, 6, 7], "later": [8, 9, 10, 11],
    }  # fmt: skip
    assert [len(part) for part in thirds(4).values()] == [1, 2, 1]
    assert [layer for part in thirds(11).values() for layer in part] == list(range(11))
    with pytest.raises(ModelError, match="2 layers: expected at least 3"):
        thirds(2)


def test_cuts_are_each_layer_and_all_on_one_side_of_it():
    found = cuts(thirds(4))
    spans = {name: list(one.layers) for name, one in found.items()}
    assert spans["alone", 2] == [2] and spans["up to", 2] == [0, 1, 2] and spans["from", 2] == [2, 3]
    assert spans["middle", 0] == [1, 2] and spans["all", 0] == spans["up to", 3] == spans["from", 0] == [0, 1, 2, 3]


def test_the_mean_of_shares_is_the_ratio_of_means_and_their_spread_that_of_the_jackknife():
    rng = np.random.default_rng(0)
    whole = array(rng.uniform(0.2, 1, 40))
    part = array(np.stack([0.3 * whole.values + rng.normal(0, 0.1, 40), rng.normal(0, 0.1, 40)], 1))
    found = shares(part, whole)
    assert found.mean("example").values == pytest.approx(part.values.mean(0) / whole.values.mean(), abs=1e-12)
    for layer in range(2):
        a, b = part.values[:, layer], whole.values
        left_out = np.array([np.delete(a, i).mean() / np.delete(b, i).mean() for i in range(40)])
        jackknife = np.sqrt(39 / 40 * ((left_out - left_out.mean()) ** 2).sum())
        assert found.values[:, layer].std(ddof=1) / np.sqrt(40) == pytest.approx(jackknife, rel=0.02)


def test_next_to_nothing_is_not_divided_by():
    assert np.isnan(shares(array([0.01, 0.02]), array([0.04, 0.05]))).all()
    assert not np.isnan(shares(array([0.01, 0.02]), array([0.05, 0.06]))).any()


def test_an_example_without_a_part_does_not_count_in_the_whole():
    found = shares(array([0.5, np.nan, 0.1]), array([1.0, 9.0, 1.0]))
    assert found.mean().item() == pytest.approx(0.3) and np.isnan(found.values[1])


def test_what_is_exactly_nothing_or_all_of_it_is_known_without_an_interval():
    for number in (0.0, 1.0):
        found = share(array([number] * 9))
        assert (found.value, found.low, found.high, found.units) == (number, number, number, 9)
    alike = share(array([0.5] * 9))
    assert np.isnan(alike.low) and "alike" in alike.reason, "of others it says nothing"
    varied = array(np.linspace(0, 1, 12))
    assert share(varied) == mean(varied, SHARE)
