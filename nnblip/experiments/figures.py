"""Axes that look alike, and lines that can be told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nnblip.experiments.numbers import Mean

#: Okabe and Ito's colours and a marker each, for lines that must be told apart.
STYLES = [("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v"), ("#56B4E9", "P"),
          ("#6B4226", "X"), ("0.5", "*")]  # fmt: skip
#: More lines than these nobody tells apart.
MOST_LINES = len(STYLES)


def tidy(axes: Axes, title: str, x: str = "", y: str = "") -> None:
    axes.set_title(title, fontsize=8, loc="left", parse_math=False)
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.tick_params(labelsize=8, width=0.6, length=3 if x else 0)
    axes.spines[["top", "right"]].set_visible(False)


def legend(figure: Figure, axes: Axes) -> None:
    """Below all panels, in as many columns as there is room for."""
    handles = axes.get_legend_handles_labels()
    for columns in (4, 3, 2, 1):
        made = figure.legend(*handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)
        if made.get_window_extent().width <= figure.bbox.width:
            return
        if columns > 1:
            made.remove()


def line(axes: Axes, at: np.ndarray, found: xr.Dataset, number: int, label: str, aside: float = 0.03) -> None:
    """A mean with its interval at each place, moved aside a little so that intervals do not cover each other.

    Args:
        axes: where.
        at: (place).
        found: `value`, `low` and `high`, (place).
        number: which line this is.
        label: for the legend.
        aside: how far each line is moved, in parts of the step from place to place.
    """
    colour, marker = STYLES[number % MOST_LINES]
    value, low, high = (found[name].values for name in ("value", "low", "high"))
    places = np.asarray(at, float) + aside * (number % MOST_LINES) * float(np.min(np.diff(at), initial=1.0))
    error = np.nan_to_num(np.maximum([value - low, high - value], 0))
    axes.errorbar(
        places, value, error, fmt=f"{marker}-", color=colour, markersize=3.5, linewidth=1.1, elinewidth=0.8,
        capsize=1.5, label=label.replace("$", r"\$"),
    )  # fmt: skip


def near_means(axes: Axes, means: Sequence[np.ndarray]) -> None:
    """Limit an axis to where the means are: an interval of few examples may be many times as wide as all else."""
    every = np.concatenate([one.ravel() for one in means])
    if np.isfinite(every).any():
        room = max(0.4 * float(np.nanmax(every) - np.nanmin(every)), 0.1)
        axes.set_ylim(np.nanmin(every) - room, np.nanmax(every) + room)


def profiles(lines: Mapping[str, Mapping[str, xr.Dataset]], y: str, title: str = "") -> Figure:
    """Layer profiles: a panel for each of the outer names, a line for each of the inner ones.

    Args:
        lines: `value`, `low` and `high` by layer.
        y: what is shown; intervals that are much wider than all means together go beyond the panel.
        title: above all.
    """
    figure = Figure(figsize=(6.9, 2.9 + 0.16 * max(map(len, lines.values()))), layout="constrained")
    panels = figure.subplots(1, len(lines), sharey=True, squeeze=False)[0]
    for axes, (name, inner) in zip(panels, lines.items(), strict=True):
        for number, (label, found) in enumerate(inner.items()):
            line(axes, found["layer"].values, found, number, label)
        axes.axhline(0, color="0.75", linewidth=0.8, zorder=0)
        tidy(axes, name.replace("_", " "), "layer", y if axes is panels[0] else "")
        axes.set_xticks(next(iter(inner.values()))["layer"].values)
    near_means(panels[0], [found["value"].values for inner in lines.values() for found in inner.values()])
    if title:
        figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    legend(figure, panels[0])
    return figure


def forest(rows: Mapping[str, Mapping[str, Mean]], x: str, title: str, coloured: Mapping[str, int]) -> Figure:
    """Means with their intervals below each other: a row for each name, a panel for each inner name.

    Args:
        rows: of each row what it has in which panel.
        x: what is shown; intervals that are much wider than all means together go beyond the panel.
        title: above all.
        coloured: rows in one of the colours of `STYLES`; the others are grey.
    """
    inner = list(dict.fromkeys(name for of in rows.values() for name in of))
    figure = Figure(figsize=(6.9, 1.0 + 0.21 * len(rows)), layout="constrained")
    panels = figure.subplots(1, len(inner), sharey=True, squeeze=False)[0]
    for axes, panel in zip(panels, inner, strict=True):
        for place, (name, of) in enumerate(rows.items()):
            if panel not in of:
                continue
            found, colour = of[panel], STYLES[coloured[name]][0] if name in coloured else "0.35"
            error = np.nan_to_num(np.maximum([[found.value - found.low], [found.high - found.value]], 0))
            axes.errorbar([found.value], [place], xerr=error, fmt="o", color=colour, markersize=3.5, capsize=1.5)
        means = np.array([0.0, *(of[panel].value for of in rows.values() if panel in of)])
        room = max(0.75 * float(np.nanmax(means) - np.nanmin(means)), 0.02)
        axes.set_xlim(np.nanmin(means) - room, np.nanmax(means) + room)
        axes.axvline(0, color="0.75", linewidth=0.8, zorder=0)
        tidy(axes, panel.replace("_", " ").replace(", ", ",\n"), x)
    panels[0].set_yticks(range(len(rows)), list(rows))
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    return figure
