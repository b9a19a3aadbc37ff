"""Thirds of the layers, and shares of an effect whose means have intervals."""

from __future__ import annotations

import numpy as np
import xarray as xr

from nnblip.effects import THRESHOLD
from nnblip.errors import ModelError
from nnblip.experiments.numbers import SHARE, Mean, mean

#: Numbers of single examples that are nearer to 0 or 1 than this are meant to be it: float32 leaves less.
EXACT = 1e-5


def thirds(layers: int) -> dict[str, range]:
    """The layers parted in early, middle and later ones; where they do not go in three, the middle has more.

    Raises:
        ModelError: for fewer than three.
    """
    if layers < 3:
        raise ModelError(f"{layers} layers: expected at least 3, which are parted in early, middle and later ones")
    third = layers // 3
    return {"early": range(third), "middle": range(third, layers - third), "later": range(layers - third, layers)}


def shares(part: xr.DataArray, whole: xr.DataArray, threshold: float = THRESHOLD) -> xr.DataArray:
    """Of each example a number such that their mean is Σ part / Σ whole, and their spread its uncertainty.

    A ratio of means has no values of single examples. These are its linearisation (as in the delta method and the
    jackknife), R + (part − R · whole) / mean whole, so that intervals and paired tests of means are those of the ratio,
    what is divided by included.

    Args:
        part: (example, ...).
        whole: (example), what it is a share of.
        threshold: the least mean of `whole` that is divided by.

    Returns:
        As `part`; NaN where there is next to nothing to divide by.
    """
    whole = whole.where(part.notnull())
    below = whole.mean("example")
    below = below.where(below >= threshold)
    ratio = part.mean("example") / below
    return (ratio + (part - ratio * whole) / below).transpose(*part.dims)


def share(values: xr.DataArray, level: float = 0.95) -> Mean:
    """The mean of shares, with its interval.

    Where all examples have exactly none, or exactly all, it is so by construction: the bounds are the number itself.
    """
    found = mean(values, SHARE, level)
    whole = round(found.value) if np.isfinite(found.value) else -1
    if np.isnan(found.low) and whole in (0, 1) and bool((abs(values - whole) < EXACT).all()):
        return found._replace(value=float(whole), low=float(whole), high=float(whole), reason="")
    return found
