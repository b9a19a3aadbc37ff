"""Data whose truth is known, shaped as effects are: skewed, in [0, 1], two levels; and how often the intervals and
tests of `nnblip.effects` say what is true of them. For `calibrate.py` and for the tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

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
#: So many numbers say what the truth is where no formula does, and so many trials are looked at together.
MANY, TOGETHER = 2_000_000, 1000


class Counted(NamedTuple):
    """How often intervals held the truth.

    Attributes:
        covered: share of the intervals that there were, NaN if there was none.
        none: share of the trials that had none, with a reason.
        width: median, NaN likewise.
    """

    covered: float
    none: float
    width: float


def counted(found: Any, truth: Any) -> Counted:
    """Of a Dataset with `low` and `high`, every cell of which is a trial."""
    there = found.low.notnull()
    held = ((found.low <= truth + 1e-9) & (found.high >= truth - 1e-9)).where(there)
    return Counted(float(held.mean()), float(1 - there.mean()), float((found.high - found.low).median()))


def together(parts: Iterable[Counted]) -> Counted:
    """Of several counts with as many trials each."""
    parts = list(parts)
    there = np.array([1 - part.none for part in parts])
    covered = np.nansum([part.covered * share for part, share in zip(parts, there, strict=True)])
    if not there.any():
        return Counted(np.nan, 1.0, np.nan)
    return Counted(float(covered / there.sum()), float(1 - there.mean()), float(np.nanmedian([p.width for p in parts])))


def _in_parts(trials: int, count: Callable[[int, int], Counted]) -> Counted:
    """`count(trials, seed)` again and again: what is resampled differs too."""
    return together(count(min(TOGETHER, trials), seed) for seed in range(-(-trials // TOGETHER)))


def means(shape: str, size: tuple[int, int], trials: int, method: str | None = None) -> Counted:
    """Of means over so many examples and draws; the method "twice" resamples draws too."""

    def count(some: int, seed: int) -> Counted:
        data, truth = two_levels(shape, *size, some, seed)
        found = twice_resampled(data) if method == "twice" else effects.interval(data, method=method, seed=seed)
        return counted(found, truth)

    return _in_parts(trials, count)


def ratios(shape: str, size: tuple[int, int], trials: int, pooled: bool) -> Counted:
    """Of relevance over examples."""

    def count(some: int, seed: int) -> Counted:
        tree, *truths = shares(shape, *size, some, seed)
        found = effects.interval(tree, "relevance", pooled=pooled, seed=seed)
        return counted(found["question_encoder"].to_dataset(), truths[pooled])

    return _in_parts(trials, count)


def singles(shape: str, draws: int, trials: int, method: str | None = None) -> Counted:
    """Of means over the draws of one example."""
    truth = float(DRAWS[shape](np.random.default_rng(10**6), (MANY,)).mean())

    def count(some: int, seed: int) -> Counted:
        data = xr.DataArray(DRAWS[shape](np.random.default_rng(seed), (draws, some)), dims=("draw", "trial"))
        return counted(effects.interval(data, method=method, seed=seed), truth)

    return _in_parts(trials, count)


def rejected(test: str, shape: str, sizes: tuple[int, int], trials: int) -> float:
    """How often a true null is rejected at 5 %: of "paired" or "groups", or of a "map" of 20 cells, any cell of it."""
    hits, mapped = 0, test == "map"
    cells = 20 if mapped else min(trials, TOGETHER)
    parts = trials if mapped else -(-trials // TOGETHER)
    for part in range(parts):
        a, b = (two_levels(shape, sizes[k], 3, cells, seed=2 * part + k)[0] for k in range(2))
        if mapped:  # neighbouring cells are alike
            a, b = (data + data.roll(trial=1) for data in (a, b))
        correction = "max" if mapped else "none"
        found: Any = effects.compare(
            a, b, paired=test != "groups", correction=correction, permutations=999, resamples=100, seed=part
        )
        p = found.p_corrected <= 0.05
        hits += int(p.any() if mapped else p.sum())
    return hits / (trials if mapped else parts * cells)


def two_levels(shape: str, examples: int, draws: int, trials: int, seed: int = 0) -> tuple[xr.DataArray, float]:
    """Numbers whose mean is taken, (example, draw, trial), and the truth."""
    rng = np.random.default_rng(seed)
    a, b, none, k = SHAPES[shape]
    mean = rng.beta(a, b, (examples, 1, trials)) * (rng.random((examples, 1, trials)) >= none)
    safe = np.clip(mean, 1e-6, 1 - 1e-6)
    values = np.where(mean > 0, rng.beta(safe * k, (1 - safe) * k, (examples, draws, trials)), 0.0)
    return xr.DataArray(values, dims=("example", "draw", "trial")), (1 - none) * a / (a + b)


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

    many = least + (1 - least) * np.random.default_rng(10**6).beta(a, b, MANY)
    mean = least + (1 - least) * rng.beta(a, b, (examples, trials, 1))
    total = rng.beta(mean * k, (1 - mean) * k + 1e-9, (examples, trials, draws))
    own = rng.beta(0.5, 2, (examples, trials, 1))
    back = own * (0.5 + rng.random(total.shape)) * total**2
    truths = 0.2 * float(brought(many).mean()), 0.2 * float((many * brought(many)).mean() / many.mean())
    return as_result(total, back), *truths


def as_result(total: np.ndarray, back: np.ndarray) -> xr.DataTree:
    """A result with these total and indirect effects.

    Args:
        total: (example, nu, draw).
        back: the same of one state, or (example, nu, draw, layer, token).
    """
    examples, nus, draws = total.shape
    states = (back if back.ndim == 5 else back[..., None, None])[:, :, :, None]
    layers, tokens = states.shape[-2:]

    def node(dims: tuple[str, ...], numbers: np.ndarray, **coords: object) -> xr.Dataset:
        return xr.Dataset(dict.fromkeys(VARIABLES, (dims, numbers)), coords)

    dims = ("example", "nu", "draw")
    axes = {"example": np.arange(examples), "nu": np.arange(nus, dtype=float), "draw": np.arange(draws)}
    restored = 1 - total[..., None, None, None] + states
    places = dict(kind=["block"], layer=np.arange(layers), token=np.arange(tokens))
    nodes = {
        "/": xr.Dataset(coords=axes),
        "/clean": node(dims[:1], np.ones(examples)),
        "/corrupted": node(dims, 1 - total),
        "/question_encoder": node((*dims, "kind", "layer", "token"), restored, **places),
    }
    return xr.DataTree.from_dict(nodes)


def twice_resampled(data: xr.DataArray, resamples: int = 1000, seed: int = 0) -> xr.Dataset:
    """The naive two-level bootstrap, percentiles: examples, and within each its draws once more."""
    rng = np.random.default_rng(seed)
    values = data.transpose("example", "draw", "trial").values
    examples, draws, _ = values.shape
    chosen = rng.multinomial(examples, np.full(examples, 1 / examples), resamples)
    weights = np.zeros((resamples, examples, draws))
    for example in range(examples):  # an example that is drawn twice has other draws each time
        weights[:, example] = rng.multinomial(chosen[:, example] * draws, np.full(draws, 1 / draws))
    found = weights.reshape(resamples, -1) @ values.reshape(examples * draws, -1) / (examples * draws)
    low, high = np.quantile(found, [0.025, 0.975], axis=0)
    return xr.Dataset({"low": ("trial", low), "high": ("trial", high)})
