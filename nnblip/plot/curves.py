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
from nnblip.plot.common import SMALL, TEXT, literal, say, severe, wrapped

# Okabe and Ito's colours, which people with any colour vision tell apart, and a marker each.
_LINES = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#000000", "v"))


def gamma(tree: xr.DataTree, *, kind: str = "block", threshold: float = effects.THRESHOLD) -> Figure:
    """Γ(ν), the mean relevance of a component's states, one line per component.

    Points are means over the examples, each a ratio of means over its draws; bars are 95 %
    intervals over the examples, or over the draws if there is a single example (see
    `nnblip.effects.interval`); where there are too few for one, the title says so. Examples
    without a defined relevance at some ν are left out there, and the labels then say how
    many remain.

    Args:
        tree: a result of `causal_trace` or `sweep`, with one ν or several.
        kind: which state of the layers; components that do not have it are left out.
        threshold: smallest total effect for which relevance is defined.

    Raises:
        NnblipError: as `nnblip.gamma`, and if no component has the kind.
    """
    found = effects.interval(tree, "gamma", threshold=threshold)
    over = str(found.attrs["over"])
    every = {name: _of_one(node.to_dataset()) for name, node in found.children.items()}
    one_of(kind, list(dict.fromkeys(k for node in every.values() for k in node["kind"].values.tolist())), "kind")
    curves = {name: node.sel(kind=kind).sortby("nu") for name, node in every.items() if kind in node["kind"].values}
    first = next(iter(curves.values()))
    nus = first["nu"].values.astype(float)
    examples = tree.sizes.get("example", 1)
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for i, (name, curve) in enumerate(curves.items()):
        means, low, high = (curve[bound].values for bound in ("value", "low", "high"))
        colour, marker = _LINES[i % len(_LINES)]
        axes.errorbar(
            nus,
            means,
            yerr=np.maximum([means - low, high - means], 0),  # bounds are without the bias of few draws
            color=colour,
            marker=marker,
            markersize=4.5,
            linewidth=1.3,
            elinewidth=1.0,
            capsize=2.5,
            label=visible(reading.spoken(name)),
        )
    defined = [
        np.where(curve["value"].notnull(), curve["units"] if over == "examples" else 1, 0) for curve in curves.values()
    ]
    counts = np.max(defined, axis=0)
    _nu_axis(axes, nus, counts, examples)
    axes.set_ylabel("Γ(ν), mean relevance", fontsize=TEXT)
    axes.tick_params(labelsize=SMALL, width=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    of = f"{examples} examples" if examples > 1 else "1 example"
    reasons = {str(r) for curve in curves.values() for r in curve["reason"].values if str(r).startswith("too few")}
    of += f", no interval: {reasons.pop()}" if reasons else f", 95 % intervals over {over}"
    title = wrapped([f"{visible(kind)} restored, {of}", *severe(tree)], 66)
    figure.set_figheight(3.4 + 0.17 * (len(title) - 1))
    axes.set_title("\n".join(title), fontsize=TEXT, loc="left")
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


def _of_one(node: xr.Dataset) -> xr.Dataset:
    """Without `example` where there is one, and with ν though it was selected."""
    node = node.isel(example=0) if "example" in node.dims else node
    return node if "nu" in node.dims else node.expand_dims("nu")


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
