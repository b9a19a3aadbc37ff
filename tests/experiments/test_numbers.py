"""Means of experiments: how often something is so."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy.stats import binom

from nnblip.experiments.numbers import bounds, mean


def of(*values: float) -> xr.DataArray:
    return xr.DataArray(list(values), dims="example")


def wilson(seen: int, count: int) -> tuple[float, float]:
    """By hand, of 95 %."""
    z, p = 1.959963984540054, seen / count
    middle, half = p + z**2 / (2 * count), z * np.sqrt(p * (1 - p) / count + z**2 / (4 * count**2))
    return (middle - half) / (1 + z**2 / count), (middle + half) / (1 + z**2 / count)


@pytest.mark.parametrize("seen", [0, 1, 5, 20])
def test_how_often_something_is_so_has_wilsons_interval(seen):
    found = mean(of(*np.arange(20) < seen), (0, 1))
    assert (found.low, found.high) == pytest.approx(wilson(seen, 20), abs=1e-12)
    assert found.value == seen / 20 and found.units == 20 and found.reason == ""


def test_other_numbers_and_too_few_have_not():
    other = of(*np.linspace(0, 1, 20))
    assert mean(other, (0, 1)).low != pytest.approx(wilson(10, 20)[0], abs=1e-3)
    assert np.isnan(mean(of(0, 1, 1), (0, 1)).low) and "few" in mean(of(0, 1, 1), (0, 1)).reason
    assert mean(of(*[0.0, 1.0] * 10)).low != pytest.approx(wilson(10, 20)[0], abs=1e-3), "a difference may be 1, too"
    two = xr.concat([other, of(*[1.0] * 20)], "layer").transpose("example", "layer")
    found = bounds(two, (0, 1))
    assert found.low.values[1] == pytest.approx(wilson(20, 20)[0]) and found.low.values[0] < 0.5
    some = of(*[1.0] * 10, np.nan)
    assert mean(some, (0, 1)).low == pytest.approx(wilson(10, 10)[0])


@pytest.mark.parametrize("truth", [0.05, 0.3, 0.9])
@pytest.mark.parametrize("count", [8, 24, 100])
def test_it_holds_what_it_says(truth, count):
    """Exactly, by all outcomes: on average over a range of truths around it; no single one falls far below."""
    bound = [mean(of(*np.arange(count) < seen), (0, 1)) for seen in range(count + 1)]
    every = np.clip(truth + np.linspace(-0.04, 0.04, 41), 0.01, 0.99)
    inside = [[one.low <= p <= one.high for one in bound] for p in every]
    holds = [(binom.pmf(np.arange(count + 1), count, p) * held).sum() for p, held in zip(every, inside, strict=True)]
    assert np.mean(holds) > 0.93 and np.min(holds) > 0.83
