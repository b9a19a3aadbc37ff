"""What the pictures draw with: the chosen numbers, titles, colours, colour bars, notes."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import CenteredNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray

from nnblip import effects
from nnblip.effects import reading
from nnblip.errors import visible
from nnblip.plot.words import VALUES, headline_of, label_of, severe, target_of

__all__ = ["VALUES", "label_of"]

TEXT, SMALL = 9.0, 8.0
UNDEFINED = "0.9"
# Colours never span less than this, so that a map of (next to) no effect looks like one.
LEAST_RANGE = 0.01


def values_of(tree: xr.DataTree, component: str, value: str, threshold: float) -> xr.DataArray:
    """One of `VALUES` of a node."""
    if value == "indirect_effect":
        tree = effects.indirect_effect(tree)
    elif value == "relevance":
        tree = effects.relevance(tree, threshold)
    return tree[component].to_dataset()["probability"]


def clean_and_corrupted(tree: xr.DataTree) -> tuple[float, float]:
    clean, corrupted = (tree[name].to_dataset()["probability"] for name in ("clean", "corrupted"))
    return float(clean), float(reading.over_draws(corrupted))


def norm_of(tree: xr.DataTree, numbers: NDArray[Any], value: str) -> Normalize:
    if value == "probability":
        every = [*numbers[np.isfinite(numbers)], *clean_and_corrupted(tree)]
        low, high = float(np.nanmin(every)), float(np.nanmax(every))
        spare = max(0.0, LEAST_RANGE - (high - low))
        low = max(low - spare / 2, 0.0)
        return Normalize(low, max(high, low + LEAST_RANGE))
    return CenteredNorm(0.0, max(float(np.nanmax(np.abs(numbers))), LEAST_RANGE))


def why_undefined(tree: xr.DataTree, value: str, threshold: float) -> str:
    if value != "relevance":
        return "No values: these states were not traced."
    clean, corrupted = clean_and_corrupted(tree)
    return (
        f"Relevance is undefined: the mean total effect is below the threshold of {threshold:g}.\n"
        f"P(answer) is {clean:.4f} clean and {corrupted:.4f} corrupted."
    )


def title_of(
    tree: xr.DataTree, node: xr.Dataset, component: str, kind: str, draws: int | None, characters: int
) -> list[str]:
    """Lines: question and answer, then what was done."""
    headline = headline_of(tree, node)
    average = "" if draws is None else ", 1 draw" if draws == 1 else f", mean of {draws} draws"
    done = "damaged" if tree.attrs.get("direction") == "noising" else "restored"
    settings = f"{reading.spoken(component)}, {kind} {done}, ν = {float(tree.coords['nu']):g}{average}"
    parts = [headline, visible(settings), *severe(tree, [component], kind)]
    return [line for part in parts for line in textwrap.wrap(part, characters)]


def colour_bar(
    axes: Axes | list[Axes], colours: ScalarMappable, tree: xr.DataTree, node: xr.Dataset, value: str, height: float
) -> None:
    """A bar of so many inches that says what the colours are, with the clean and the corrupted probability."""
    target = target_of(tree, node)
    names = {
        "probability": target,
        "indirect_effect": f"indirect effect on {target}",
        "relevance": f"relevance for {target}",
    }
    bar = bar_beside(axes, colours, names[value], height)
    if value == "probability":
        clean, corrupted = clean_and_corrupted(tree)
        _mark(bar, {"clean": clean, "corrupted": corrupted}, room=0.17 / height)


def bar_beside(axes: Axes | list[Axes], colours: ScalarMappable, text: str, height: float) -> Colorbar:
    """A bar of so many inches beside the axes, with a text along it."""
    figure = (axes[0] if isinstance(axes, list) else axes).get_figure(root=True)
    assert figure is not None
    bar = figure.colorbar(colours, ax=axes, aspect=18, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=SMALL, length=3, width=0.6)
    bar.ax.set_ylabel(textwrap.fill(text, 10 + int(height * 14)), fontsize=TEXT, parse_math=False)
    return bar


def _mark(bar: Colorbar, marks: dict[str, float], room: float) -> None:
    """Names to the left of a colour bar, each with a tick at its value, moved apart if close.

    `room` is the height of a line of text in parts of the bar.
    """
    low, high = bar.norm.vmin or 0.0, bar.norm.vmax or 1.0
    digits = 3 if max(marks.values()) - min(marks.values()) >= 0.005 else 4
    at = {name: (value - low) / (high - low) for name, value in marks.items()}
    (lower, bottom), (upper, top) = sorted(at.items(), key=lambda item: item[1])
    push = max(0.0, room - (top - bottom)) / 2
    middle = float(np.clip((top + bottom) / 2, room / 2, 1 - room / 2))
    places = {lower: middle - room / 2, upper: middle + room / 2} if push else {lower: bottom, upper: top}
    for name, place in places.items():
        bar.ax.annotate(
            f"{name} {marks[name]:.{digits}f}",
            xy=(0, at[name]),
            xytext=(-9, place),
            xycoords="axes fraction",
            textcoords=("offset points", "axes fraction"),
            ha="right",
            va="center",
            fontsize=SMALL,
            arrowprops={"arrowstyle": "-", "linewidth": 0.8, "shrinkA": 1, "shrinkB": 0},
        )


def notes_on(numbers: NDArray[Any]) -> list[str]:
    """What must be said below the numbers: states without a value."""
    return [] if np.isfinite(numbers).all() else ["grey: no value"]


def say(axes: Axes, text: str) -> Text:
    return axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=TEXT)


def literal(figure: Figure) -> Figure:
    """The figure with every text in it drawn as it is: a `$` in a question begins no formula."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    return figure
