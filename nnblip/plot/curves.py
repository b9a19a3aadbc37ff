"""Γ over the strength of the noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nnblip import effects
from nnblip.effects import reading
from nnblip.errors import one_of, visible
from nnblip.plot.common import SMALL, TEXT, literal, say

# Okabe and Ito's colours, which people with any colour vision tell apart, and a marker each.
_LINES = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#000000", "v"))


def gamma(tree: xr.DataTree, *, kind: str = "block", threshold: float = effects.THRESHOLD) -> Figure:
    """Γ(ν), the mean relevance of a component's states, one line per component.

    Points are means over the examples, each a ratio of means over its draws; bars are 95 %
    intervals over the examples, and there is none for a single one. Examples without a defined
    relevance at some ν are left out there, and the labels then say how many remain.

    Args:
        tree: a result of `causal_trace` or `sweep`, with one ν or several.
        kind: which state of the layers; components that do not have it are left out.
        threshold: smallest total effect for which relevance is defined.

    Raises:
        NnblipError: as `nnblip.gamma`, and if no component has the kind.
    """
    curves = effects.gamma(tree, threshold)
    one_of(kind, curves["kind"].values.tolist(), "kind")
    nodes = reading.restored(tree)
    names = [str(name) for name in curves if kind in nodes[str(name)]["kind"].values]
    tables = {name: _tables(curves[name].sel(kind=kind)) for name in names}
    nus = np.atleast_1d(curves["nu"].values).astype(float)
    order = np.argsort(nus)
    nus = nus[order]

    examples = next(iter(tables.values())).shape[1]
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for i, (name, table) in enumerate(tables.items()):
        means, low, high = np.array([effects.mean_interval(table[at][:, None]) for at in order]).T
        low, high = (np.where(examples > 1, bound, np.nan) for bound in (low, high))
        colour, marker = _LINES[i % len(_LINES)]
        axes.errorbar(
            nus,
            means,
            yerr=np.array([means - low, high - means]),
            color=colour,
            marker=marker,
            markersize=4.5,
            linewidth=1.3,
            elinewidth=1.0,
            capsize=2.5,
            label=visible(reading.spoken(name)),
        )
    counts = _defined(tables)[order]
    _nu_axis(axes, nus, counts, examples)
    axes.set_ylabel("Γ(ν), mean relevance", fontsize=TEXT)
    axes.tick_params(labelsize=SMALL, width=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    over = f"{examples} examples" if examples > 1 else "1 example"
    over += ", 95 % intervals" if examples > 1 else ""
    axes.set_title(f"{visible(kind)} restored, {over}", fontsize=TEXT, loc="left")
    if counts.any():
        axes.axhline(0, color="0.75", linewidth=0.8, zorder=0)
        axes.legend(frameon=False, fontsize=SMALL)
    else:
        axes.set_yticks([])
        say(
            axes,
            f"Relevance is undefined: the mean total effect is\nbelow the threshold of {threshold:g} at every ν.",
        )
    return literal(figure)


def _tables(curve: xr.DataArray) -> NDArray[Any]:
    """Γ of one component as an array (nu, example), with length 1 for what was selected before."""
    missing = [dim for dim in ("nu", "example") if dim not in curve.dims]
    return curve.expand_dims(missing).transpose("nu", "example").values


def _defined(tables: dict[str, NDArray[Any]]) -> NDArray[Any]:
    """How many examples have a Γ at each ν, in the component that has most."""
    counts = [np.isfinite(table).sum(axis=1) for table in tables.values()]
    return np.asarray(np.max(counts, axis=0))


def _nu_axis(axes: Axes, nus: NDArray[Any], counts: NDArray[Any], examples: int) -> None:
    """The scale on which neighbouring ν stand farthest apart, with every ν labelled."""
    scales: dict[str, dict[str, float]] = {"linear": {}}
    if (nus > 0).all():
        scales["log"] = {}
    elif (nus >= 0).all() and (nus > 0).any():
        scales["symlog"] = {"linthresh": float(nus[nus > 0].min())}

    def closest(scale: str) -> float:
        axes.set_xscale(scale, **scales[scale])
        at = axes.transScale.transform([(nu, 0) for nu in nus])[:, 0]
        return float(np.min(np.diff(at)) / (at[-1] - at[0]))

    gap = 1.0
    if len(nus) > 1:
        best = max(scales, key=closest)
        gap = closest(best)
    else:
        axes.set_xlim(nus[0] - 1, nus[0] + 1)
    labels = [f"{nu:g}" for nu in nus]
    name = "noise factor ν"
    if (counts < examples).any():
        labels = [f"{label}\nn = {count}" for label, count in zip(labels, counts, strict=True)]
        name += " (n: examples with a defined relevance)"
    axes.set_xticks(nus, labels, rotation=90 if gap < 0.06 else 0)
    axes.minorticks_off()
    axes.set_xlabel(name, fontsize=TEXT)
