"""Intervals of whatever these functions average: over examples, or over the draws of one example.

Examples are the independent units. The draws of an example are averaged first, so what they leave of uncertainty is
in how examples differ, and resampling them once more would count it twice. Where there is one example the draws are
the units, and the interval is about its own mean and not about other examples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from nnblip.effects import resampling
from nnblip.effects.reading import groups_of
from nnblip.effects.resampling import Array, alike, estimate, in_blocks
from nnblip.effects.shares import THRESHOLD
from nnblip.effects.units import Quantity, quantities, root_without
from nnblip.errors import SettingError, one_of, whole
from nnblip.results import VARIABLES

#: With fewer units no method holds for skewed effects: see the calibration page of the documentation.
MIN_EXAMPLES, MIN_DRAWS = 8, 10
OVER = ("examples", "draws")
METHODS = ("percentile-t", "bca", "student", "beyond")
#: What covers best over examples, and over the draws of one.
BEST = {"examples": "percentile-t", "draws": "beyond"}
#: Of a mean of ratios, how much of the interval's width the bias of few draws may be for each draw: it is mended, and
#: what is left is the more the fewer draws there are.
BIAS = 0.025


def interval(
    data: xr.DataTree | xr.DataArray,
    value: str | None = None,
    *,
    variable: str = VARIABLES[0],
    over: str | None = None,
    by: str | None = None,
    pooled: bool = False,
    threshold: float = THRESHOLD,
    level: float = 0.95,
    method: str | None = None,
    resamples: int = 2000,
    seed: int = 0,
    support: tuple[float, float] | None = None,
) -> xr.DataTree | xr.Dataset:
    """The mean of an effect, relevance or Γ over examples (or over the draws of one), and its interval.

    How often these intervals hold what they should is on the calibration page of the documentation: over examples
    bootstrap-t (Efron 1981) covers best, over few draws of one example, which are skewed and bounded, the bound of
    Gaffke (2005) with a reach that was calibrated.

    Args:
        data: a result; or an array with the dimension `example`, `draw` or both, whose mean is taken.
        value: of a result "indirect_effect" (the default), "probability", "total_effect", "relevance" or "gamma". A
            tree of effects has its own.
        variable: by which of the three numbers.
        over: "examples" or "draws"; by default draws if there is only one example. Over draws every example has an
            interval of its own.
        by: name of a coordinate on `example`, such as "question_type": means over the examples of each.
        pooled: of relevance and Γ, effects are averaged over examples before they are divided.
        threshold: as for `relevance`. Examples below it have no relevance and are left out; `units` says how many
            are left.
        level: of confidence.
        method: "percentile-t", "bca", "student" or "beyond" (see `nnblip.effects.resampling`); what covers best if
            None.
        resamples: how many, at least 100.
        seed: of the resampling; the same seed gives the same bounds.
        support: range of the numbers of an array; if all lie in [-1, 1], they are taken for probabilities or
            differences of such.

    Returns:
        A Dataset for an array, else a tree of the restored nodes (of `/corrupted` for the total effect). In the
        place of `example` and `draw` there is nothing, or what `by` names. Variables: `value`, the mean; `low` and
        `high`; `units`, of how many examples or draws; `reason`, "" or why the bounds are NaN: there are too few
        units, a few of them decide, or all are alike, which is so by construction or says nothing of others.

    Raises:
        NnblipError: for a setting that cannot be used, or if something is missing in the result.
    """
    found = quantities(data, value, variable, threshold, pooled, support)
    over = one_of(over, OVER, "over") if over else OVER[next(iter(found.values())).numbers.shape[0] < 2]
    if by is not None and over == "draws":
        raise SettingError(f"by {by!r}: expected over='examples', as groups are of examples")
    way = _Way(over, method, level, resamples, seed)
    group, groups, new = np.zeros(next(iter(found.values())).numbers.shape[0], np.intp), 1, dict[str, Any]()
    if by is not None:
        group, groups, new = groups_of(root_without(data), by)
    root = root_without(data, "draw", *(["example"] if over == "examples" else []))
    outer = [by] if by else []
    if over == "draws" and isinstance(data, xr.DataArray):
        outer, new = (["example"], {}) if "example" in data.dims else ([], {})
    elif over == "draws":
        outer = ["example"] if "example" in root.dims else []
    nodes = {}
    for name, quantity in found.items():
        columns = way.over_draws(quantity) if over == "draws" else way.over_groups(quantity, group, groups)
        nodes[name] = _labelled(quantity, columns, outer)
    said = {"level": level, "method": way.method, "over": over, "resamples": resamples, "seed": seed}
    told = f"mean {(value or 'indirect_effect').replace('_', ' ')}, by {variable.replace('_', ' ')}"
    for node in nodes.values():
        node["value"].attrs["long_name"] = told if isinstance(data, xr.DataTree) else "mean"
        node.attrs |= said
    if isinstance(data, xr.DataArray):
        return nodes[""].assign_coords({**root.coords, **new})
    root = root.assign_coords(new).assign_attrs(said)
    return xr.DataTree.from_dict({"/": root, **nodes}, name=data.name)


class _Way:
    """How intervals are made."""

    def __init__(self, over: str, method: str | None, level: float, resamples: int, seed: int) -> None:
        if isinstance(level, bool) or not isinstance(level, (int, float, np.number)) or not 0 < level < 1:
            raise SettingError(f"level is {level!r}: expected a number between 0 and 1, such as 0.95.")
        self.over, self.level = over, float(level)
        self.method = one_of(method, METHODS, "method") if method else BEST[over]
        self.resamples, self.seed = whole(resamples, "resamples", 100), whole(seed, "seed", 0)

    def bounds(self, a: Array, b: Array, quantity: Quantity) -> tuple[Array, Array]:
        """Bounds of Σ a / Σ b, (cell)."""
        mean = quantity.support if quantity.total is None else None

        def block(cells: slice) -> tuple[Array, Array]:
            rng = np.random.default_rng(self.seed)  # the same resamples for all cells
            one, other = a[:, cells], b[:, cells]
            if self.method == "student":
                return resampling.student(one, other, self.level)
            if self.method == "beyond":
                return resampling.beyond(one, other, self.level, self.resamples, rng, quantity.least, mean)
            function = resampling.bca if self.method == "bca" else resampling.percentile_t
            return function(one, other, self.level, self.resamples, rng)

        low, high = in_blocks(block, a.shape[1])
        return (low, high) if mean is None else (np.maximum(low, mean[0]), np.minimum(high, mean[1]))

    def over_groups(self, quantity: Quantity, group: NDArray[np.intp], groups: int) -> list[NDArray[Any]]:
        """Value, low, high, units, reason: each (group, ...), or (...) without groups."""
        every = quantity.examples()
        parts = [self._over_examples(quantity, *(one[group == number] for one in every)) for number in range(groups)]
        return [np.stack(part) for part in zip(*parts, strict=True)]

    def _over_examples(self, quantity: Quantity, a: Array, b: Array, own: Array) -> list[NDArray[Any]]:
        count = (b != 0).sum(0)
        value, low, high = estimate(a, b), *self.bounds(own, b, quantity)
        if quantity.pooled:
            value = np.where(b.sum(0) / np.maximum(count, 1) >= quantity.limit, value, np.nan)
        reason = _reasons(value, low, high, count, MIN_EXAMPLES, "examples", quantity, alike(own, b))
        bias = np.abs(value - own.sum(0) / np.maximum(count, 1))
        if quantity.total is not None and not quantity.pooled:
            much = bias > BIAS * quantity.numbers.shape[1] * (high - low)
            biased = (reason == "") & much & (bias > 1e-6)
            reason = np.where(biased, "too few draws for a mean of ratios: take pooled=True", reason)
        return self._finished(quantity, value, low, high, count, reason)

    def over_draws(self, quantity: Quantity) -> list[NDArray[Any]]:
        """The same of each example: (example, ...)."""
        parts = []
        for example in range(len(quantity.numbers)):
            a, b = quantity.draws(example)
            count = (b != 0).sum(0)
            value, low, high = estimate(a, b), *self.bounds(a, b, quantity)
            if quantity.total is not None:
                value = np.where(b.sum(0) / np.maximum(count, 1) >= quantity.limit, value, np.nan)
            reason = _reasons(value, low, high, count, MIN_DRAWS, "draws", quantity, alike(a, b))
            parts.append(self._finished(quantity, value, low, high, count, reason))
        return [np.stack(part) for part in zip(*parts, strict=True)]

    def _finished(self, quantity: Quantity, *columns: NDArray[Any]) -> list[NDArray[Any]]:
        value, low, high, count, reason = columns
        low, high = (np.where(reason == "", bound, np.nan) for bound in (low, high))
        return [one.reshape(quantity.shape) for one in (value, low, high, count, reason)]


def _reasons(
    value: Array, low: Array, high: Array, count: NDArray[Any], least: int, units: str, quantity: Quantity,
    same: NDArray[np.bool_],
) -> NDArray[Any]:  # fmt: skip
    """Why there are no bounds, "" where there are."""
    undefined = "total effect below the threshold" if quantity.total is not None else "no numbers"
    wide = ~(np.isfinite(low) & np.isfinite(high))
    return np.select(
        [np.isnan(value), count < least, same, wide],
        [undefined, f"too few {units}: at least {least}", f"all {units} are alike", f"a few of the {units} decide"],
        "",
    )


def _labelled(quantity: Quantity, columns: list[NDArray[Any]], outer: list[str]) -> xr.Dataset:
    dims = (*outer, *quantity.inner)
    names = ("value", "low", "high", "units", "reason")
    columns = [column if outer else column[0] for column in columns]
    return xr.Dataset({n: (dims, c) for n, c in zip(names, columns, strict=True)}, quantity.coords)
