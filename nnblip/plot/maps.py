"""Heatmaps over the layers of a component and its tokens or heads."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

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
from nnblip.sites import HEAD_KINDS, HEADS_NODE


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
        threshold: smallest mean total effect for which relevance is defined.

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
    present = node["probability"].notnull().any([dim for dim in node["probability"].dims if dim != "token"]).values
    shown = [i for i, text in enumerate(texts) if text or present[i]]
    values = values.sel(kind=kind).isel(token=shown)
    numbers = reading.over_draws(values).transpose("token", "layer").values
    labels = [visible(f"{texts[i]}  {node['token'].values[i]}").strip() for i in shown]
    title = partial(title_of, tree, node, component, kind, node.sizes.get("draw"))
    return _drawn(tree, node, values, numbers, labels, "token and its position", value, threshold, title)


def heads(
    tree: xr.DataTree,
    component: str,
    *,
    nu: float | None = None,
    kind: str = HEAD_KINDS[0],
    example: str | None = None,
    value: str = "probability",
    threshold: float = effects.THRESHOLD,
) -> Figure:
    """Heads by layers of one component, each at the token where it has the largest value, the mean over the draws.

    Args:
        tree: a result of `causal_trace` with kinds of heads.
        component: such as `question_encoder`.
        kind: `attention_head` or `crossattention_head`.
        nu, example, value, threshold: as for `heatmap`.

    Raises:
        NnblipError: as `heatmap`.
    """
    one_of(value, VALUES, "value")
    name = component.removesuffix(HEADS_NODE) + HEADS_NODE
    one_of(name, reading.restored(tree), "heads of")
    tree = reading.choose(reading.choose(tree, "nu", nu), "example", example)
    node = reading.restored(tree)[name]
    one_of(kind, node["kind"].values.tolist(), f"kind of {name}")
    values = values_of(tree, name, value, threshold).sel(kind=kind)
    numbers = reading.over_draws(values).max("token").transpose("head", "layer").values
    labels = [f"head {head}" for head in node["head"].values]
    title = partial(title_of, tree, node, component.removesuffix(HEADS_NODE), kind, node.sizes.get("draw"))
    return _drawn(tree, node, values, numbers, labels, "each at its best token", value, threshold, title)


def _drawn(
    tree: xr.DataTree, node: xr.Dataset, values: xr.DataArray, numbers: NDArray[Any], labels: list[str], down: str,
    value: str, threshold: float, title_in: Callable[[int], list[str]],
) -> Figure:  # fmt: skip
    """A figure of numbers (row, layer); `down` is what the rows are."""
    layers = [str(layer) for layer in node["layer"].values]
    rows, columns = numbers.shape
    width, map_height = 3.0 + 0.33 * max(columns, 6), min(max(0.27 * rows, 1.5), 7.5)  # inches
    title = title_in(int(width * 11))
    height = 0.7 + map_height + 0.19 * len(title)
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title("\n".join(title), fontsize=TEXT, loc="left", pad=8, parse_math=False, linespacing=1.4)
    _map_axes(axes, layers, labels, down)

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
    notes = notes_on(numbers)
    if notes:
        axes.set_xlabel(f"layer\n({'; '.join(notes)})", fontsize=TEXT, linespacing=1.5)
    return literal(figure)


def _map_axes(axes: Axes, layers: list[str], tokens: list[str], down: str) -> None:
    step = 1 + len(tokens) // 60  # every layer is labelled; hundreds of patches cannot be
    axes.set_xlim(0, len(layers))
    axes.set_ylim(len(tokens), 0)
    axes.set_xticks(np.arange(len(layers)) + 0.5, layers, fontsize=SMALL)
    axes.set_yticks(np.arange(0, len(tokens), step) + 0.5, tokens[::step], fontsize=SMALL, parse_math=False)
    axes.set_xlabel("layer", fontsize=TEXT)
    axes.set_ylabel(down, fontsize=TEXT)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
