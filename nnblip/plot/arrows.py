"""How a circuit is drawn: where senders and receivers stand, and the arrows between them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch

from nnblip.effects import reading
from nnblip.errors import visible
from nnblip.plot.canvas import LINE, SMALL, TEXT, inches
from nnblip.sites import COMPONENTS

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
_UP, _REGIONS = 0.62, 0.72  # inches: of a layer, and for what regions of the image are called
_THICK, _THIN = 3.0, 0.7  # points


@dataclass(frozen=True)
class Node:
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
    def column(self) -> tuple[int, int]:
        number = COMPONENTS.index(self.component)
        return (number, 0) if self.component == "image_encoder" else (number, self.token)


@dataclass(frozen=True)
class Arrow:
    """An edge: its ends, what of the receiver it goes into, effect and name; pale if its interval includes 0."""

    sender: Node
    receiver: Node
    input: str
    effect: float
    name: str
    pale: bool = False

    @property
    def ends(self) -> tuple[Node, Node]:
        return self.sender, self.receiver


def arrows_of(node: xr.Dataset, shown: Any, numbers: Any, pale: set[int]) -> list[Arrow]:
    """The edges at these places, the strongest last so that it is drawn on top."""
    arrows = []
    for place in shown[::-1]:
        one = node.isel(edge=place)
        ends = [
            Node(*(one[f"{end}_{part}"].item() for part in ("component", "kind", "layer", "head", "token")))
            for end in ("sender", "receiver")
        ]
        name = str(one["edge"].item())
        if ends[0].component == "image_encoder":
            sender = re.search(r"tokens? ([\d,-]+) ->", name)
            ends[0] = Node("image_encoder", "block", ends[0].layer, -1, ends[0].token, sender[1] if sender else "?")
        arrows.append(
            Arrow(ends[0], ends[1], str(one["input"].item()), float(numbers[place]), name, int(place) in pale)
        )
    return arrows


class Drawing:
    """Where everything of a circuit stands.

    Attributes:
        height: inches that it needs.
    """

    def __init__(self, arrows: list[Arrow], names: dict[str, dict[int, str]]) -> None:
        self._arrows, self._names = arrows, names
        self._columns = sorted({end.column for arrow in arrows for end in arrow.ends})
        depths = [end.layer for arrow in arrows for end in arrow.ends if not end.region] or [0]
        self._layers = range(min(depths), max(depths) + 1)
        self._largest = max(abs(arrow.effect) for arrow in arrows)
        self.height = min(max(_UP * (len(self._layers) + 0.6), 1.8), 7.0)
        gap, self._at = 0.0, dict[tuple[int, int], float]()
        for number, column in enumerate(self._columns):
            gap += 0.8 * (number > 0 and column[0] != self._columns[number - 1][0])
            self._at[column] = number + gap
        self._beside: dict[tuple[object, ...], list[int]] = {}  # those of one sublayer and token stand side by side
        for end in (end for arrow in arrows for end in arrow.ends):
            self._beside[end.sublayer] = sorted({*self._beside.get(end.sublayer, []), end.head})
        regions = {end.region for arrow in arrows for end in arrow.ends if end.region}
        self._regions = sorted(regions, key=lambda region: int(re.split("[,-]", region)[0]) if region != "?" else -1)

    def draw(self, axes: Axes, wide: float) -> float:
        """Draw all of it into Axes of so many inches; how deep what stands below them is."""
        images = _REGIONS if self._columns[0][0] == 0 else 0.0
        last = self._at[self._columns[-1]]
        across = (wide - images) / (last + 1.35)  # inches of a token
        left = -0.675 - images / across
        axes.set_xlim(left, last + 0.675)
        names = 1.15 * SMALL / 72 * 2 + 0.05  # of the components, in inches above the layers
        up = (self.height - names) / (len(self._layers) + 0.2)
        axes.set_ylim(self._layers[0] - 0.25, self._layers[0] - 0.25 + self.height / up)
        self._strips(axes, left, across)
        self._draw_arrows(axes, across, up)
        self._draw_ends(axes)
        labels = [self._label(column) for column in self._columns]
        turned = len(labels) > 1 and max(inches(label, SMALL) for label in labels) > across
        labels = [label.replace("\n", "  ") for label in labels] if turned else labels
        axes.set_xticks([self._at[column] for column in self._columns], labels, fontsize=SMALL,
                        rotation=90 if turned else 0)  # fmt: skip
        axes.set_yticks(np.array(self._layers) + 0.3, [str(layer) for layer in self._layers], fontsize=SMALL)
        axes.set_xlabel("token and its position", fontsize=TEXT, labelpad=2)
        axes.set_ylabel("layer", fontsize=TEXT, labelpad=2)
        tall = max(inches(label, SMALL) for label in labels) if turned else 2.5 * SMALL / 72
        return 0.05 + tall + LINE

    def _label(self, column: tuple[int, int]) -> str:
        component = COMPONENTS[column[0]]
        if component == "image_encoder":
            return "image"
        return f"{self._names[component].get(column[1], '')}\n{column[1]}".strip()

    def _strips(self, axes: Axes, left: float, across: float) -> None:
        """A grey strip for each component, with its name above."""
        for component in sorted({column[0] for column in self._columns}):
            xs = [self._at[column] for column in self._columns if column[0] == component]
            first = left + 0.03 / across if component == 0 else min(xs) - 0.6
            axes.axvspan(first, max(xs) + 0.6, color="0.955", zorder=0, linewidth=0)
            name = visible(reading.spoken(COMPONENTS[component]))
            fits = inches(name, SMALL) < (max(xs) + 0.6 - first) * across
            axes.text((first + max(xs) + 0.6) / 2, self._layers[-1] + 0.97, name if fits else name.replace(" ", "\n"),
                      ha="center", va="bottom", fontsize=SMALL, linespacing=1.1)  # fmt: skip

    def _place(self, end: Node) -> tuple[float, float]:
        if end.region:  # regions have no layer that would matter: the last of the image encoder is read by all
            part = (self._regions.index(end.region) + 0.5) / len(self._regions)
            return self._at[end.column], self._layers[0] - 0.2 + part * (len(self._layers) - 0.1)
        beside = self._beside[end.sublayer]
        side = (beside.index(end.head) - (len(beside) - 1) / 2) * min(0.26, 0.9 / len(beside))
        return self._at[end.column] + side, end.layer + _PARTS[end.part][2]

    def _draw_arrows(self, axes: Axes, across: float, up: float) -> None:
        twins: dict[Any, int] = {}
        for arrow in self._arrows:
            (x0, y0), (x1, y1) = map(self._place, arrow.ends)
            twin = twins[(x0, y0), (x1, y1)] = twins.get(((x0, y0), (x1, y1)), -1) + 1
            length = float(np.hypot((x1 - x0) * across, (y1 - y0) * up)) or 1.0
            # inches beside the straight line: along a token past what stands between, to another the more the farther
            bend = (min(0.35, 0.6 * length) if abs(x1 - x0) < 0.5 else 0.15 * length) + 0.22 * twin
            share = abs(arrow.effect) / self._largest
            axes.add_patch(
                FancyArrowPatch(
                    (x0, y0), (x1, y1), gid=arrow.name, color=_MORE if arrow.effect > 0 else _LESS,
                    alpha=0.3 if arrow.pale else 0.85, zorder=2 + share, linewidth=max(_THICK * share, _THIN),
                    linestyle=_INPUTS[arrow.input], arrowstyle="-|>", clip_on=False, mutation_scale=6 + 4 * share,
                    shrinkA=4, shrinkB=5, connectionstyle=f"arc3,rad={bend / length:.3f}",
                )
            )  # fmt: skip

    def _draw_ends(self, axes: Axes) -> None:
        for end in dict.fromkeys(end for arrow in self._arrows for end in arrow.ends):
            colour, marker, _ = _PARTS[end.part]
            x, y = self._place(end)
            axes.plot(x, y, marker, color=colour, markersize=6, markeredgecolor="white", markeredgewidth=0.6, zorder=4)
            if end.head >= 0:
                axes.annotate(f"h{end.head}", (x, y), (0, 4), textcoords="offset points", ha="center", fontsize=6.5,
                              zorder=5)  # fmt: skip
            if end.region:
                axes.annotate(_region(end.region), (x, y), (-5, 0), textcoords="offset points", ha="right",
                              va="center", fontsize=SMALL, linespacing=1.1, zorder=5)  # fmt: skip

    def legend(self, pale: str) -> list[tuple[Line2D, str]]:
        """What markers, lines and colours mean, of those that are drawn; how strong the widest is; and what pale is."""
        parts = {end.part for arrow in self._arrows for end in arrow.ends}
        found = [
            (Line2D([], [], color=colour, marker=marker, linestyle="none", markersize=5.5), part)
            for part, (colour, marker, _) in _PARTS.items() if part in parts
        ]  # fmt: skip
        inputs = {arrow.input for arrow in self._arrows}
        found += [
            (Line2D([], [], color="0.3", linestyle=style, linewidth=1.3), f"to {what}")
            for what, style in _INPUTS.items() if what in inputs
        ]  # fmt: skip
        for colour, sign in ((_MORE, 1), (_LESS, -1)):
            of_sign = [arrow.effect for arrow in self._arrows if arrow.effect * sign > 0]
            if of_sign:
                strongest = max(of_sign, key=abs)
                width = max(_THICK * abs(strongest) / self._largest, _THIN)
                said = f"strongest {strongest:+.3g}".replace("-", "−")
                found.append((Line2D([], [], color=colour, alpha=0.85, linewidth=width), said))
        if any(arrow.pale for arrow in self._arrows):
            found.append((Line2D([], [], color="0.3", alpha=0.3, linewidth=1.8), pale))
        return found


def _region(patches: str) -> str:
    """[CLS], a patch, or rows and columns where there are several of each; else the patches in runs, cut short."""
    if patches == "0":
        return "[CLS]"
    if patches.isdigit():
        return f"patch {patches}"
    if patches == "?":
        return "patches"
    runs = [[int(end) for end in run.split("-")] for run in patches.split(",")]
    steps, lengths = {b[0] - a[0] for a, b in pairwise(runs)}, {run[-1] - run[0] for run in runs}
    if len(steps) == len(lengths) == 1:  # one step down is a side
        side = steps.pop()
        (row, column), wide = divmod(runs[0][0] - 1, side), lengths.pop()
        if column + wide < side:
            return f"rows {row}–{row + len(runs) - 1}\ncolumns {column}–{column + wide}"
    said = patches.replace("-", "–")
    return f"patches\n{said if len(said) < 12 else said[:10] + '…'}"
