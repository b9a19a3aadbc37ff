"""Plain arrays: ratios, means, Student's intervals. The labels are put on in the files beside this one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


def paired_means(indirect: NDArray[Any], total: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means over the draws (the last axis), of those draws in which both effects are known.

    Args:
        indirect: indirect effects, (..., draw).
        total: total effects, broadcastable to that.

    Returns:
        Both means, (...); NaN where no draw is known.
    """
    known = ~(np.isnan(indirect) | np.isnan(total))
    count = known.sum(-1)
    sums = (np.where(known, effect, 0).sum(-1, dtype=float) for effect in (indirect, total))
    return tuple(quotient(one, count) for one in sums)  # type: ignore[return-value]


def ratio_of_means(indirect: NDArray[Any], total: NDArray[Any], threshold: float) -> NDArray[np.float64]:
    """Σ indirect / Σ total over the draws (the last axis); NaN where the mean total effect is below a threshold.

    Args:
        indirect: indirect effects, (..., draw); a draw that is NaN here or there is left out of both sums.
        total: total effects, broadcastable to that.
        threshold: positive, in the unit of the effects.

    Returns:
        (...).
    """
    return ratio(*paired_means(indirect, total), threshold)


def mean_of_ratios(indirect: NDArray[Any], total: NDArray[Any]) -> NDArray[np.float64]:
    """Mean over the draws (the last axis) of indirect / total, as the notebook of Palit et al. takes it.

    Without a threshold: one draw with next to no total effect decides about the mean, and one with none at all
    makes it infinite. Draws that are NaN are left out.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return mean_known(np.where(np.isnan(total), np.nan, indirect / total), -1)


def ratio(indirect: NDArray[Any], total: NDArray[Any], threshold: float) -> NDArray[np.float64]:
    """`indirect / total`, NaN where the total effect is below the threshold or unknown."""
    return indirect / np.where(total >= threshold, total, np.nan)


def mean_interval(values: NDArray[Any], level: float = 0.95) -> tuple[float, float, float]:
    """Mean of a table (example, draw) with the bounds of its confidence interval.

    Examples are the independent units: draws are averaged within each example first, and
    the interval is Student's t over the examples' means. A table of a single example has
    the interval over its draws instead: how sure its own mean is, not how other examples
    would be. NaN is left out. Without any number the mean is NaN; with fewer than two
    units the bounds are NaN.
    """
    values = np.asarray(values, dtype=float)
    rows = [row[~np.isnan(row)] for row in values]
    units = rows[0] if len(rows) == 1 else np.array([row.mean() for row in rows if row.size])
    if units.size == 0:
        return math.nan, math.nan, math.nan
    mean = float(units.mean())
    if units.size == 1:
        return mean, math.nan, math.nan
    half = float(half_width(units.std(ddof=1), units.size, level))
    return mean, mean - half, mean + half


def half_width(deviation: Any, count: Any, level: float = 0.95) -> NDArray[Any]:
    """Half of Student's interval of a mean: of `count` units with this standard deviation (ddof 1)."""
    from scipy.special import stdtrit

    count = np.asarray(count)
    # one quantile for each count that can be: there may be millions of means
    quantiles = np.full(int(count.max(initial=0)) + 1, math.nan)
    quantiles[2:] = stdtrit(np.arange(1, len(quantiles) - 1), 0.5 + level / 2)
    return quantiles[count] * deviation / np.sqrt(np.maximum(count, 1))


def mean_known(values: NDArray[Any], axis: int) -> NDArray[np.float64]:
    """Mean along an axis without NaN; NaN where there is nothing else."""
    known = ~np.isnan(values)
    return quotient(np.where(known, values, 0).sum(axis, dtype=float), known.sum(axis))


def mean_groups(values: NDArray[Any], group: NDArray[np.intp], groups: int) -> NDArray[np.float64]:
    """Mean over the tokens of each group, NaN left out; NaN where there is nothing else.

    Args:
        values: (token, example, cell).
        group: (token, example), the group of each token, -1 for none.
        groups: how many there are.

    Returns:
        (group, example, cell).
    """
    total = np.zeros((groups, *values.shape[1:]))
    count = np.zeros(total.shape, np.int32)
    for position, numbers in enumerate(values):  # within one position no (group, example) occurs twice
        here = np.flatnonzero(group[position] >= 0)
        at, found = (group[position, here], here), numbers[here]
        known = ~np.isnan(found)
        total[at] += found if known.all() else np.where(known, found, 0)
        count[at] += known
    return quotient(total, count)


def group_intervals(
    units: NDArray[np.float64], group: NDArray[np.intp], groups: int, level: float = 0.95, least: int = 2
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.intp]]:
    """Mean over the units of each group, the bounds of Student's interval, and how many units were known.

    Args:
        units: (unit, ...); NaN is left out.
        group: (unit), the group of each; none may be empty.
        groups: how many there are.
        level: of confidence.
        least: how many units an interval needs.

    Returns:
        Four arrays (group, ...). The mean of no unit is NaN, the bounds of fewer than `least` are.
    """
    order = np.argsort(group, kind="stable")
    units, group = units[order], group[order]
    starts = np.searchsorted(group, np.arange(groups))
    known = ~np.isnan(units)
    count = np.add.reduceat(known, starts, axis=0, dtype=np.intp)
    mean = quotient(np.add.reduceat(np.where(known, units, 0), starts, axis=0), count)
    squares = np.where(known, units - mean[group], 0) ** 2
    variance = quotient(np.add.reduceat(squares, starts, axis=0), np.maximum(count - 1, 0))
    half = np.where(count >= least, half_width(np.sqrt(variance), count, level), math.nan)
    return mean, mean - half, mean + half, count


def quotient(total: NDArray[Any], count: NDArray[Any]) -> NDArray[np.float64]:
    return total / np.where(count > 0, count, math.nan)
