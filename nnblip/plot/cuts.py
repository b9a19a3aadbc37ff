"""Knock-out maps: what the answer needs of connections."""

from __future__ import annotations

import math
import textwrap
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import CenteredNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nnblip import effects
from nnblip.edges import EDGES, SOURCES
from nnblip.effects import reading
from nnblip.errors import ResultError, SettingError, one_of, visible
from nnblip.plot.cells import mean_over
from nnblip.plot.common import LEAST_RANGE, SMALL, TEXT, UNDEFINED, bar_beside, literal, notes_on
from nnblip.plot.words import chosen_example, headline_of, target_of, texts_of
from nnblip.results import VARIABLES

_WIDTH = 6.4  # inches: of a page's text; panels that do not fit go into the next row
_CELL = 0.24  # inches


def knock_outs(
    tree: xr.DataTree,
    *,
    edges: str | None = None,
    window: int | None = None,
    by: str | None = None,
    example: str | None = None,
    variable: str = VARIABLES[0],
) -> Figure:
    """Sources by layers, a panel for each target: what the answer loses when these edges alone are cut.

    Each cell is `nnblip.effects.knock_out_effect`, clean − knocked out: red where the answer needs the edge, blue where
    it is better without. A window's cell stands at its first layer.

    Args:
        tree: a result of `causal_trace` with `cells=nnblip.sites.knock_outs(...)`.
        edges, window, by: from where to where, how many layers are cut together, and how; each may be left out if the
            result has one.
        example: name of the example; the mean over all of them if None.
        variable: which of the three numbers; a logit difference shows what a probability near 1 hides.

    Raises:
        NnblipError: if the result has no knock-outs, none that is named, or several where one has to be named; or
            if two of them would have one place.
    """
    one_of(variable, VARIABLES, "variable")
    every = effects.knock_out_effect(tree)
    tree = chosen_example(tree, example)
    if "example" not in tree.sizes and "example" in every.dims:
        every = every.sel(example=tree.coords["example"].item())
    found = _one(_one(_one(every, "edges", edges), "window", window), "by", by)
    edges, width, by = (found[name].values[0].item() for name in ("edges", "window", "by"))
    values, examples, notes = mean_over(found[variable])
    sources, targets = (list(dict.fromkeys(found[name].values.tolist())) for name in ("source", "target"))
    layers = np.arange(int(found["layer"].min()), int(found["layer"].max()) + 1)
    numbers = _placed(found, values.values, targets, sources, layers)

    target = target_of(tree, every, variable)
    texts = {name: texts_of(tree, component) for name, component in (("source", SOURCES[edges]),
                                                                    ("target", EDGES[edges][0]))}  # fmt: skip
    rows = [_named(source, texts["source"]) for source in sources]
    labels = min(max(map(len, rows)) * 0.075, 2.2)  # inches
    panel = _CELL * max(len(layers), 4)
    across = max(1, min(len(targets), int((_WIDTH - labels - 1.0) / (panel + 0.12))))
    down = math.ceil(len(targets) / across)
    high = max(_CELL * len(sources), 0.7)
    size = max(labels + across * (panel + 0.12) + 1.2, 4.2)
    of = f"window of {width} layers, at its first" if width > 1 else "each layer alone"
    done = {"mask": "cut by mask", "mean": "replaced by the mean"}.get(by, by)
    title = [
        line
        for part in (headline_of(tree, every, examples), f"{reading.spoken(edges)} {done}, {of}")
        for line in textwrap.wrap(part, int(size * 12))
    ]
    below = ["layer", *(f"({note})" for note in [*notes, *notes_on(numbers)])]
    figure = Figure(
        figsize=(size, 0.35 + 0.19 * len(title) + down * (high + 0.48) + 0.17 * len(below)), layout="constrained"
    )
    figure.suptitle("\n".join(title), fontsize=TEXT, x=0.05 / size, ha="left", linespacing=1.4)
    figure.supxlabel("\n".join(below), fontsize=TEXT, linespacing=1.4)
    panels: list[Axes] = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).ravel().tolist()
    largest = float(np.nanmax(np.abs(numbers), initial=0.0)) if np.isfinite(numbers).any() else 0.0
    norm = CenteredNorm(0.0, max(largest, LEAST_RANGE))
    for number, axes in enumerate(panels):
        if number >= len(targets):
            axes.set_visible(False)
            continue
        _panel(axes, numbers[number], norm, layers, rows)
        axes.set_title(_named(targets[number], texts["target"]), fontsize=SMALL, pad=3)
        if number + across >= len(targets):  # the last of its column
            axes.tick_params(labelbottom=True)
    bar_beside(panels, ScalarMappable(norm, "RdBu_r"), f"{target}, clean − cut", down * (high + 0.3))
    return literal(figure)


def _one(found: xr.Dataset, name: str, label: Any) -> xr.Dataset:
    """The knock-outs of one label, the only one if none is named."""
    have = list(dict.fromkeys(found[name].values.tolist()))
    said = ", ".join(map(str, have))
    if label is None:
        if len(have) > 1:
            raise SettingError(f"the knock-outs of the result have {len(have)} values of {name}: {said}. Choose one"
                               f" with {name}=.")  # fmt: skip
        return found
    if label not in have or isinstance(label, bool):
        raise SettingError(f"{name} {label!r} is not among the knock-outs of the result. It has: {said}.")
    return found.isel(knock_out=found[name].values == label)


def _placed(
    found: xr.Dataset, values: NDArray[Any], targets: list[str], sources: list[str], layers: NDArray[Any]
) -> NDArray[Any]:
    """(target, source, layer), NaN where there is no knock-out."""
    numbers = np.full((len(targets), len(sources), len(layers)), np.nan)
    places = zip(*(found[name].values.tolist() for name in ("target", "source", "layer", "knock_out")), strict=True)
    taken: dict[tuple[int, int, int], str] = {}
    for (target, source, layer, name), value in zip(places, values, strict=True):
        place = targets.index(target), sources.index(source), layer - int(layers[0])
        if place in taken:
            raise ResultError(
                f"{taken[place]!r} and {name!r} have one place in the map; select one of them, or call their"
                " sources and targets different names"
            )
        taken[place] = name
        numbers[place] = value
    return numbers


def _panel(axes: Axes, numbers: NDArray[Any], norm: CenteredNorm, layers: NDArray[Any], rows: list[str]) -> None:
    axes.pcolormesh(np.ma.masked_invalid(numbers), cmap="RdBu_r", norm=norm, edgecolors="white", linewidth=0.4)
    axes.set_facecolor(UNDEFINED)
    axes.set_ylim(len(rows), 0)
    step = 1 + len(rows) // 60
    axes.set_xticks(np.arange(len(layers)) + 0.5, layers.astype(str), fontsize=SMALL)
    axes.set_yticks(np.arange(0, len(rows), step) + 0.5, rows[::step], fontsize=SMALL)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _named(label: str, texts: dict[int, str]) -> str:
    """A token with its text, where it is one and the text is known; what a family calls others."""
    text = texts.get(int(label)) if label.isascii() and label.isdigit() else None
    return f"{text}  {label}" if text else visible(label)
