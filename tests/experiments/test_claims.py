"""Holds, fails, not established: of numbers of which the truth is known."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from nnblip.experiments import claims
from nnblip.experiments.claims import FAILS, HOLDS, OPEN, Verdict
from nnblip.experiments.numbers import Mean, by_image, compared, intervals_are, mean

UP, DOWN, WIDE = (
    Mean(v, low, high, 12, "") for v, low, high in ((0.2, 0.1, 0.3), (-0.2, -0.3, -0.1), (0.1, -0.1, 0.3))
)
NONE = Mean(0.4, np.nan, np.nan, 3, "too few examples: at least 8")


def test_a_limit_must_be_outside_of_the_whole_interval():
    assert [claims.above(one, 0, "x").said for one in (UP, DOWN, WIDE, NONE)] == [HOLDS, FAILS, OPEN, OPEN]
    assert [claims.below(one, 0, "x").said for one in (UP, DOWN, WIDE, NONE)] == [FAILS, HOLDS, OPEN, OPEN]
    assert claims.above(UP, 0.15, "share").said == OPEN and claims.above(UP, 0.3, "share").said == OPEN
    assert claims.above(UP, 0.5, "share") == Verdict(FAILS, "share: +0.200 [+0.100, +0.300], n = 12 (limit 0.5)")
    assert claims.above(NONE, 0, "share").because == "share: +0.400, n = 3 (too few)"


def test_everywhere_is_in_each_group():
    parts = {one: claims.above(value, 0, "x") for one, value in (("a", UP), ("b", UP), ("c", WIDE), ("d", DOWN))}
    first = dict(list(parts.items())[:2])
    assert claims.everywhere(first) == Verdict(HOLDS, "holds for a and b")
    assert claims.everywhere({**first, "c": parts["c"]}).said == OPEN
    assert claims.everywhere(parts) == Verdict(FAILS, "holds for a and b; not established for c; fails for d")
    assert claims.everywhere({}).said == OPEN
    assert claims.of_several(5) == pytest.approx(0.99)


def test_holm_is_holm():
    assert claims.holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert claims.holm({"a": 0.02, "b": np.nan}) == pytest.approx({"a": 0.04, "b": 1.0})


def groups(shift: float, n: int = 12, seed: int = 0) -> tuple[xr.DataArray, xr.DataArray]:
    """Two of eight cells each; the second has more in cell 3."""
    rng = np.random.default_rng(seed)
    one, other = (xr.DataArray(0.1 * rng.normal(size=(n, 8)), dims=("example", "layer")) for _ in range(2))
    other[:, 3] += shift
    return one, other


def test_a_difference_is_found_where_there_is_one_and_never_shown_to_be_none():
    found = {"pair": compared(*groups(0.5), False)}
    verdict = claims.differ(found, "pairs")
    assert verdict.said == HOLDS and verdict.because.startswith("1 of 1 pairs differ somewhere")
    none = {f"pair {seed}": compared(*groups(0.0, seed=seed), False) for seed in range(4)}
    assert claims.differ(none, "pairs").said == OPEN, "a test that finds nothing shows nothing"
    assert claims.differ({}, "pairs").said == OPEN
    few = {"pair": compared(*groups(0.5, n=2), False)}
    assert claims.differ(few, "pairs").said == OPEN


def test_alike_needs_every_interval_within_the_margin():
    small, large = (compared(*groups(shift), False) for shift in (0.0, 0.5))
    assert claims.alike(small, 0.3, "x").said == HOLDS
    assert claims.alike(small, 0.05, "x").said == OPEN
    failed = claims.alike(large, 0.2, "x")
    assert failed.said == FAILS and f"{large.difference[3].item():+.3f}" in failed.because
    assert claims.alike(compared(*groups(0.0, n=4), False), 0.3, "x").said == OPEN


def test_means_are_said_with_their_interval_or_why_there_is_none():
    values = xr.DataArray(np.linspace(0.2, 0.6, 9), dims="example")
    found = mean(values)
    assert found.value == pytest.approx(0.4) and found.low < found.value < found.high and found.units == 9
    assert str(found) == f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}], n = 9"
    assert str(mean(values[:5])) == "+0.300, n = 5 (too few)" and mean(values[:5]).bare == "+0.300 (too few)"
    assert "none" in str(mean(values * np.nan)) and mean(values * np.nan).bare == ""
    draws = values.expand_dims(draw=3) + xr.DataArray([-0.1, 0.0, 0.1], dims="draw")
    assert mean(draws) == pytest.approx(found), "draws of an example are averaged first"
    sure = xr.DataArray(np.linspace(0.99, 1.0, 9), dims="example")
    assert mean(sure, (0, 1)).high <= 1, "no probability above 1"
    assert "fewer than 8" in intervals_are() and "fewer than 10" in intervals_are(one=True)


def test_examples_that_share_an_image_are_one_unit():
    values = xr.DataArray([0.0, 1.0, 4.0], {"example": ["a", "b", "c"]}, ("example",))
    image = xr.DataArray(["x", "x", "y"], dims="example")
    assert by_image(values, image).values.tolist() == [0.5, 4.0]
    apart = xr.DataArray(["x", "y", "z"], dims="example")
    assert by_image(values, apart) is values
