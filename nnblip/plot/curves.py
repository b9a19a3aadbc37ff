"""Γ over the strength of the noise, with bands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from nnblip import effects
from nnblip.effects import reading
from nnblip.errors import one_of, visible
from nnblip.plot import words
from nnblip.plot.around import Below, Panel
from nnblip.plot.canvas import COLUMN, LINE, SMALL, TEXT, inches, put_caption, width_of, wrapped
from nnblip.sites import COMPONENTS

#: Okabe and Ito's colours, which people with any colour vision tell apart, and a marker each.
LINES = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#000000", "v"), ("#E69F00", "P"),
         ("#56B4E9", "X"), ("#6B4226", "*"))  # fmt: skip
#: Inches from the left edge to a plot of lines: its label, and ticks of a few digits.
LEFT = 0.6


def gamma(
    tree: xr.DataTree,
    *,
    kind: str = "block",
    example: str | None = None,
    threshold: float = effects.THRESHOLD,
    level: float = 0.95,
    title: str | None = None,
    width: float | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Γ(ν), the mean relevance of a component's states, one line per component.

    Points are means over the examples, each a ratio of means over its draws; bands are intervals over the examples, or
    over the draws if there is a single example (see `nnblip.effects.interval`); where there are too few for one, it is
    said. Examples without a defined relevance at some ν are left out there, and the labels then say how many remain.

    Args:
        tree: a result of `causal_trace` or `sweep`, with one ν or several.
        kind: which state of the layers; components that do not have it are left out.
        example: name of the example; the mean over all if None.
        threshold: smallest total effect for which relevance is defined.
        level: of the intervals.
        title, width, ax: as for `heatmap`.

    Raises:
        NnblipError: as `nnblip.gamma`, and if no component has the kind or there is no such example.
    """
    tree = words.chosen_example(tree, example)
    found = cast(xr.DataTree, effects.interval(tree, "gamma", threshold=threshold, level=level))
    over = str(found.attrs["over"])
    every = {name: _of_one(node.to_dataset()) for name, node in found.children.items()}
    one_of(kind, list(dict.fromkeys(k for node in every.values() for k in node["kind"].values.tolist())), "kind")
    names = sorted((n for n in every if kind in every[n]["kind"].values), key=[*COMPONENTS, *every].index)
    curves = {name: every[name].sel(kind=kind).sortby("nu") for name in names}
    nus = next(iter(curves.values()))["nu"].values.astype(float)
    examples = tree.sizes.get("example", 1)
    wide = width_of(width, COLUMN, ax)
    panel = Panel(ax, wide, LEFT, min(0.55 * wide, 2.6))
    axes = panel.axes
    styles = dict(zip(curves, LINES, strict=False))
    for name, curve in curves.items():
        banded(axes, nus, curve, styles[name])
    defined = [
        np.where(curve["value"].notnull(), curve["units"] if over == "examples" else 1, 0) for curve in curves.values()
    ]
    counts = np.max(defined, axis=0)
    depth = _nu_axis(axes, nus, counts, examples, panel.inner)
    line_axes(axes, "Γ(ν), mean relevance")
    below = panel.below(depth)
    bands = _bands(curves, over, level)
    if counts.any():
        axes.axhline(0, color="0.75", linewidth=0.8, zorder=0)
        lines_below(below, {reading.spoken(name): style for name, style in styles.items()})
    else:
        axes.set_yticks([])
        why = f"Relevance is undefined: the mean total effect is below the threshold of {threshold:g} at every ν."
        axes.text(0.5, 0.5, "\n".join(wrapped(why, panel.inner - 0.2)), transform=axes.transAxes, ha="center",
                  va="center", fontsize=TEXT)  # fmt: skip
    below.text(wrapped(bands, wide - 0.08, SMALL))
    grave = words.severe(tree, curves, kind)
    clean = tree["clean"].to_dataset()
    of = words.headline_of(tree, clean, examples if "example" in tree.dims else None) or "1 example"
    lines = [title] if title is not None else [of, f"{visible(kind)} {words.done_to(tree)}"]
    of_all = " and ".join(f"the {reading.spoken(name)}" for name in curves)
    said = [
        f"Γ(ν), the relevance of single states ({visible(kind)}) averaged over all layers and tokens, of {of_all}.",
        "Relevance is the sum of the indirect effects over that of the total effects.",
        *words.run_sentences(tree, tree["corrupted"].to_dataset(), tree.sizes.get("example")),
        f"{bands[0].upper()}{bands[1:]}.",
        "n: examples with a defined relevance." if (counts < examples).any() else "",
        *(f"{one}." for one in grave),
    ]
    put_caption(axes, said, words.provenance(tree))
    return cast(Figure, panel.finish([*lines, *grave], below))


def _bands(curves: Mapping[str, xr.Dataset], over: str, level: float) -> str:
    """What the bands are, and where there are too few for one."""
    few = {
        (str(why), float(nu))
        for curve in curves.values()
        for why, nu in zip(curve["reason"].values, curve["nu"].values, strict=True)
        if str(why).startswith("too few")
    }
    at = sorted({nu for _, nu in few})
    if few and len(at) == len(next(iter(curves.values()))["nu"]):
        return f"no interval: {next(iter(few))[0]}"
    said = f"bands: {100 * level:g} % intervals over {over}"
    return said + (f"; none at ν = {', '.join(f'{nu:g}' for nu in at)}: {next(iter(few))[0]}" if few else "")


def _of_one(node: xr.Dataset) -> xr.Dataset:
    """Without `example` where there is one, and with ν though it was selected."""
    node = node.isel(example=0) if "example" in node.dims else node
    return node if "nu" in node.dims else node.expand_dims("nu")


def banded(axes: Axes, at: NDArray[Any], curve: xr.Dataset, style: tuple[str, str]) -> None:
    """A line of `value` with a band from `low` to `high`; around a point that stands alone, a bar."""
    colour, marker = style
    mean, low, high = (curve[name].values for name in ("value", "low", "high"))
    axes.plot(at, mean, color=colour, marker=marker, markersize=3.5, linewidth=1.2, gid="mean", clip_on=False, zorder=3)
    known = np.isfinite(low) & np.isfinite(high)
    axes.fill_between(at, low, high, where=known, color=colour, alpha=0.18, linewidth=0, gid="band")
    near = np.pad(known, 1)
    alone = known & ~near[:-2] & ~near[2:]
    axes.vlines(at[alone], low[alone], high[alone], color=colour, alpha=0.5, linewidth=2.5, gid="bar")


def line_axes(axes: Axes, label: str) -> None:
    """What all plots of lines look like."""
    axes.set_ylabel(label, fontsize=TEXT, labelpad=2)
    axes.tick_params(labelsize=SMALL, width=0.6, length=2.5, pad=2)
    axes.spines[["top", "right"]].set_visible(False)


def lines_below(below: Below, lines: dict[str, tuple[str, str]]) -> None:
    """Which line is what, by name."""
    entries: Sequence[Any] = [
        (Line2D([], [], color=colour, marker=marker, markersize=3.5, linewidth=1.2), visible(name))
        for name, (colour, marker) in lines.items()
    ]
    below.legend(entries)


def _nu_axis(axes: Axes, nus: NDArray[Any], counts: NDArray[Any], examples: int, wide: float) -> float:
    """The scale on which neighbouring ν stand farthest apart, with every ν labelled; how deep ticks and label are."""
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
    widest = max(inches(label, SMALL) for label in labels)
    turned = 0.9 * gap * wide < widest + 0.05
    axes.set_xticks(nus, labels, rotation=90 if turned else 0)
    axes.minorticks_off()
    lines = wrapped(name, wide)
    axes.set_xlabel("\n".join(lines), fontsize=TEXT, labelpad=2)
    high = widest if turned else SMALL / 72 * (1.3 if "\n" not in labels[0] else 2.5)
    return 0.09 + high + LINE * len(lines)
