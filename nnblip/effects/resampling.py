"""Bounds of means and of ratios of means, on plain arrays: what `intervals` and `comparisons` are made of.

Everything here is about Σ a / Σ b over independent units (examples, or draws of one example), for many cells at once.
A mean is the ratio whose b is 1, and 0 where a unit is unknown. Resamples are weights of the units, so that all cells
of all resamples are a few matrix products: `weights @ a`, (resample, unit) @ (unit, cell).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from nnblip.effects.numbers import half_width

Array = NDArray[np.float64]
#: Cells that are resampled at once: with 2,000 resamples their arrays take 16 MB each.
CELLS = 1024
#: So many times as far as the farthest unit lies from the mean, over the number of units, one that was not drawn may
#: lie beyond it; and so far, over the root of their number, in the unit of the numbers, where these are probabilities.
#: Found by simulation and on real draws, see the calibration page of the documentation.
REACH, LEAST = 16.0, 0.4
#: Stands for infinity, with which quantiles cannot be interpolated.
FAR = 1e150


def estimate(a: Array, b: Array) -> Array:
    """Σ a / Σ b over the units, (cell); NaN where Σ b is 0.

    Args:
        a, b: (unit, cell), both 0 where a unit is unknown.
    """
    total = b.sum(0)
    return a.sum(0) / np.where(total != 0, total, np.nan)


def student(a: Array, b: Array, level: float) -> tuple[Array, Array]:
    """Student's interval; of a ratio that of its linear part (Taylor)."""
    ratio = estimate(a, b)
    count = (b != 0).sum(0)
    spread = np.sqrt(((a - ratio * b) ** 2).sum(0) * count / np.maximum(count - 1, 1))
    half = half_width(spread * np.sqrt(count) / np.where(b.sum(0) != 0, b.sum(0), np.nan), count, level)
    return ratio - half, ratio + half


def percentile_t(a: Array, b: Array, level: float, resamples: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Bootstrap-t (Efron 1981): the units are resampled, and each resample is held against its own standard error.

    Infinite where too many resamples have no spread at all: a few units decide.
    """
    units = len(a)
    counts = rng.multinomial(units, np.full(units, 1 / units), resamples).astype(float)
    ratio = estimate(a, b)
    z = a - ratio * b
    total = counts @ b
    with np.errstate(divide="ignore", invalid="ignore"):
        moved = (counts @ z) / total  # of a resample's ratio, from the ratio
        error = _root(counts @ z**2 - 2 * moved * (counts @ (z * b)) + moved**2 * (counts @ b**2), z) / np.abs(total)
        t = np.where(error > 0, moved / error, np.sign(moved) * FAR)
    t = np.where(total != 0, t, 0.0)
    low, high = _quantiles(t, level)
    own = np.sqrt((z**2).sum(0)) / np.where(b.sum(0) != 0, np.abs(b.sum(0)), np.nan)
    return _far(ratio - high * own), _far(ratio - low * own)


def bca(a: Array, b: Array, level: float, resamples: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Bias-corrected and accelerated percentiles (Efron 1987)."""
    from scipy.special import ndtr, ndtri

    units = len(a)
    counts = rng.multinomial(units, np.full(units, 1 / units), resamples).astype(float)
    ratio = estimate(a, b)
    z = np.nan_to_num(a - ratio * b)
    with np.errstate(divide="ignore", invalid="ignore"):
        moved = np.nan_to_num((counts @ z) / (counts @ b))
    moved.sort(0)
    below = (moved < 0).mean(0) + 0.5 * (moved == 0).mean(0)
    bias = ndtri(np.clip(below, 1 / resamples, 1 - 1 / resamples))
    skew = (z**3).sum(0) / (6 * np.maximum((z**2).sum(0), 1e-180) ** 1.5)
    bounds = []
    for tail in ((1 - level) / 2, (1 + level) / 2):
        at = bias + ndtri(tail)
        rank = np.clip(ndtr(bias + at / (1 - skew * at)) * resamples, 0, resamples - 1).astype(int)
        bounds.append(ratio + np.take_along_axis(moved, rank[None], 0)[0])
    return bounds[0], bounds[1]


def beyond(
    a: Array,
    b: Array,
    level: float,
    resamples: int,
    rng: np.random.Generator,
    least: float = 0.0,
    support: tuple[float, float] | None = None,
) -> tuple[Array, Array]:
    """For few units of a skewed, bounded quantity: weights at random, with one unit more that was not drawn.

    The bound of Gaffke (2005; Learned-Miller and Thomas 2020) for a mean on a known range: the upper bound is a high
    quantile of Σ wᵢ aᵢ + w₀ · (end of the range), with weights uniform on the simplex. It holds for whatever lies
    in the range, and is as wide with draws that hardly differ. So the unit that was not drawn is put at most
    `REACH` / n times as far beyond the farthest one as that lies from the mean, or `least` / √n if that is more,
    within the range.

    Args:
        least: in the unit of a; `LEAST` of probabilities and their differences.
        support: the range of the numbers whose mean is taken; None if it is not known, or of a ratio.
    """
    ratio, n = estimate(a, b), np.maximum((b != 0).sum(0), 1)
    z = a - ratio * b
    weights = rng.dirichlet(np.ones(len(a) + 1), resamples)
    known, spare = weights[:, :-1], weights[:, -1:]
    base, total = known @ z, known @ b + spare * (b.sum(0) / n)
    bounds = []
    for sign, tail in ((-1, (1 - level) / 2), (1, (1 + level) / 2)):
        farthest = (sign * z).max(0)
        unseen = farthest + np.maximum(REACH / n * farthest, least / np.sqrt(n))
        if support is not None:
            unseen = np.minimum(unseen, np.maximum(sign * (support[sign > 0] - ratio), farthest))
        with np.errstate(invalid="ignore"):
            moved = np.quantile((base + spare * sign * unseen) / total, tail, axis=0)
        bounds.append(ratio + np.where(np.ptp(z, axis=0) > 0, moved, 0))  # units that are all alike are no sample
    return bounds[0], bounds[1]


def alike(a: Array, b: Array) -> NDArray[np.bool_]:
    """Of which cells all units are alike but for rounding: no sample to tell from how others would be."""
    z = np.nan_to_num(a - estimate(a, b) * b)
    return np.asarray(np.abs(z).max(0, initial=0) <= 1e-9 * np.abs(a).max(0, initial=0))


def in_blocks(bounds: Callable[[slice], tuple[Array, Array]], cells: int) -> tuple[Array, Array]:
    """Bounds of all cells, a block of them at a time, so that the resamples of all are never there together."""
    low, high = np.empty(cells), np.empty(cells)
    for start in range(0, cells, CELLS):
        block = slice(start, start + CELLS)
        low[block], high[block] = bounds(block)
    return low, high


def unbiased_ratio(a: Array, b: Array) -> Array:
    """Beale's (1962) estimator of the ratio of two means over draws, (..., draw): without the bias of order 1 / draws.

    A mean over many examples of ratios over few draws would keep that bias, however many examples there are.
    """
    known = ~(np.isnan(a) | np.isnan(b))
    n = known.sum(-1)
    a, b = (np.where(known, one, 0.0) for one in (a, b))
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_a, mean_b = a.sum(-1) / n, b.sum(-1) / n
        cross = (a * b).sum(-1) / n - mean_a * mean_b
        square = (b * b).sum(-1) / n - mean_b**2
        of_mean = np.maximum(n - 1, 1) * mean_b**2
        return (mean_a / mean_b + cross / of_mean) / (1 + square / of_mean)


def _root(squares: Array, z: Array) -> Array:
    """The square root, 0 where the number is nothing but rounding."""
    return np.sqrt(np.where(squares > 1e-20 * (z**2).sum(0), squares, 0.0))


def _quantiles(values: Array, level: float) -> Array:
    return np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0)


def _far(bound: Array) -> Array:
    return np.where(np.abs(bound) < FAR * 1e-50, bound, np.where(np.isnan(bound), np.nan, np.copysign(np.inf, bound)))
