"""Data whose truth is known, shaped as effects are: skewed, in [0, 1], two levels. What `calibrate.py` counts on."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import xarray as xr

from nnblip import effects
from nnblip.results import VARIABLES

#: Means of examples: Beta(a, b), 0 for a share of the examples. Draws within: Beta of that mean and this concentration,
#: small ones giving draws near 0 or near 1.
SHAPES = {
    "symmetric": (4.0, 4.0, 0.0, 1.0),
    "skewed": (0.6, 3.0, 0.0, 1.0),
    "very skewed": (0.2, 2.0, 0.0, 1.0),
    "mostly none": (2.0, 3.0, 0.7, 1.0),
    "all or nothing": (0.4, 0.3, 0.0, 0.5),
}
#: Total effects of examples, in what is divided: least mean, Beta(a, b) beyond it, concentration of the draws.
TOTALS = {
    "strong": (0.3, 4.0, 4.0, 8.0),
    "near the threshold": (0.1, 1.0, 4.0, 1.0),
    "all or nothing": (0.1, 0.8, 0.5, 0.8),
}
#: Draws of one example.
DRAWS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "symmetric": lambda rng, shape: rng.beta(4, 4, shape),
    "skewed": lambda rng, shape: rng.beta(0.6, 3, shape),
    "very skewed": lambda rng, shape: rng.beta(0.2, 2, shape),
    "mostly none": lambda rng, shape: rng.beta(2, 3, shape) * (rng.random(shape) < 0.3),
    "all or nothing": lambda rng, shape: rng.beta(0.3, 0.3, shape),
}
MANY = 2_000_000


class Counted(NamedTuple):
    """How often intervals held the truth.

    Attributes:
        covered: share of the intervals that there were.
        none: share of the trials that had none, with a reason.
        width: median.
    """

    covered: float
    none: float
    width: float


def counted(found: xr.Dataset, truth: float | xr.DataArray) -> Counted:
    """Of `effects.interval`, every cell a trial."""
    there = found.low.notnull()
    held = ((found.low <= truth + 1e-9) & (found.high >= truth - 1e-9)).where(there)
    return Counted(float(held.mean()), float(1 - there.mean()), float((found.high - found.low).median()))


def two_levels(shape: str, examples: int, draws: int, trials: int, seed: int = 0) -> tuple[xr.DataArray, float]:
    """Numbers of a mean, (example, draw, trial), and the truth."""
    rng = np.random.default_rng(seed)
    a, b, none, k = SHAPES[shape]
    mean = rng.beta(a, b, (examples, 1, trials)) * (rng.random((examples, 1, trials)) >= none)
    safe = np.clip(mean, 1e-6, 1 - 1e-6)
    values = np.where(mean > 0, rng.beta(safe * k, (1 - safe) * k, (examples, draws, trials)), 0.0)
    return xr.DataArray(values, dims=("example", "draw", "trial")), (1 - none) * a / (a + b)


def one_example(shape: str, draws: int, trials: int, seed: int = 0) -> tuple[xr.DataArray, float]:
    """Draws of one example, (draw, trial), and their true mean."""
    function = DRAWS[shape]
    truth = float(function(np.random.default_rng(seed + 10**6), (MANY,)).mean())
    return xr.DataArray(function(np.random.default_rng(seed), (draws, trials)), dims=("draw", "trial")), truth


def shares(shape: str, examples: int, draws: int, trials: int, seed: int = 0) -> tuple[xr.DataTree, float, float]:
    """A result whose ν are trials, the true mean of the examples' relevances, and the true pooled relevance.

    A state brings back a share of each draw's total effect that is the larger the larger that is, so that a mean of
    ratios is no ratio of means.
    """
    rng = np.random.default_rng(seed)
    least, a, b, k = TOTALS[shape]

    def brought(mean: np.ndarray) -> np.ndarray:
        """E total² / E total of one example."""
        return (mean * k + 1) / (k + 1)

    many = least + (1 - least) * rng.beta(a, b, MANY)
    mean = least + (1 - least) * rng.beta(a, b, (examples, trials, 1))
    total = rng.beta(mean * k, (1 - mean) * k + 1e-9, (examples, trials, draws))
    own = rng.beta(0.5, 2, (examples, trials, 1))
    back = own * (0.5 + rng.random(total.shape)) * total**2
    truths = 0.2 * float(brought(many).mean()), 0.2 * float((many * brought(many)).mean() / many.mean())
    return as_result(total, back), *truths


def as_result(total: np.ndarray, back: np.ndarray) -> xr.DataTree:
    """A result of one state with these total and indirect effects, each (example, nu, draw)."""
    examples, nus, draws = total.shape

    def node(dims: tuple[str, ...], numbers: np.ndarray, **coords: object) -> xr.Dataset:
        return xr.Dataset(dict.fromkeys(VARIABLES, (dims, numbers)), coords)

    dims = ("example", "nu", "draw")
    root = xr.Dataset(
        coords={"example": np.arange(examples), "nu": np.arange(nus, dtype=float), "draw": np.arange(draws)}
    )
    state = node(
        (*dims, "kind", "layer", "token"),
        (1 - total + back)[..., None, None, None],
        kind=["block"],
        layer=[0],
        token=[0],
    )
    nodes = {
        "/clean": node(dims[:1], np.ones(examples)),
        "/corrupted": node(dims, 1 - total),
        "/question_encoder": state,
    }
    return xr.DataTree.from_dict({"/": root, **nodes})


def twice_resampled(data: xr.DataArray, resamples: int = 1000, seed: int = 0) -> xr.Dataset:
    """The naive two-level bootstrap, percentiles: examples, and within each its draws once more."""
    rng = np.random.default_rng(seed)
    values = data.transpose("example", "draw", "trial").values
    examples, draws, _ = values.shape
    chosen = rng.multinomial(examples, np.full(examples, 1 / examples), resamples)
    weights = np.zeros((resamples, examples, draws))
    for example in range(examples):  # an example that is drawn twice has other draws each time
        weights[:, example] = rng.multinomial(chosen[:, example] * draws, np.full(draws, 1 / draws))
    means = weights.reshape(resamples, -1) @ values.reshape(examples * draws, -1) / (examples * draws)
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    return xr.Dataset({"low": ("trial", low), "high": ("trial", high)})


def rejected(test: str, shape: str, sizes: tuple[int, int], trials: int, seed: int = 0) -> float:
    """How often a true null is rejected at 5 %: of "paired" or "groups", or of a "map" of 20 cells, any cell of it."""
    hits = 0
    cells = 20 if test == "map" else trials
    for trial in range(trials if test == "map" else 1):
        a, _ = two_levels(shape, sizes[0], 3, cells, seed=seed + 2 * trial)
        b, _ = two_levels(shape, sizes[1], 3, cells, seed=seed + 2 * trial + 1)
        if test == "map":  # neighbouring cells are alike
            a, b = (data + data.roll(trial=1) for data in (a, b))
        found = effects.compare(
            a, b, paired=test != "groups", correction="max" if test == "map" else "none", permutations=999, seed=trial
        )
        p = found.p_corrected
        hits += int((p <= 0.05).any()) if test == "map" else int((p <= 0.05).sum())
    return hits / trials
