"""How many draws, or examples, an interval of some width needs: told from a pilot."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from nnblip.effects.intervals import MIN_DRAWS, MIN_EXAMPLES
from nnblip.effects.numbers import half_width
from nnblip.effects.reading import root_of, without
from nnblip.effects.resampling import Array, beyond, estimate, in_blocks
from nnblip.effects.shares import THRESHOLD
from nnblip.effects.units import Quantity, quantities
from nnblip.errors import SettingError, whole
from nnblip.results import VARIABLES

#: Numbers of draws that are tried, and how often each.
LADDER = (10, 14, 20, 28, 40, 57, 80, 113, 160, 226, 320)
TRIES, RESAMPLES = 5, 200


def draws_needed(
    tree: xr.DataTree,
    width: float = 0.1,
    value: str = "indirect_effect",
    *,
    variable: str = VARIABLES[0],
    threshold: float = THRESHOLD,
    level: float = 0.95,
    seed: int = 0,
) -> xr.DataTree:
    """How many draws the interval of each cell of each example needs to be no wider, told from the draws there are.

    By simulation: as many draws as are tried are taken from those of the pilot, with repetition, and an interval is
    made as `interval(..., over="draws")` makes it. Beyond the largest number that is tried widths go with 1 / √draws.
    A pilot of ten draws tells it roughly: rare large effects that it has not seen would need more.

    Args:
        tree: a result, of at least 3 draws.
        width: of the whole interval, from low to high.
        value, variable, threshold, level: as for `interval`.
        seed: of the simulation.

    Returns:
        A tree of the restored nodes with the variable `draws`, a whole number on the dimensions of the effect without
        `draw`; NaN where it is not defined. Its maximum over a map is what the whole map needs.

    Raises:
        NnblipError: for a setting that cannot be used, or a pilot of fewer than 3 draws.
    """
    _positive(width)
    found = quantities(tree, value, variable, threshold)
    nodes = {}
    for name, quantity in found.items():
        if quantity.numbers.shape[1] < 3:
            raise SettingError(f"a pilot of {quantity.numbers.shape[1]} draws: expected at least 3")
        rows = [_draws(quantity, example, width, level, seed) for example in range(len(quantity.numbers))]
        outer = ("example",) if "example" in root_of(tree).dims else ()
        counts = np.stack(rows).reshape(len(rows), *quantity.shape)
        data = (*outer, *quantity.inner), counts if outer else counts[0]
        nodes[name] = xr.Dataset({"draws": data}, quantity.coords, {"width": width, "level": level})
    return xr.DataTree.from_dict({"/": without(root_of(tree), "draw"), **nodes}, name=tree.name)


def _draws(quantity: Quantity, example: int, width: float, level: float, seed: int) -> Array:
    """How many draws each cell of an example needs."""
    a, b = quantity.draws(example)
    there = np.flatnonzero((b != 0).any(1))
    rng = np.random.default_rng(seed)
    wide = np.full((len(LADDER), a.shape[1]), np.inf)
    for step, draws in enumerate(LADDER):
        tried = []
        for _ in range(TRIES):
            some = rng.choice(there, draws) if there.size else np.zeros(draws, int)
            low, high = _bounds(quantity, a[some], b[some], level, seed)
            tried.append(high - low)
        wide[step] = np.median(tried, 0)
        if (wide[step] <= width).all():
            break
    wide = np.minimum.accumulate(wide)
    needed = np.full(a.shape[1], np.nan)
    for step in reversed(range(len(LADDER))):
        needed[wide[step] <= width] = LADDER[step]
    beyond_it = np.isnan(needed) & np.isfinite(wide[-1])
    needed[beyond_it] = np.ceil(LADDER[-1] * (wide[-1][beyond_it] / width) ** 2)
    mean = b.sum(0) / np.maximum((b != 0).sum(0), 1)
    undefined = np.isnan(estimate(a, b)) | ((mean < quantity.limit) if quantity.total is not None else False)
    return np.where(undefined, np.nan, np.maximum(needed, MIN_DRAWS))


def _bounds(quantity: Quantity, a: Array, b: Array, level: float, seed: int) -> tuple[Array, Array]:
    support = quantity.support if quantity.total is None else None

    def block(cells: slice) -> tuple[Array, Array]:
        rng = np.random.default_rng(seed)
        return beyond(a[:, cells], b[:, cells], level, RESAMPLES, rng, quantity.least, support)

    return in_blocks(block, a.shape[1])


def examples_needed(
    tree: xr.DataTree,
    width: float = 0.1,
    value: str = "indirect_effect",
    *,
    variable: str = VARIABLES[0],
    draws: int | None = None,
    threshold: float = THRESHOLD,
    level: float = 0.95,
) -> xr.DataTree:
    """How many examples the interval of a mean over examples needs to be no wider, told from those there are.

    From two components of variance: between examples, and within them between draws, of which a mean over more draws
    has less. Where the second is small, more draws are of no use.

    Args:
        tree: a result of several examples.
        width: of the whole interval, from low to high.
        value, variable, threshold, level: as for `interval`.
        draws: with so many draws of each example; as many as the result has if None.

    Returns:
        A tree of the restored nodes with the variables `examples` (at least 8), `between` and `within`, the two
        variances, the latter of single draws; on the dimensions of the effect without `example` and `draw`.

    Raises:
        NnblipError: for a setting that cannot be used, or a result of a single example.
    """
    _positive(width)
    nodes = {}
    for name, quantity in quantities(tree, value, variable, threshold).items():
        if len(quantity.numbers) < 2:
            raise SettingError("a pilot of one example says nothing about others: expected at least 2")
        own = quantity.numbers.shape[1]
        _, known, units = quantity.examples()
        count = known.sum(0)
        mean = units.sum(0) / np.maximum(count, 1)
        total = (((units - mean) * known) ** 2).sum(0) / np.maximum(count - 1, 1)
        within = _within(quantity, known)
        between = np.maximum(total - within / own, 0)
        variance = between + within / (own if draws is None else whole(draws, "draws", 1))
        needed = np.where(count > 1, _examples(variance, width, level), np.nan)
        columns = {"examples": needed, "between": between, "within": within}
        nodes[name] = xr.Dataset(
            {key: (quantity.inner, column.reshape(quantity.shape)) for key, column in columns.items()},
            quantity.coords,
            {"width": width, "level": level},
        )
    return xr.DataTree.from_dict({"/": without(root_of(tree), "example", "draw"), **nodes}, name=tree.name)


def _within(quantity: Quantity, known: Array) -> NDArray[np.float64]:
    """Mean over examples of the variance of single draws, of ratios that of their linear part; (cell)."""
    total, count = np.zeros(known.shape[1]), np.zeros(known.shape[1])
    for example in range(len(known)):
        a, b = quantity.draws(example)
        n = (b != 0).sum(0)
        z = (a - estimate(a, b) * b) / (b.sum(0) / np.maximum(n, 1))
        there = (known[example] > 0) & (n > 1)
        total += np.where(there, np.nan_to_num((z**2).sum(0)) / np.maximum(n - 1, 1), 0)
        count += there
    return total / np.maximum(count, 1)


def _examples(variance: Array, width: float, level: float) -> Array:
    """The smallest number of units of which Student's interval is narrow enough."""
    needed = np.full(variance.shape, float(MIN_EXAMPLES))
    for _ in range(50):
        half: Any = half_width(np.sqrt(variance), np.minimum(needed, 10**6).astype(int), level)
        wanted = np.ceil(needed * (2 * half / width) ** 2)
        wanted = np.maximum(wanted, MIN_EXAMPLES)
        if (wanted == needed).all():
            break
        needed = wanted
    return needed


def _positive(width: float) -> None:
    if isinstance(width, bool) or not isinstance(width, (int, float)) or not 0 < width < np.inf:
        raise SettingError(f"width is {width!r}: expected how wide the interval may be, a positive number such as 0.1.")
