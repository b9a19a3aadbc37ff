"""Thirds of the layers, cross-attention cut in some of them, and shares of an effect whose means have intervals."""

from __future__ import annotations

import numpy as np
import xarray as xr

from nnblip import effects
from nnblip.edges import KnockOut, knock_out
from nnblip.effects import THRESHOLD
from nnblip.effects.intervals import MIN_EXAMPLES
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


def cuts(parts: dict[str, range]) -> dict[tuple[str, int], KnockOut]:
    """Layers whose cross-attention is cut: each alone, all up to it, all from it on, and the middle ones."""
    layers = parts["later"].stop
    spans = {("middle", 0): parts["middle"], ("all", 0): range(layers)}
    for layer in range(layers):
        spans |= {("alone", layer): range(layer, layer + 1), ("up to", layer): range(layer + 1),
                  ("from", layer): range(layer, layers)}  # fmt: skip
    return {name: knock_out("image_to_question", layers=span) for name, span in spans.items()}


def cut_effects(tree: xr.DataTree, cells: dict[tuple[str, int], KnockOut]) -> xr.Dataset:
    """Effects on P(answer): `alone`, `up to` and `from` (example, layer), `middle` and `all` (example)."""
    effect = effects.knock_out_effect(tree).probability.reset_coords(drop=True)
    layers = sorted({layer for _, layer in cells})
    found = {}
    for how in dict.fromkeys(how for how, _ in cells):
        names = [cells[how, layer].name for layer in layers if (how, layer) in cells]
        one = effect.sel(knock_out=names)
        one = one.isel(knock_out=0, drop=True) if len(names) == 1 else one.rename(knock_out="layer")
        found[how] = one.drop_vars("layer", errors="ignore")
    return xr.Dataset(found).assign_coords(layer=layers)


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

    Where each of enough examples has none of it, or all, but for rounding, the bounds are that number itself; other
    numbers that are all alike say nothing of other examples, and have none.
    """
    found = mean(values, SHARE, level)
    if found.units < MIN_EXAMPLES or not np.isnan(found.low):
        return found
    whole = round(found.value)
    exact = whole in (0, 1) and bool((abs(values.dropna("example") - whole) < EXACT).all())
    return Mean(whole, whole, whole, found.units, "") if exact else found
