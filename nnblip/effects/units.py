"""What is averaged: for every cell one number of each independent unit, an example or a draw of one example.

The labels are read here and put on again; `resampling` has the numbers in between.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from nnblip.effects.differences import indirect_effect, total_effect
from nnblip.effects.numbers import paired_means, ratio
from nnblip.effects.reading import OUTER, maps, restored, root_of, without
from nnblip.effects.resampling import LEAST, unbiased_ratio
from nnblip.effects.shares import THRESHOLD, thresholds
from nnblip.errors import ResultError, SettingError, one_of
from nnblip.results import VARIABLES

#: What of a result can be averaged.
VALUES = ("probability", "total_effect", "indirect_effect", "relevance", "gamma")
RATIOS = ("relevance", "gamma")
#: The ranges of what is averaged of probabilities; a share has none.
RANGES = {"probability": (0.0, 1.0), "total_effect": (-1.0, 1.0), "indirect_effect": (-1.0, 1.0)}
#: So many numbers of draws are looked at together.
NUMBERS = 2**21


@dataclass(frozen=True)
class Quantity:
    """One node of what is averaged.

    Attributes:
        numbers: (example, draw, ...), the effects or whatever is averaged.
        total: (example, draw, 1 or more ...), what they are divided by; None if by nothing.
        limit: the smallest mean of `total` that is divided by.
        pooled: whether examples are averaged before dividing.
        support: the range of the numbers, None if it is not known.
        least: see `resampling.beyond`.
        inner: the dimensions after example and draw.
        coords: what is left of the node's coordinates without examples and draws.
    """

    numbers: NDArray[Any]
    total: NDArray[Any] | None
    limit: float
    pooled: bool
    support: tuple[float, float] | None
    least: float
    inner: tuple[Any, ...]
    coords: dict[Any, Any]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.numbers.shape[2:]

    def examples(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Of each example a and b of Σ a / Σ b, (example, cell), and without their bias over draws, if it has any.

        Returns:
            a, b, and a again, for the interval; 0 where an example is unknown.
        """
        cells = int(np.prod(self.shape))
        a, b, own = (np.zeros((len(self.numbers), cells)) for _ in range(3))
        for rows in _blocks(len(self.numbers), self.numbers[:1].size):
            numbers = np.moveaxis(self.numbers[rows], 1, -1)
            total = np.ones((1,) * numbers.ndim) if self.total is None else np.moveaxis(self.total[rows], 1, -1)
            up, down = paired_means(numbers, np.broadcast_to(total, numbers.shape))
            if self.total is not None and self.pooled:
                found, weight = up, down
            else:
                found = up if self.total is None else ratio(up, down, self.limit)
                weight = np.ones(found.shape)
            fair = found
            if self.total is not None and not self.pooled:
                fair = np.where(np.isnan(found), np.nan, unbiased_ratio(numbers, np.broadcast_to(total, numbers.shape)))
            known = ~np.isnan(found)
            for into, values in ((a, found), (b, weight), (own, fair)):
                into[rows] = np.where(known, values, 0).reshape(-1, cells)
        return a, b, own

    def at(self, places: Sequence[NDArray[np.intp]]) -> Quantity:
        """Some labels of each of the inner dimensions."""
        numbers, total = self.numbers, self.total
        for axis, place in enumerate(places, start=2):
            numbers = numbers.take(place, axis)
            total = total if total is None or total.shape[axis] == 1 else total.take(place, axis)
        return replace(self, numbers=numbers, total=total)

    def draws(self, example: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Of each draw of an example a and b of Σ a / Σ b, (draw, cell); 0 where a draw is unknown."""
        a = self.numbers[example].reshape(self.numbers.shape[1], -1).astype(float)
        b = np.ones(a.shape)
        if self.total is not None:
            wide = np.broadcast_to(self.total[example], self.numbers[example].shape)
            b = wide.reshape(a.shape).astype(float)
        known = ~(np.isnan(a) | np.isnan(b))
        return np.where(known, a, 0), np.where(known, b, 0)


def quantities(
    data: xr.DataTree | xr.DataArray,
    value: str | None,
    variable: str = VARIABLES[0],
    threshold: float = THRESHOLD,
    pooled: bool = False,
    support: tuple[float, float] | None = None,
) -> dict[str, Quantity]:
    """What is averaged, by node; of an array under the name "". Without a value the indirect effect of a result, and
    of a tree of effects, which has no `/corrupted`, these.

    Raises:
        NnblipError: for an unknown value or variable, or if something is missing.
    """
    one_of(variable, VARIABLES, "variable")
    if isinstance(data, xr.DataArray):
        known = data.values[~np.isnan(data.values)]
        fits = known.size and np.abs(known).max() <= 1
        support = support or ((-1.0, 1.0) if fits else None)
        return {"": _quantity(data, None, 0.0, False, support, LEAST if support else 0.0)}
    root_of(data)  # a tree at all?
    if value is None and "corrupted" not in data.children:
        nodes = {name: node[variable] for name, node in restored(data).items()}
        return {name: quantities(node, None, variable, support=support)[""] for name, node in nodes.items()}
    value = one_of(value or "indirect_effect", VALUES, "value")
    if pooled and value not in RATIOS:
        raise SettingError(f"pooled: expected one of {', '.join(RATIOS)}, not {value!r}, which is no ratio")
    if value == "probability":
        nodes = {name: node[variable] for name, node in restored(data).items()}
    elif value == "total_effect":
        nodes = {"corrupted": total_effect(data)["corrupted"].to_dataset()[variable]}
    else:
        effects = indirect_effect(data)
        found = maps(effects) if value == "gamma" else restored(effects)
        nodes = {name: node[variable] for name, node in found.items()}
    if value == "gamma":
        kept = (*OUTER, "kind")
        nodes = {n: e.mean([d for d in e.dims if d not in kept]).reset_coords(drop=True) for n, e in nodes.items()}
    total = total_effect(data)["corrupted"].to_dataset()[variable] if value in RATIOS else None
    limit = thresholds(threshold)[variable]
    support = support or (RANGES.get(value) if variable == "probability" else None)
    least = LEAST if variable == VARIABLES[0] else 0.0
    return {name: _quantity(effect, total, limit, pooled, support, least) for name, effect in nodes.items()}


def _quantity(
    numbers: xr.DataArray, total: xr.DataArray | None, limit: float, pooled: bool,
    support: tuple[float, float] | None, least: float,
) -> Quantity:  # fmt: skip
    if not {"example", "draw"} & {*numbers.dims}:
        raise ResultError(f"dimensions {', '.join(map(str, numbers.dims))}: expected example or draw among them.")
    coords = {n: c.variable for n, c in numbers.coords.items() if not {"example", "draw"} & {*c.dims}}
    missing = [dim for dim in ("example", "draw") if dim not in numbers.dims]
    numbers = numbers.expand_dims(missing)
    inner = tuple(dim for dim in numbers.dims if dim not in ("example", "draw"))
    below = None
    if total is not None:
        total = total.expand_dims([dim for dim in ("example", "draw", *inner) if dim not in total.dims])
        below = total.transpose("example", "draw", *inner).values
    values = numbers.transpose("example", "draw", *inner).values
    return Quantity(values, below, limit, pooled, support, least, inner, coords)


def root_without(data: xr.DataTree | xr.DataArray, *dims: str) -> xr.Dataset:
    """Coordinates and attributes of a tree's root, or of an array, that have none of these dimensions."""
    root = root_of(data) if isinstance(data, xr.DataTree) else xr.Dataset(coords=data.coords, attrs=data.attrs)
    return without(root, *dims)


def _blocks(examples: int, size: int) -> Iterator[slice]:
    step = max(1, NUMBERS // max(1, size))
    for start in range(0, examples, step):
        yield slice(start, start + step)
