"""The strongest of many cells, measured on other examples than those that chose it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import xarray as xr

from nnblip.effects.intervals import MIN_EXAMPLES
from nnblip.errors import ResultError


class Picked(NamedTuple):
    """What `picked` gives.

    Attributes:
        cells: the labels of the cells that the halves chose: one if they agree, none if no cell has enough examples.
        values: of each example its value in the cell that the other half chose, NaN where it has no such cell.
    """

    cells: list[tuple[object, ...]]
    values: xr.DataArray


def picked(values: xr.DataArray, dims: tuple[str, ...]) -> Picked:
    """The strongest cell, not too strong by having been chosen.

    The largest of many means is too large: it was chosen for its errors, too. So the examples are parted in two
    (every second one), each half chooses the cell of the largest mean, and each example is measured in the cell that
    the other half chose. Of these values `interval` gives the mean with its interval. This is cross-fitting, as in
    Chernozhukov et al. 2018 (doi:10.1111/ectj.12097).

    Args:
        values: (example, and `dims`); draws are averaged, if they are there. NaN where an example has no such cell.
        dims: those among whose cells is chosen. Only cells that at least eight examples have, four of each half.

    Raises:
        ResultError: if `values` lacks one of the dimensions, or has others.
    """
    values = values.mean("draw") if "draw" in values.dims else values
    if {*values.dims} != {"example", *dims}:
        raise ResultError(
            f"dimensions {', '.join(map(str, values.dims))}: expected {', '.join(('example', *dims))}; select one label"
            " of the others"
        )
    flat = values.reset_coords(drop=True).stack(cell=dims).transpose("example", "cell")
    numbers, half = flat.values, np.arange(flat.sizes["example"]) % 2
    known = ~np.isnan(numbers)
    enough = np.flatnonzero(np.all([known[half == one].sum(0) >= MIN_EXAMPLES // 2 for one in (0, 1)], 0))
    own = xr.DataArray(np.full(len(numbers), np.nan), {"example": flat["example"]}, ("example",))
    if not enough.size:
        return Picked([], own)
    chosen = []
    for one in (0, 1):
        best = enough[np.nanmean(numbers[half == one][:, enough], 0).argmax()]
        own.values[half != one] = numbers[half != one, best]
        chosen.append(tuple(flat["cell"].values[best]))
    return Picked(list(dict.fromkeys(chosen)), own)
