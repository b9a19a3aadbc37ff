"""Means with intervals, all of them by `nnblip.effects`, and what they are called."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import xarray as xr
from scipy.stats import binomtest

from nnblip import effects
from nnblip.effects.intervals import MIN_DRAWS, MIN_EXAMPLES
from nnblip.results import VARIABLES

#: The support of a share of something: nothing bounds it.
SHARE = (-np.inf, np.inf)
#: A whole that is smaller on average has no parts.
NO_WHOLE = 1e-4


class Mean(NamedTuple):
    """One mean: its interval, of how many examples (or draws of one), and why there are no bounds, if there are none.

    Named as the variables of `effects.interval`.
    As a text "+0.120 [+0.080, +0.160], n = 16", or "+0.120, n = 3 (too few)".
    """

    value: float
    low: float
    high: float
    units: int
    reason: str

    def __str__(self) -> str:
        if np.isnan(self.value):
            return f"none ({self.reason})"
        if np.isnan(self.low):
            return f"{self.value:+z.3f}, n = {self.units} ({_short(self.reason)})"
        return f"{self.bare}, n = {self.units}"

    @property
    def bare(self) -> str:
        """The same without n, for tables that have a column of it."""
        if np.isnan(self.value):
            return ""
        if np.isnan(self.low):
            return f"{self.value:+z.3f} ({_short(self.reason)})"
        return f"{self.value:+z.3f} [{self.low:+z.3f}, {self.high:+z.3f}]"


def mean(
    values: xr.DataArray, support: tuple[float, float] | None = None, level: float = 0.95, over: str = "examples"
) -> Mean:
    """The mean of one number of each example (or each draw of it) over examples.

    Args:
        values: (example) or (example, draw); draws are averaged first.
        support: their range; [-1, 1] if it is not given and all lie in it.
        level: of the interval.
        over: "draws" for the draws of one example.
    """
    return means(values, support, level, over)[()]


def means(
    values: xr.DataArray, support: tuple[float, float] | None = None, level: float = 0.95, over: str = "examples"
) -> dict[tuple[int, ...], Mean]:
    """The same of several: by their place in the dimensions besides example and draw, () of one alone."""
    found = bounds(values, support, level, over)
    columns = [found[name].values for name in Mean._fields]
    return {
        place: Mean(float(value), float(low), float(high), int(units), str(reason))
        for place in np.ndindex(columns[0].shape)
        for value, low, high, units, reason in [[column[place] for column in columns]]
    }


def bounds(
    values: xr.DataArray, support: tuple[float, float] | None = None, level: float = 0.95, over: str = "examples"
) -> xr.Dataset:
    """`effects.interval`: `value`, `low`, `high`, `units` and `reason`. Examples are the units, one or many.

    How often something is so, numbers of a `support` (0, 1) that are all 0 or 1, has Wilson's score interval (1927): a
    bootstrap cannot tell how rare is what it has seen once, or never.
    """
    if over == "draws":
        values = values.isel(example=0) if "example" in values.dims else values
        return effects.interval(values, over="draws", support=support, level=level)  # type: ignore[return-value]
    if "draw" in values.dims:
        values = values.mean("draw")
    found = effects.interval(values, over="examples", support=support, level=level)
    assert isinstance(found, xr.Dataset)
    return _wilson(values, found, level) if support == (0, 1) else found


def _wilson(values: xr.DataArray, found: xr.Dataset, level: float) -> xr.Dataset:
    """Other bounds where all numbers are 0 or 1, and enough."""
    found = found.copy(deep=True)
    often = ((values == 0) | (values == 1) | values.isnull()).all("example").transpose(*found["value"].dims).values
    for place in np.ndindex(often.shape):
        count = int(found["units"].values[place])
        if often[place] and count >= MIN_EXAMPLES:
            seen = binomtest(round(float(found["value"].values[place]) * count), count)
            found["low"].values[place], found["high"].values[place] = seen.proportion_ci(level, "wilson")
            found["reason"].values[place] = ""
    return found


def compared(a: xr.DataArray, b: xr.DataArray, paired: bool, level: float = 0.95) -> xr.Dataset:
    """`effects.compare` of two arrays, with the correction for all of their cells; `level` is of the intervals."""
    found = effects.compare(a, b, paired=paired, level=level)
    assert isinstance(found, xr.Dataset)
    return found


def share(part: xr.DataArray, whole: xr.DataArray, level: float = 0.95) -> Mean:
    """Which share of a whole a part is: Σ part / Σ whole over examples, with the interval of a pooled relevance.

    Args:
        part, whole: one number of each example; those that lack either are left out.
        level: of the interval.
    """
    known = (part.notnull() & whole.notnull()).values
    if not known.any():
        return Mean(np.nan, np.nan, np.nan, 0, "no numbers")
    part, whole = (one.reset_coords(drop=True).isel(example=np.flatnonzero(known)) for one in (part, whole))
    nodes = {"clean": whole, "corrupted": xr.zeros_like(whole), "part": part}
    tree = xr.DataTree.from_dict({name: xr.Dataset(dict.fromkeys(VARIABLES, one)) for name, one in nodes.items()})
    found = effects.interval(tree, "relevance", over="examples", pooled=True, threshold=NO_WHOLE, level=level)["part"]
    value, low, high, units, reason = (found[name].item() for name in Mean._fields)
    return Mean(value, low, high, int(units), reason.replace("total effect", "whole"))


def by_image(values: xr.DataArray, image: xr.DataArray) -> xr.DataArray:
    """Means over the examples of each image, which then are the units: examples that share one are not independent."""
    if len(set(image.values.tolist())) == values.sizes["example"]:
        return values
    grouped = values.reset_coords(drop=True).groupby(xr.DataArray(image.values, dims="example", name="image"))
    return grouped.mean("example").rename(image="example")


def intervals_are(one: bool = False) -> str:
    """Of what the intervals of a summary are, and what stands in their place."""
    over, least = ("the draws of the one example", MIN_DRAWS) if one else ("examples", MIN_EXAMPLES)
    return f"95 % intervals over {over}; too few: fewer than {least}"


def _short(reason: str) -> str:
    return reason.partition(":")[0].replace(" examples", "").replace(" draws", "")
