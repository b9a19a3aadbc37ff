"""Heatmaps over the layers and tokens of a component."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nnblip import effects
from nnblip.effects import reading
from nnblip.errors import ResultError, one_of, visible
from nnblip.plot.common import (
    SMALL,
    TEXT,
    UNDEFINED,
    VALUES,
    colour_bar,
    literal,
    norm_of,
    notes_on,
    say,
    title_of,
    values_of,
    why_undefined,
)


def heatmap(
    tree: xr.DataTree,
    component: str,
    *,
    nu: float | None = None,
    kind: str = "block",
    example: str | None = None,
    value: str = "probability",
    threshold: float = effects.THRESHOLD,
) -> Figure:
    """Tokens by layers of one component, each cell the mean over the draws of the noise.

    Tokens run from top to bottom in reading order, each with its position; layers and
    positions are counted from 0, as in `nnblip.Site`. The layout is that of the figures of
    Palit et al. 2023 (arXiv:2308.14179).

    Args:
        tree: a result of `causal_trace`.
        component: a restored node with the dimensions kind, layer and token, such as
            `question_encoder`.
        nu: noise factor; may be left out if the result has one.
        kind: which state of the layers.
        example: name of the example; may be left out if the result has one.
        value: `probability` of the answer, with the clean and the corrupted run marked on
            the colour bar; or `indirect_effect` or `relevance`, with colours centred at 0.
        threshold: smallest total effect for which relevance is defined; draws below it are
            left out, and the figure says how many remain.

    Raises:
        NnblipError: if the component, kind, example, ν or value is not there (the nearest
            is suggested), or `nu` or `example` is left out where there are several.
    """
    one_of(value, VALUES, "value")
    one_of(component, reading.restored(tree), "component")
    tree = reading.choose(reading.choose(tree, "nu", nu), "example", example)
    node = reading.restored(tree)[component]
    values = values_of(tree, component, value, threshold)
    expected = [dim for dim in ("draw", "kind", "layer", "token") if dim != "draw" or "draw" in values.dims]
    if set(values.dims) != set(expected):
        raise ResultError(
            f"/{component} has the dimensions {', '.join(map(str, values.dims))}; a heatmap needs"
            f" {', '.join(expected)}. Select one label of any other first, as in tree.sel(head=0)."
        )
    one_of(kind, node["kind"].values.tolist(), f"kind of {component}")

    texts = reading.token_texts(node)
    present = node["probability"].notnull().any([dim for dim in values.dims if dim != "token"]).values
    shown = [i for i, text in enumerate(texts) if text or present[i]]
    values = values.sel(kind=kind).isel(token=shown)
    numbers = reading.over_draws(values).transpose("token", "layer").values
    labels = [visible(f"{texts[i]}  {node['token'].values[i]}").strip() for i in shown]
    layers = [str(layer) for layer in node["layer"].values]

    rows, columns = numbers.shape
    width, map_height = 3.0 + 0.33 * max(columns, 6), min(max(0.27 * rows, 1.5), 7.5)  # inches
    title = title_of(tree, node, component, kind, values.sizes.get("draw"), characters=int(width * 11))
    height = 0.7 + map_height + 0.19 * len(title)
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title("\n".join(title), fontsize=TEXT, loc="left", pad=8, parse_math=False, linespacing=1.4)
    _map_axes(axes, layers, labels)

    if not np.isfinite(numbers).any():
        axes.set_facecolor(UNDEFINED)
        say(axes, why_undefined(tree, value, threshold))
        return literal(figure)
    mesh = axes.pcolormesh(
        np.ma.masked_invalid(numbers),
        cmap=("viridis" if value == "probability" else "RdBu_r"),
        norm=norm_of(tree, numbers, value),
        edgecolors="white" if rows <= 60 else "none",
        linewidth=0.4,
    )
    axes.set_facecolor(UNDEFINED)
    colour_bar(axes, mesh, tree, node, value, map_height)
    notes = notes_on(values, numbers, value)
    if notes:
        axes.set_xlabel(f"layer\n({'; '.join(notes)})", fontsize=TEXT, linespacing=1.5)
    return literal(figure)


def _map_axes(axes: Axes, layers: list[str], tokens: list[str]) -> None:
    step = 1 + len(tokens) // 60  # every layer is labelled; hundreds of patches cannot be
    axes.set_xlim(0, len(layers))
    axes.set_ylim(len(tokens), 0)
    axes.set_xticks(np.arange(len(layers)) + 0.5, layers, fontsize=SMALL)
    axes.set_yticks(np.arange(0, len(tokens), step) + 0.5, tokens[::step], fontsize=SMALL, parse_math=False)
    axes.set_xlabel("layer", fontsize=TEXT)
    axes.set_ylabel("token and its position", fontsize=TEXT)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
