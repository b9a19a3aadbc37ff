"""A circuit: the strongest edges as arrows, components from left to right, layers from bottom to top."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch

from nnblip import effects
from nnblip.effects import reading
from nnblip.errors import ResultError, one_of, visible, whole
from nnblip.plot.cells import mean_over
from nnblip.plot.common import SMALL, TEXT, literal, say
from nnblip.plot.words import chosen_example, headline_of, severe, target_of, texts_of
from nnblip.results import VARIABLES
from nnblip.sites import COMPONENTS, EDGES_NODE

#: Effects below this are rounding of float32, and no edge is drawn for them.
ROUNDING = 1e-5

# Okabe and Ito's colours, which people with any colour vision tell apart, with a marker each, and where in a layer it
# stands: the sublayers in the order in which they are computed.
_PARTS = {
    "attention": ("#E69F00", "o", 0.0),
    "crossattention": ("#009E73", "s", 0.3),
    "mlp": ("#CC79A7", "^", 0.6),
    "block": ("#999999", "D", 0.78),
}
_MORE, _LESS = "#B2182B", "#2166AC"  # the ends of the maps' colours
_INPUTS: dict[str, Any] = {"value": "-", "query": (0, (5, 1.5)), "key": (0, (1.5, 1.2)), "mlp": (0, (5, 1.2, 1, 1.2))}
_ACROSS, _UP = 0.62, 0.8  # inches: of a token, of a layer
_THICK, _THIN = 3.2, 0.7  # points


@dataclass(frozen=True)
class _Node:
    """A sender or receiver; of a region of the image `region` has its patches."""

    component: str
    kind: str
    layer: int
    head: int
    token: int
    region: str = ""

    @property
    def part(self) -> str:
        return self.kind.rsplit("_", 1)[0]

    @property
    def sublayer(self) -> tuple[object, ...]:
        return self.component, self.layer, self.part, self.token, self.region

    @property
    def column(self) -> tuple[int, int | str]:
        number = COMPONENTS.index(self.component)
        return (number, 0) if self.component == "image_encoder" else (number, self.token)


def circuit(
    tree: xr.DataTree,
    *,
    n: int | None = 20,
    interval: float | None = None,
    nu: float | None = None,
    example: str | None = None,
    variable: str = VARIABLES[0],
) -> Figure:
    """The strongest edges as arrows from sender to receiver, each as wide as its indirect effect is strong.

    Image, question encoder and answer decoder stand side by side, each with a column for every token that an edge has
    at an end; layers go up, and in a layer its sublayers. Effects are means over the draws.

    Args:
        tree: a result of `causal_trace` with `cells=nnblip.sites.edges(...)`. Tokens are named where it has their
            texts, as it does if maps of the components were traced too.
        n: how many edges at most, the strongest in either direction; all if None. Effects below `ROUNDING` are none.
        interval: a level of confidence, such as 0.95: only edges whose interval (see `nnblip.effects.interval`)
            excludes 0. Each edge is looked at for itself: of many without an effect some will be among them.
        nu: noise factor; may be left out if the result has one.
        example: name of the example; the mean over all of them if None.
        variable: which of the three numbers.

    Raises:
        NnblipError: if the result has no edges, or no such ν or example, or several ν and none is named; or for an `n`
            or a level that cannot be.
    """
    one_of(variable, VARIABLES, "variable")
    most = None if n is None else whole(n, "n", 1)
    if EDGES_NODE not in reading.restored_names(tree):
        raise ResultError("the result has no node /edges; trace with cells=nnblip.sites.edges(...).")
    tree = chosen_example(reading.choose(tree, "nu", nu), example)
    alone = tree.drop_nodes([name for name in reading.restored_names(tree) if name != EDGES_NODE])
    node = effects.indirect_effect(alone)[EDGES_NODE].to_dataset()
    values, examples, notes = mean_over(node[variable])
    numbers = values.values
    kept, few = np.abs(numbers) >= ROUNDING, ""  # NaN is not
    if interval is not None:
        bounds = effects.interval(alone, variable=variable, level=interval)[EDGES_NODE].to_dataset().squeeze()
        kept &= ((bounds["low"] > 0) | (bounds["high"] < 0)).values.reshape(numbers.shape)
        reasons = [str(reason) for reason in np.ravel(bounds["reason"].values) if str(reason).startswith("too few")]
        few = reasons[0] if reasons else ""
        if few and len(reasons) < numbers.size:
            notes = [*notes, f"{len(reasons)} edges have no interval: {few}"]
    order = np.flatnonzero(kept)[np.argsort(-np.abs(numbers[kept]), kind="stable")]
    shown = order[:most]

    columns, arrows = _columns_of(node, shown, numbers)
    depths = [end.layer for pair in arrows for end in pair[:2] if not end.region] or [0]
    layers = range(min(depths), max(depths) + 1)
    names = {component: texts_of(tree, component) for component in COMPONENTS}
    labels = [_label(column, names) for column in columns]
    title = _title(tree, node, variable, examples, len(shown), len(order), numbers.size, interval, notes)
    size = min(max(1.0 + _ACROSS * (len(columns) + 0.8 * (1 + len({c for c, _ in columns}))), 4.6), 12.0)
    lines = [line for part in title for line in textwrap.wrap(part, int(size * 12.5))]
    up = min(max(_UP * (len(layers) + 0.5), 2.2), 7.5) if len(shown) else 0.8
    figure = Figure(
        figsize=(
            size,
            up + (1.3 if len(shown) else 0) + 0.19 * len(lines) + (0.07 * _widest(labels) if _turned(labels) else 0),
        ),
        layout="constrained",
    )
    axes = figure.add_subplot()
    axes.set_title("\n".join(lines), fontsize=TEXT, loc="left", pad=8, linespacing=1.4)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    if not len(shown):
        axes.set_xticks([])
        axes.set_yticks([])
        why = f"No intervals: {few}." if few else "No edge has an effect."
        if interval is not None and not few:
            why = f"No edge has an effect whose {100 * interval:g} % interval excludes 0."
        say(axes, why)
        return literal(figure)
    _draw(axes, columns, labels, layers, arrows)
    _legend(figure, arrows, target_of(tree, node, variable))
    return literal(figure)


def _title(
    tree: xr.DataTree, node: xr.Dataset, variable: str, examples: int | None, shown: int, kept: int, every: int,
    interval: float | None, notes: Sequence[str],
) -> list[str]:  # fmt: skip
    draws = node.sizes.get("draw")
    average = "" if draws is None else ", 1 draw" if draws == 1 else f", mean of {draws} draws"
    done = "damaged" if tree.attrs.get("direction") == "noising" else "restored"
    of = f"{kept} edges" if shown == kept else f"{shown} strongest of {kept} edges"
    which = "with an effect" if interval is None else f"whose {100 * interval:g} % interval excludes 0"
    return [
        headline_of(tree, node, examples),
        visible(f"edges {done}, ν = {float(tree.coords['nu']):g}{average}"),
        f"{of} {which}, of {every} traced; indirect effect on {target_of(tree, node, variable)}",
        *notes,
        *severe(tree, [EDGES_NODE]),
    ]


_Arrow = tuple[_Node, _Node, str, float, str]


def _columns_of(node: xr.Dataset, shown: Any, numbers: Any) -> tuple[list[tuple[int, Any]], list[_Arrow]]:
    """The columns that are needed, and for each edge its ends, input, effect and name; the strongest last."""
    arrows: list[_Arrow] = []
    for place in shown[::-1]:
        one = node.isel(edge=place)
        ends = [
            _Node(*(one[f"{end}_{part}"].item() for part in ("component", "kind", "layer", "head", "token")))
            for end in ("sender", "receiver")
        ]
        name = str(one["edge"].item())
        if ends[0].component == "image_encoder":
            sender = re.search(r"tokens? ([\d,-]+) ->", name)
            ends[0] = _Node("image_encoder", "block", ends[0].layer, -1, ends[0].token, sender[1] if sender else "?")
        arrows.append((ends[0], ends[1], str(one["input"].item()), float(numbers[place]), name))
    columns = sorted({end.column for arrow in arrows for end in arrow[:2]})
    return columns, arrows


def _label(column: tuple[int, Any], names: dict[str, dict[int, str]]) -> str:
    component = COMPONENTS[column[0]]
    if component == "image_encoder":
        return "image"
    return f"{names[component].get(column[1], '')}\n{column[1]}".strip()


def _widest(labels: list[str]) -> int:
    return max((len(label.split("\n")[0]) for label in labels), default=0)


def _turned(labels: list[str]) -> bool:
    """Whether labels are too wide to stand beside each other."""
    return len(labels) > 1 and _widest(labels) > 8


def _draw(axes: Axes, columns: list[tuple[int, Any]], labels: list[str], layers: range, arrows: list[_Arrow]) -> None:
    at, gap = {}, 0.0
    for number, column in enumerate(columns):
        if number and column[0] != columns[number - 1][0]:
            gap += 0.8
        at[column] = number + gap
    heads: dict[
        tuple[object, ...], set[int]
    ] = {}  # those of one sublayer and token stand side by side, the whole of it among them
    for end in (end for arrow in arrows for end in arrow[:2]):
        heads.setdefault(end.sublayer, set()).add(end.head)
    regions = list(dict.fromkeys(end.region for end in sorted(
        {arrow[0] for arrow in arrows if arrow[0].region}, key=lambda end: _first(end.region))))  # fmt: skip

    def place(end: _Node) -> tuple[float, float]:
        if end.region:  # regions have no layer that would matter: the last of the image encoder is read by all
            return at[end.column], layers[0] - 0.2 + (regions.index(end.region) + 0.5) * (len(layers) - 0.1) / len(
                regions
            )
        beside = sorted(heads[end.sublayer])
        side = (beside.index(end.head) - (len(beside) - 1) / 2) * min(0.26, 0.9 / len(beside))
        return at[end.column] + side, end.layer + _PARTS[end.part][2]

    for component in sorted({column[0] for column in columns}):
        xs = [at[column] for column in columns if column[0] == component]
        left = min(xs) - (0.6 if component else 1.4)  # what regions are called stands left of them
        axes.axvspan(left, max(xs) + 0.6, color="0.955", zorder=0, linewidth=0)
        name = visible(reading.spoken(COMPONENTS[component]))
        axes.text((left + max(xs) + 0.6) / 2, layers[-1] + 0.97, name.replace(" ", "\n") if len(xs) < 3 else name,
                  ha="center", va="bottom", fontsize=SMALL, linespacing=1.1)  # fmt: skip
    largest = max(abs(arrow[3]) for arrow in arrows)
    twins: dict[Any, int] = {}
    for sender, receiver, what, effect, name in arrows:
        (x0, y0), (x1, y1) = place(sender), place(receiver)
        twin = twins[(x0, y0), (x1, y1)] = twins.get(((x0, y0), (x1, y1)), -1) + 1
        length = float(np.hypot((x1 - x0) * _ACROSS, (y1 - y0) * _UP)) or 1.0
        # inches beside the straight line: along a token past what stands between, to another token the more the farther
        bend = (min(0.35, 0.6 * length) if abs(x1 - x0) < 0.5 else 0.15 * length) + 0.22 * twin
        share = abs(effect) / largest
        axes.add_patch(
            FancyArrowPatch(
                (x0, y0), (x1, y1), gid=name, color=_MORE if effect > 0 else _LESS, alpha=0.8, zorder=2 + share,
                linewidth=max(_THICK * share, _THIN), linestyle=_INPUTS[what], arrowstyle="-|>", clip_on=False,
                mutation_scale=6 + 4 * share, shrinkA=4, shrinkB=5, connectionstyle=f"arc3,rad={bend / length:.3f}",
            )
        )  # fmt: skip
    for end in dict.fromkeys(end for arrow in arrows for end in arrow[:2]):
        colour, marker, _ = _PARTS[end.part]
        x, y = place(end)
        axes.plot(x, y, marker, color=colour, markersize=6.5, markeredgecolor="white", markeredgewidth=0.6, zorder=4)
        if end.head >= 0:
            axes.annotate(f"h{end.head}", (x, y), (0, 4), textcoords="offset points", ha="center", fontsize=6.5,
                          zorder=5)  # fmt: skip
        if end.region:
            axes.annotate(_region(end.region), (x, y), (-6, 0), textcoords="offset points", ha="right", va="center",
                          fontsize=SMALL, linespacing=1.1, zorder=5)  # fmt: skip
    axes.set_xlim(-1.55 if columns[0][0] == 0 else -0.75, max(at.values()) + 0.75)
    axes.set_ylim(layers[0] - 0.35, layers[-1] + 1.5)
    turned = _turned(labels)
    labels = [label.replace("\n", "  ") for label in labels] if turned else labels
    axes.set_xticks([at[column] for column in columns], labels, fontsize=SMALL, rotation=90 if turned else 0)
    axes.set_yticks(np.array(layers) + 0.3, [str(layer) for layer in layers], fontsize=SMALL)
    axes.set_xlabel("token and its position", fontsize=TEXT)
    axes.set_ylabel("layer", fontsize=TEXT)


def _first(region: str) -> int:
    return int(re.split("[,-]", region)[0])


def _region(patches: str) -> str:
    """[CLS], a patch, or rows and columns where there are several of each; else the patches in runs, cut short."""
    if patches == "0":
        return "[CLS]"
    if patches.isdigit():
        return f"patch {patches}"
    runs = [[int(end) for end in run.split("-")] for run in patches.split(",")]
    steps, lengths = {b[0] - a[0] for a, b in pairwise(runs)}, {run[-1] - run[0] for run in runs}
    if len(steps) == len(lengths) == 1:  # one step down is a side
        side = steps.pop()
        (row, column), wide = divmod(runs[0][0] - 1, side), lengths.pop()
        if column + wide < side:
            return f"rows {row}–{row + len(runs) - 1}\ncolumns {column}–{column + wide}"
    said = patches.replace("-", "–")
    return f"patches\n{said if len(said) < 12 else said[:10] + '…'}"


def _legend(figure: Figure, arrows: list[_Arrow], target: str) -> None:
    """What markers, lines and colours mean, of those that are drawn; and how strong the widest is."""
    ends = {end.part for arrow in arrows for end in arrow[:2]}
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="none", markersize=6.5, label=part)
        for part, (colour, marker, _) in _PARTS.items() if part in ends
    ]  # fmt: skip
    handles += [
        Line2D([], [], color="0.3", linestyle=style, linewidth=1.4, label=f"to {what}")
        for what, style in _INPUTS.items() if what in {arrow[2] for arrow in arrows}
    ]  # fmt: skip
    for colour, sign in ((_MORE, 1), (_LESS, -1)):
        effects_of = [arrow[3] for arrow in arrows if arrow[3] * sign > 0]
        if effects_of:
            strongest = max(effects_of, key=abs)
            said = f"{strongest:+.3g}".replace("-", "−")
            width = max(_THICK * abs(strongest) / max(abs(arrow[3]) for arrow in arrows), _THIN)
            handles.append(Line2D([], [], color=colour, alpha=0.8, linewidth=width, label=f"strongest {said}"))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=max(2, int(figure.get_figwidth() / 1.5)), fontsize=SMALL,
        frameon=False, handlelength=2.2, columnspacing=1.2,
    )  # fmt: skip
