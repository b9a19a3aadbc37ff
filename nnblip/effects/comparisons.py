"""Two results side by side: differences of means with intervals, permutation tests, corrections for many cells."""

from __future__ import annotations

from itertools import combinations, product
from math import comb
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.special import binom

from nnblip.effects.intervals import MIN_EXAMPLES
from nnblip.effects.resampling import FAR, Array, estimate, percentile_t
from nnblip.effects.shares import THRESHOLD
from nnblip.effects.units import Quantity, quantities, root_without
from nnblip.errors import ResultError, SettingError, one_of, whole
from nnblip.results import VARIABLES

CORRECTIONS = ("max", "holm", "benjamini-hochberg", "none")
#: Statistics that differ by less are the same but for rounding: a permutation counts itself.
SAME = 1e-9
#: Cells are tested so many at a time, for which the statistics of 10,000 permutations take 40 MB.
CELLS = 512


def compare(
    a: xr.DataTree | xr.DataArray,
    b: xr.DataTree | xr.DataArray,
    value: str | None = None,
    *,
    variable: str = VARIABLES[0],
    paired: bool | None = None,
    correction: str = "max",
    threshold: float = THRESHOLD,
    level: float = 0.95,
    permutations: int = 9999,
    resamples: int = 2000,
    seed: int = 0,
) -> xr.DataTree | xr.Dataset:
    """Whether two means over examples differ, cell by cell: types, noises, kinds, models.

    The test is a permutation test of a t statistic (for two groups Welch's, which holds for unequal variances too:
    Janssen 1997). Of the same examples, the signs of their differences are drawn anew (paired); of others, which
    example belongs where. All permutations are gone through where there are no more than `permutations`.

    Args:
        a, b: two results, trees of effects or averages by role; or two arrays with the dimension `example`. Draws are
            averaged within examples. What they have in common is compared: select one ν or kind of each to compare ν
            or kinds, `by_role` for questions of different words.
        value: of results "indirect_effect" (the default), "probability", "total_effect", "relevance" or "gamma".
        variable: by which of the three numbers.
        paired: whether the examples are the same; by default they are if their labels are.
        correction: for the many cells of each node: "max" (the largest statistic of all cells, Westfall and Young
            1993: no more than 5 % of such maps have any false finding), "holm" (the same promise), "benjamini-hochberg"
            (of what is found, no more than 5 % are expected to be false) or "none".
        threshold: as for `relevance`.
        level: of the intervals, which are not corrected.
        permutations, resamples: how many.
        seed: of both.

    Returns:
        A Dataset for arrays, else a tree of the nodes that both have, on the dimensions of a cell: `difference` (a −
        b), `low`, `high` (bootstrap-t; NaN with fewer than 8 examples), `p`, `p_corrected`, `effect_size` (Hedges' g:
        the difference in standard deviations, of the differences if paired) with `effect_low` and `effect_high`, and
        `units_a`, `units_b`, how many examples.

    Raises:
        NnblipError: for a setting that cannot be used, results without a cell in common, or `paired` left out where
            some but not all examples are the same.
    """
    one_of(correction, CORRECTIONS, "correction")
    permutations, resamples = whole(permutations, "permutations", 99), whole(resamples, "resamples", 100)
    if isinstance(level, bool) or not isinstance(level, (int, float)) or not 0 < level < 1:
        raise SettingError(f"level is {level!r}: expected a number between 0 and 1, such as 0.95.")
    if isinstance(a, xr.DataArray) != isinstance(b, xr.DataArray):
        raise SettingError("expected two results or two arrays, not one of each")
    first, second, paired = _matched(a, b, paired)
    one, other = (quantities(data, value, variable, threshold) for data in (first, second))
    nodes = {}
    for name in [name for name in one if name in other]:
        pair, coords = _aligned(one[name], other[name])
        columns = _compared(pair, paired, correction, level, permutations, resamples, seed)
        shape = pair[0].shape
        dims = pair[0].inner
        nodes[name] = xr.Dataset({key: (dims, column.reshape(shape)) for key, column in columns.items()}, coords)
    if not nodes:
        raise ResultError(
            f"nothing in common to compare: {', '.join(one) or 'nothing'} and {', '.join(other) or 'nothing'}"
        )
    said = {"paired": int(paired), "correction": correction, "level": level, "seed": seed}
    for node in nodes.values():
        node.attrs |= said
    if isinstance(a, xr.DataArray):
        return nodes[""]
    root = root_without(a, "example", "draw", "nu")
    return xr.DataTree.from_dict({"/": root.assign_attrs(said), **nodes})


def _matched(a: Any, b: Any, paired: bool | None) -> tuple[Any, Any, bool]:
    """Both with their examples in the same order if they are paired."""
    for data in (a, b):
        if "example" not in data.dims:
            raise ResultError("expected the dimension example in both: examples are what is permuted")
    labels: list[list[Any]] = [data["example"].values.tolist() if "example" in data.coords else [] for data in (a, b)]
    same = set(labels[0]) & set(labels[1])
    if paired is None and same and not set(labels[0]) == set(labels[1]):
        raise SettingError(
            f"paired: {len(same)} examples are in both, {len(labels[0])} and {len(labels[1])} in all: say paired=True"
            " to compare those, or leave them out of one"
        )
    paired = bool(same) if paired is None else bool(paired)
    if not paired:
        return a, b, False
    if labels[0] and labels[1]:
        if not same:
            raise SettingError("paired=True: no example is in both")
        order = [label for label in labels[0] if label in same]
        return a.sel(example=order), b.sel(example=order), True
    if a.sizes["example"] != b.sizes["example"]:
        raise SettingError(f"paired=True: {a.sizes['example']} and {b.sizes['example']} examples without labels")
    return a, b, True


def _aligned(a: Quantity, b: Quantity) -> tuple[tuple[Quantity, Quantity], dict[Any, Any]]:
    """The cells that both have."""
    if a.inner != b.inner:
        raise ResultError(
            f"dimensions {', '.join(map(str, a.inner)) or 'none'} and {', '.join(map(str, b.inner)) or 'none'}:"
            " expected the same; select one label of what only one has"
        )
    coords = {name: one for name, one in a.coords.items() if name in b.coords and one.equals(b.coords[name])}
    places: list[list[NDArray[np.intp]]] = [[], []]
    for dim in a.inner:
        size = a.shape[a.inner.index(dim)]
        if dim not in a.coords or dim not in b.coords:
            if size != b.shape[b.inner.index(dim)]:
                raise ResultError(
                    f"{dim} has {size} and {b.shape[b.inner.index(dim)]} places without labels to tell them"
                )
            found = np.arange(size), np.arange(size)
        else:
            _, here, there = np.intersect1d(a.coords[dim].values, b.coords[dim].values, return_indices=True)
            keep = np.argsort(here)
            found = here[keep], there[keep]
            coords[dim] = xr.Variable(dim, a.coords[dim].values[found[0]])
        if not len(found[0]):
            raise ResultError(f"no {dim} is in both: select or rename what is to be compared")
        for part, place in zip(places, found, strict=True):
            part.append(place)
    coords = {
        n: c
        for n, c in coords.items()
        if all(d in a.inner and c.sizes[d] == len(places[0][a.inner.index(d)]) for d in c.dims)
    }
    return (a.at(places[0]), b.at(places[1])), coords


def _compared(
    pair: tuple[Quantity, Quantity], paired: bool, correction: str, level: float, permutations: int, resamples: int,
    seed: int,
) -> dict[str, NDArray[Any]]:  # fmt: skip
    """The columns of the result, each (cell)."""
    (a, known_a, fair_a), (b, known_b, fair_b) = (one.examples() for one in pair)
    if paired:
        known = known_a * known_b
        known_a = known_b = known
        sample: _Paired | _Groups = _Paired((fair_a - fair_b) * known, known)
        a, b = a * known, b * known
    else:
        sample = _Groups(fair_a, known_a, fair_b, known_b)
    difference = estimate(a, known_a) - estimate(b, known_b)
    least = np.minimum(known_a.sum(0), known_b.sum(0))
    low, high = (
        np.where((least >= MIN_EXAMPLES) & np.isfinite(x), x, np.nan) for x in sample.bounds(level, resamples, seed)
    )
    size, size_low, size_high = sample.size(level, resamples, seed)
    p, of_largest = _tested(sample, permutations, seed, 1 - level)
    undefined = np.isnan(difference) | (least < 2)
    p, of_largest = (np.where(undefined, np.nan, one) for one in (p, of_largest))
    corrected = of_largest if correction == "max" else _corrected(p, correction)
    wide = least < MIN_EXAMPLES
    return {
        "difference": difference, "low": low, "high": high, "p": p, "p_corrected": corrected,
        "effect_size": size, "effect_low": np.where(wide, np.nan, size_low),
        "effect_high": np.where(wide, np.nan, size_high),
        "units_a": known_a.sum(0).astype(int), "units_b": known_b.sum(0).astype(int),
    }  # fmt: skip


def _tested(sample: _Paired | _Groups, permutations: int, seed: int, alpha: float) -> tuple[Array, Array]:
    """p of each cell, and p of the largest statistic of all cells.

    Statistics of cells with different numbers of examples are made comparable by Student's distribution. A cell whose
    examples are too few for any p below alpha is not in the family: it could only hide what others show.
    """
    from scipy.special import stdtr

    weights = sample.permutations(permutations, np.random.default_rng(seed))
    freedom, able = np.maximum(sample.freedom, 1), sample.smallest_p <= alpha
    alike = len(np.unique(freedom[able])) < 2
    largest = np.zeros(len(weights))
    p, own = np.empty(sample.cells), np.empty(sample.cells)
    for start in range(0, sample.cells, CELLS):
        block = slice(start, start + CELLS)
        t = np.abs(sample.statistics(weights, block))
        p[block] = (t >= t[0] * (1 - SAME)).mean(0)
        t = t if alike else -np.log(np.maximum(stdtr(freedom[block], -t), 1e-300))
        own[block] = t[0]
        largest = np.maximum(largest, t[:, able[block]].max(1, initial=0))
    below = np.searchsorted(np.sort(largest), own * (1 - SAME))
    return p, np.where(able, 1 - below / len(largest), 1.0)


def _corrected(p: Array, correction: str) -> Array:
    from scipy.stats import false_discovery_control

    corrected, known = np.full(p.shape, np.nan), ~np.isnan(p)
    if not known.any() or correction == "none":
        return p.copy()
    if correction == "benjamini-hochberg":
        corrected[known] = false_discovery_control(p[known])
        return corrected
    order = np.argsort(p[known])
    steps = p[known][order] * np.arange(known.sum(), 0, -1)  # Holm 1979
    corrected[np.flatnonzero(known)[order]] = np.minimum(np.maximum.accumulate(steps), 1)
    return corrected


class _Paired:
    """Differences of the same examples, (example, cell), 0 where unknown."""

    def __init__(self, differences: Array, known: Array) -> None:
        self.d, self.known, self.cells = differences, known, differences.shape[1]
        self._n = known.sum(0)
        self.freedom, self.smallest_p = self._n - 1, 0.5 ** (self._n - 1)

    def permutations(self, most: int, rng: np.random.Generator) -> Array:
        """Signs, (permutation, example); the first are all 1."""
        n = len(self.d)
        if 2**n <= most + 1:
            return np.array(list(product([1.0, -1.0], repeat=n)))
        return np.vstack([np.ones(n), rng.choice([1.0, -1.0], (most, n))])

    def statistics(self, signs: Array, cells: slice) -> Array:
        d, n = self.d[:, cells], self._n[cells]
        mean = signs @ d / np.maximum(n, 1)
        return _t(mean, np.maximum((d**2).sum(0) - n * mean**2, 0) / np.maximum(n * (n - 1), 1), (d**2).sum(0))

    def bounds(self, level: float, resamples: int, seed: int) -> tuple[Array, Array]:
        return percentile_t(self.d, self.known, level, resamples, np.random.default_rng(seed))

    def size(self, level: float, resamples: int, seed: int) -> tuple[Array, Array, Array]:
        """Hedges' g of differences, and its bounds."""

        def g(weights: Array) -> tuple[Array, Array]:
            n = weights @ self.known
            mean = weights @ self.d / np.maximum(n, 1)
            deviation = np.sqrt(
                np.maximum(weights @ self.d**2 / np.maximum(n, 1) - mean**2, 0) * n / np.maximum(n - 1, 1)
            )
            size = _hedges(mean, deviation, n - 1)
            return size, np.sqrt(1 / np.maximum(n, 1) + size**2 / (2 * np.maximum(n, 1)))

        return _bootstrap_t(g, [len(self.d)], level, resamples, seed)


class _Groups:
    """Numbers of two groups of examples, (example, cell), 0 where unknown."""

    def __init__(self, a: Array, known_a: Array, b: Array, known_b: Array) -> None:
        self.sizes, self.cells = (len(a), len(b)), a.shape[1]
        self.x, self.known = np.vstack([a, b]), np.vstack([known_a, known_b])
        self.x = (self.x - self.x.mean(0)) * self.known  # rounding: means far from 0 lose digits when squared
        n_a, n_b = known_a.sum(0), known_b.sum(0)
        self.freedom, self.smallest_p = n_a + n_b - 2, 1 / binom(n_a + n_b, n_a)

    def permutations(self, most: int, rng: np.random.Generator) -> Array:
        """Which are in the first group, (permutation, example) of 0 and 1; the first as they are."""
        own, every = self.sizes[0], sum(self.sizes)
        first = np.zeros(every)
        first[:own] = 1
        if comb(every, own) <= most + 1:
            rows = np.zeros((comb(every, own), every))
            for row, chosen in zip(rows, combinations(range(every), own), strict=True):
                row[list(chosen)] = 1
            return rows
        order = rng.permuted(np.tile(first, (most, 1)), axis=1)
        return np.vstack([first, order])

    def statistics(self, member: Array, cells: slice) -> Array:
        x, known = self.x[:, cells], self.known[:, cells]
        (mean_a, error_a), (mean_b, error_b) = (_moments(weights, x, known) for weights in (member, 1 - member))
        return _t(mean_a - mean_b, error_a + error_b, (x**2).sum(0))

    def bounds(self, level: float, resamples: int, seed: int) -> tuple[Array, Array]:
        def difference(weights: Array, other: Array) -> tuple[Array, Array]:
            (mean_a, error_a), (mean_b, error_b) = self._both(weights, other)
            return mean_a - mean_b, np.sqrt(error_a + error_b)

        return _bootstrap_t(difference, list(self.sizes), level, resamples, seed)[1:]

    def size(self, level: float, resamples: int, seed: int) -> tuple[Array, Array, Array]:
        """Hedges' g of two groups, and its bounds."""

        def g(weights: Array, other: Array) -> tuple[Array, Array]:
            (mean_a, error_a), (mean_b, error_b) = self._both(weights, other)
            n_a, n_b = weights @ self.known[: self.sizes[0]], other @ self.known[self.sizes[0] :]
            freedom = np.maximum(n_a + n_b - 2, 1)
            pooled = np.sqrt((error_a * n_a * (n_a - 1) + error_b * n_b * (n_b - 1)) / freedom)
            size = _hedges(mean_a - mean_b, pooled, n_a + n_b - 2)
            share = np.maximum(n_a * n_b, 1) / np.maximum(n_a + n_b, 1)
            return size, np.sqrt(1 / share + size**2 / (2 * np.maximum(n_a + n_b, 1)))

        return _bootstrap_t(g, list(self.sizes), level, resamples, seed)

    def _both(self, weights: Array, other: Array) -> list[tuple[Array, Array]]:
        at = self.sizes[0]
        return [
            _moments(weights, self.x[:at], self.known[:at]),
            _moments(other, self.x[at:], self.known[at:]),
        ]


def _moments(weights: Array, x: Array, known: Array) -> tuple[Array, Array]:
    """Weighted means, and the squares of their standard errors."""
    n = weights @ known
    mean = weights @ x / np.maximum(n, 1)
    square = np.maximum(weights @ x**2 / np.maximum(n, 1) - mean**2, 0)
    return mean, square / np.maximum(n - 1, 1)


def _t(mean: Array, square: Array, scale: Array) -> Array:
    """Means over their standard errors; far away where there is no error at all, 0 where there is no difference."""
    square = np.where(square > 1e-20 * scale, square, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(square > 0, mean / np.sqrt(square), np.sign(np.where(mean**2 > 1e-20 * scale, mean, 0)) * FAR)


def _hedges(mean: Array, deviation: Array, freedom: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(deviation > 0, mean / deviation, np.nan) * (1 - 3 / (4 * np.maximum(freedom, 1) - 1))


def _bootstrap_t(
    function: Any, sizes: list[int], level: float, resamples: int, seed: int
) -> tuple[Array, Array, Array]:
    """A number with its bounds, of a function from weights (resample, example) of each group to numbers and errors."""
    rng = np.random.default_rng(seed)
    ones = [np.ones((1, n)) for n in sizes]
    value, error = (one[0] for one in function(*ones))
    drawn = function(*(rng.multinomial(n, np.full(n, 1 / n), resamples).astype(float) for n in sizes))
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(drawn[1] > 0, (drawn[0] - value) / drawn[1], np.sign(drawn[0] - value) * FAR)
    low, high = np.quantile(np.nan_to_num(t), [(1 - level) / 2, (1 + level) / 2], axis=0)
    return value, value - high * error, value - low * error
