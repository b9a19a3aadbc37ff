"""Figures of a result: heatmaps over layers and tokens, and Γ over the strength of the noise.

Every function returns a `matplotlib.figure.Figure`, made without pyplot: nothing is shown,
no global setting is touched and there is nothing to close. Save it with
`figure.savefig("map.pdf")`.
"""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.colors import CenteredNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray

from nnblip import effects, reading
from nnblip.errors import NnblipError, one_of

VALUES = ("probability", "indirect_effect", "relevance")

_TEXT, _SMALL = 9.0, 8.0
_UNDEFINED = "0.9"
# Colours never span less than this, so that a map of (next to) no effect looks like one.
_LEAST_RANGE = 0.01
# Okabe and Ito's colours, which people with any colour vision tell apart, and a marker each.
_LINES = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#000000", "v"))


# ---- heatmap ---------------------------------------------------------------------------------


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
    values = _values(tree, component, value, threshold)
    expected = [dim for dim in ("draw", "kind", "layer", "token") if dim != "draw" or "draw" in values.dims]
    if set(values.dims) != set(expected):
        raise NnblipError(
            f"/{component} has the dimensions {', '.join(map(str, values.dims))}; a heatmap needs"
            f" {', '.join(expected)}. Select one label of any other first, as in tree.sel(head=0)."
        )
    one_of(kind, node["kind"].values.tolist(), f"kind of {component}")

    texts = reading.token_texts(node)
    present = node["probability"].notnull().any([dim for dim in values.dims if dim != "token"]).values
    shown = [i for i, text in enumerate(texts) if text or present[i]]
    values = values.sel(kind=kind).isel(token=shown)
    numbers = reading.over_draws(values).transpose("token", "layer").values
    labels = [f"{texts[i]}  {node['token'].values[i]}".strip() for i in shown]
    layers = [str(layer) for layer in node["layer"].values]

    rows, columns = numbers.shape
    width, map_height = 3.0 + 0.33 * max(columns, 6), min(max(0.27 * rows, 1.5), 7.5)  # inches
    title = _title(tree, node, component, kind, values.sizes.get("draw"), characters=int(width * 11))
    height = 0.7 + map_height + 0.19 * len(title)
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title("\n".join(title), fontsize=_TEXT, loc="left", pad=8, parse_math=False, linespacing=1.4)
    _map_axes(axes, layers, labels)

    if not np.isfinite(numbers).any():
        axes.set_facecolor(_UNDEFINED)
        _say(axes, _why_undefined(tree, value, threshold))
        return figure
    answer = _label(tree, node, "answer")
    mesh = axes.pcolormesh(
        np.ma.masked_invalid(numbers),
        cmap=("viridis" if value == "probability" else "RdBu_r"),
        norm=_norm(tree, numbers, value),
        edgecolors="white" if rows <= 60 else "none",
        linewidth=0.4,
    )
    axes.set_facecolor(_UNDEFINED)
    bar = figure.colorbar(mesh, ax=axes, aspect=18, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=_SMALL, length=3, width=0.6)
    target = f"P(answer = “{answer}”)" if answer else "P(answer)"
    names = {
        "probability": target,
        "indirect_effect": f"indirect effect on {target}",
        "relevance": f"relevance for {target}",
    }
    label = textwrap.fill(names[value], int(height * 14))
    bar.ax.set_ylabel(label, fontsize=_TEXT, parse_math=False)
    if value == "probability":
        clean, corrupted = _clean_and_corrupted(tree)
        _mark(bar, {"clean": clean, "corrupted": corrupted}, room=0.17 / map_height)
    _footnote(axes, values, numbers, value)
    return figure


def _values(tree: xr.DataTree, component: str, value: str, threshold: float) -> xr.DataArray:
    if value == "indirect_effect":
        tree = effects.indirect_effect(tree)
    elif value == "relevance":
        tree = effects.relevance(tree, threshold)
    return tree[component].to_dataset()["probability"]


def _clean_and_corrupted(tree: xr.DataTree) -> tuple[float, float]:
    clean, corrupted = (tree[name].to_dataset()["probability"] for name in ("clean", "corrupted"))
    return float(clean), float(reading.over_draws(corrupted))


def _norm(tree: xr.DataTree, numbers: NDArray[Any], value: str) -> Normalize:
    if value == "probability":
        every = [*numbers[np.isfinite(numbers)], *_clean_and_corrupted(tree)]
        low, high = float(np.nanmin(every)), float(np.nanmax(every))
        spare = max(0.0, _LEAST_RANGE - (high - low))
        low = max(low - spare / 2, 0.0)
        return Normalize(low, max(high, low + _LEAST_RANGE))
    return CenteredNorm(0.0, max(float(np.nanmax(np.abs(numbers))), _LEAST_RANGE))


def _why_undefined(tree: xr.DataTree, value: str, threshold: float) -> str:
    if value != "relevance":
        return "No values: these states were not traced."
    clean, corrupted = _clean_and_corrupted(tree)
    return (
        f"Relevance is undefined: the total effect is below the threshold of {threshold:g}\n"
        f"in every draw. P(answer) is {clean:.4f} clean and {corrupted:.4f} corrupted."
    )


def _title(
    tree: xr.DataTree, node: xr.Dataset, component: str, kind: str, draws: int | None, characters: int
) -> list[str]:
    """Lines: question and answer, then what was done."""
    question, answer = _label(tree, node, "question"), _label(tree, node, "answer")
    headline = f"{question} → {answer}" if question and answer else question or answer
    average = "" if draws is None else ", 1 draw" if draws == 1 else f", mean of {draws} draws"
    settings = f"{_spoken(component)}, {kind} restored, ν = {float(tree.coords['nu']):g}{average}"
    return [*textwrap.wrap(headline, characters), settings]


def _map_axes(axes: Axes, layers: list[str], tokens: list[str]) -> None:
    step = 1 + len(tokens) // 60  # every layer is labelled; hundreds of patches cannot be
    axes.set_xlim(0, len(layers))
    axes.set_ylim(len(tokens), 0)
    axes.set_xticks(np.arange(len(layers)) + 0.5, layers, fontsize=_SMALL)
    axes.set_yticks(np.arange(0, len(tokens), step) + 0.5, tokens[::step], fontsize=_SMALL, parse_math=False)
    axes.set_xlabel("layer", fontsize=_TEXT)
    axes.set_ylabel("token and its position", fontsize=_TEXT)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


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
            fontsize=_SMALL,
            arrowprops={"arrowstyle": "-", "linewidth": 0.8, "shrinkA": 1, "shrinkB": 0},
        )


def _footnote(axes: Axes, values: xr.DataArray, numbers: NDArray[Any], value: str) -> None:
    notes = []
    if value == "relevance" and "draw" in values.dims:
        draws = values.sizes["draw"]
        defined = int(values.notnull().any(["layer", "token"]).sum())
        if defined < draws:
            notes.append(f"relevance is defined in {defined} of {draws} draws")
    if not np.isfinite(numbers).all():
        notes.append("grey: no value")
    if notes:
        label = axes.get_xlabel()
        axes.set_xlabel(f"{label}\n({'; '.join(notes)})", fontsize=_TEXT, linespacing=1.5)


# ---- gamma -----------------------------------------------------------------------------------


def gamma(tree: xr.DataTree, *, kind: str = "block", threshold: float = effects.THRESHOLD) -> Figure:
    """Γ(ν), the mean relevance of a component's states, one line per component.

    Points are means over examples and draws; bars are 95 % intervals from Student's t over
    the examples' means (draws are averaged within an example first), or over the draws if
    the result has a single example. Examples without a defined relevance at some ν are left
    out there, and the labels then say how many remain.

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

    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for i, (name, table) in enumerate(tables.items()):
        means, low, high = np.array([effects.mean_interval(table[at]) for at in order]).T
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
            label=_spoken(name),
        )
    examples = next(iter(tables.values())).shape[1]
    counts = _defined(tables)[order]
    _nu_axis(axes, nus, counts, examples)
    axes.set_ylabel("Γ(ν), mean relevance", fontsize=_TEXT)
    axes.tick_params(labelsize=_SMALL, width=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    over = f"{examples} examples" if examples > 1 else "1 example"
    over += f", 95 % intervals over {'examples' if examples > 1 else 'draws'}"
    axes.set_title(f"{kind} restored, {over}", fontsize=_TEXT, loc="left")
    if counts.any():
        axes.axhline(0, color="0.75", linewidth=0.8, zorder=0)
        axes.legend(frameon=False, fontsize=_SMALL)
    else:
        axes.set_yticks([])
        _say(
            axes,
            f"Relevance is undefined: the total effect is below\nthe threshold of {threshold:g} at every ν.",
        )
    return figure


def _tables(curve: xr.DataArray) -> NDArray[Any]:
    """Γ of one component as an array (nu, example, draw), with length 1 for what was selected before."""
    missing = [dim for dim in ("nu", "example", "draw") if dim not in curve.dims]
    return curve.expand_dims(missing).transpose("nu", "example", "draw").values


def _defined(tables: dict[str, NDArray[Any]]) -> NDArray[Any]:
    """How many examples have a Γ at each ν, in the component that has most."""
    counts = [np.isfinite(table).any(axis=2).sum(axis=1) for table in tables.values()]
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
    axes.set_xlabel(name, fontsize=_TEXT)


# ---- both ------------------------------------------------------------------------------------


def _say(axes: Axes, text: str) -> Text:
    return axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=_TEXT)


def _spoken(name: str) -> str:
    return name.replace("_", " ")


def _label(tree: xr.DataTree, node: xr.Dataset, name: str) -> str:
    """The question or answer of the chosen example, "" if the result has none."""
    for coords in (tree.coords, node.coords, tree["clean"].coords):
        if name in coords:
            return str(coords[name].item())
    return ""
