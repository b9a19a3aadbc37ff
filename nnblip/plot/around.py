"""What stands around the Axes of a figure, in inches: below them colours, marks and notes, above them a title."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import blended_transform_factory

from nnblip.plot.canvas import LINE, SMALL, TEXT, canvas, from_corner, inches, literal, size_of, wrapped

#: Of cells without a value, and of the strokes of hatching.
UNDEFINED, STROKES = "0.88", "0.25"
#: Signs in the middle of cells.
MARKS: dict[str, dict[str, Any]] = {
    "dot": {"marker": "o", "color": "black", "markersize": 3, "markeredgecolor": "white", "markeredgewidth": 0.5},
    "few": {"marker": "_", "color": "black", "markersize": 4, "markeredgewidth": 0.8},
}


class Below:
    """What hangs below Axes, piece by piece, in inches: however large they are, nothing overlaps.

    Attributes:
        depth: inches from the lower edge of the Axes to the end of what is there already.
    """

    def __init__(self, axes: Axes, depth: float, left: float, width: float) -> None:
        """`left`: how far left of the Axes it may begin; `width`: how much room there is from there."""
        self._axes, self.depth, self._left, self._width = axes, depth, left, width
        self._inches = from_corner(axes)
        self._blended = blended_transform_factory(axes.transAxes, self._inches)

    def bar(self, colours: ScalarMappable, label: str, marks: dict[str, float] | None = None) -> Axes:
        """A bar of colours as wide as the Axes, with named values above it and its label below."""
        self.depth += 0.06
        if marks:
            self.depth += LINE
        bar = self._axes.inset_axes((0, -self.depth - 0.09, 1, 0.09), transform=self._blended)
        figure = self._axes.get_figure()
        assert figure is not None
        made = figure.colorbar(colours, cax=bar, orientation="horizontal")
        made.outline.set_visible(False)
        wide = size_of(self._axes)[0]
        low, high = made.norm.vmin or 0.0, made.norm.vmax or 1.0
        every = MaxNLocator(int(np.clip(wide / 0.55, 2, 6)), steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        ticks = np.asarray(every)
        ticks = ticks[(ticks >= low - 1e-9) & (ticks <= high + 1e-9)]
        labels = bar.xaxis.get_major_formatter().format_ticks(ticks.tolist())
        bar.set_xticks(ticks, labels)
        for tick, at in zip(bar.get_xticklabels(), (ticks - low) / (high - low) * wide, strict=True):
            half = inches(tick.get_text(), SMALL) / 2
            if at + half > self._width - self._left:  # no label leaves the figure
                tick.set_horizontalalignment("right")
        bar.tick_params(labelsize=SMALL, length=2, width=0.6, pad=1.5)
        self._mark(bar, marks or {}, wide, made.norm)
        lines = wrapped(label, wide)
        bar.set_xlabel("\n".join(lines), fontsize=TEXT, labelpad=1.5, linespacing=1.2)
        bar.set_label("colours")
        self.depth += 0.09 + 0.07 + 1.25 * SMALL / 72 + LINE * len(lines)
        return bar

    def _mark(self, bar: Axes, marks: dict[str, float], wide: float, norm: Normalize) -> None:
        """Names above the bar, each with a line to its value, moved apart where they are close."""
        if not marks:
            return
        low, high = norm.vmin or 0.0, norm.vmax or 1.0
        digits = 3 if max(marks.values()) - min(marks.values()) >= 0.005 else 4
        said = {name: f"{name} {value:.{digits}f}" for name, value in marks.items()}
        at = {name: (value - low) / (high - low) * wide for name, value in marks.items()}
        order = sorted(at, key=lambda name: at[name])
        halves = {name: inches(text, SMALL) / 2 for name, text in said.items()}
        edge, places = -self._left, dict[str, float]()
        for name in order:  # from the left, each right of the one before, and back from the right edge
            places[name] = max(at[name], edge + halves[name])
            edge = places[name] + halves[name] + 0.08
        edge = self._width - self._left
        for name in reversed(order):
            places[name] = min(places[name], edge - halves[name])
            edge = places[name] - halves[name] - 0.08
        for name in order:
            bar.annotate(
                said[name], xy=(at[name] / wide, 1), xycoords="axes fraction", xytext=(places[name] / wide, 0.17),
                textcoords=(bar.transAxes, from_corner(bar)), ha="center", va="center", fontsize=SMALL,
                arrowprops={"arrowstyle": "-", "linewidth": 0.7, "shrinkA": 0, "shrinkB": 0},
            )  # fmt: skip

    def text(self, lines: Sequence[str], size: float = SMALL) -> None:
        """Lines, from the left."""
        if not lines:
            return
        self._axes.text(
            -self._left, -self.depth - 0.03, "\n".join(lines), transform=self._inches, fontsize=size, va="top",
            linespacing=1.2, clip_on=False,
        )  # fmt: skip
        self.depth += 0.03 + len(lines) * 1.3 * size / 72

    def legend(self, entries: Sequence[tuple[str | Line2D, str]]) -> None:
        """What marks mean ("hatched", "framed", "dot", "few", "grey" or a line), side by side where they fit."""
        x, y, step = -self._left, self.depth + 0.07, 1.45 * SMALL / 72
        for place, (mark, text) in enumerate(entries):
            lined = isinstance(mark, Line2D) and mark.get_linestyle() != "None"
            wide = 0.3 if lined else 0.14
            need = wide + 0.1 + inches(text, SMALL)
            if place and x + need > self._width - self._left:
                x, y = -self._left, y + step
            if isinstance(mark, Line2D):
                mark.set(
                    xdata=[x, x + wide / 2, x + wide], ydata=[-y - 0.05] * 3, transform=self._inches, clip_on=False
                )
                if mark.get_marker() not in ("None", None, ""):
                    mark.set_markevery([1])
                self._axes.add_artist(mark)
            else:
                self._sign(mark, x, -y - 0.1)
            for number, line in enumerate(wrapped(text, self._width - wide - 0.1, SMALL)):
                y += step if number else 0
                self._axes.text(x + wide + 0.06, -y - 0.05, line, transform=self._inches, fontsize=SMALL,
                                va="center_baseline", clip_on=False)  # fmt: skip
            x += need + 0.14
        self.depth = y + step if entries else self.depth

    def _sign(self, mark: str, x: float, y: float) -> None:
        face, edge = (UNDEFINED, "none") if mark == "grey" else ("white", "black" if mark == "framed" else "0.7")
        sign: Patch = Rectangle(
            (x, y), 0.14, 0.1, transform=self._inches, facecolor=face, edgecolor=edge, clip_on=False,
            linewidth=1.2 if mark == "framed" else 0.5,
        )  # fmt: skip
        self._axes.add_artist(sign)
        if mark in MARKS:
            self._axes.add_artist(
                Line2D([x + 0.07], [y + 0.05], transform=self._inches, clip_on=False, linestyle="none", **MARKS[mark])
            )
        if mark == "hatched":
            lines = [[(x + a, y), (x + min(a + 0.1, 0.14), y + min(0.1, 0.14 - a))] for a in (0.0, 0.05, 0.1)]
            lines.append([(x, y + 0.05), (x + 0.05, y + 0.1)])
            self._axes.add_artist(
                LineCollection(lines, colors=STROKES, linewidths=0.45, transform=self._inches, clip_on=False)
            )


# ---- figures of one panel ----------------------------------------------------------------------


class Panel:
    """Axes of a figure of its own, or those that are given, and how much room there is around them.

    Attributes:
        axes: to draw into.
        width: inches: of all of it, and of the `inner` part where the data are, `left` of which are labels.
    """

    def __init__(self, ax: Axes | None, width: float, left: float, height: float) -> None:
        self.own, self.width, self.left, self.height = ax is None, width, left if ax is None else 0.0, height
        self.inner = width - self.left - 0.1 if self.own else width
        self.axes = ax or canvas(width, height).add_axes((left / width, 0, self.inner / width, 1))

    def below(self, depth: float) -> Below:
        """What hangs below, after so many inches of ticks and label."""
        return Below(self.axes, depth, max(self.left - 0.04, 0), self.width - 0.08 * self.own)

    def finish(self, title: Sequence[str], below: Below) -> Any:
        """Put the title above, make the figure as high as everything needs, and give it back."""
        lines = wrapped((one for one in title if one), self.width - 0.08)
        self.axes.set_title(
            "\n".join(lines), fontsize=TEXT, loc="left", x=(0.04 - self.left) / self.inner if self.own else 0, pad=5,
            linespacing=1.2,
        )  # fmt: skip
        figure = self.axes.get_figure(root=True)
        assert figure is not None
        if self.own:
            every = (LINE * len(lines) + 0.12 if lines else 0.06) + self.height + below.depth + 0.05
            figure.set_size_inches(self.width, every)
            place = self.left / self.width, (below.depth + 0.05) / every
            self.axes.set_position((*place, self.inner / self.width, self.height / every))
        literal(self.axes)
        return figure


class Page:
    """Panels in rows on a figure of its own, with a title above and what hangs below all of them.

    Attributes:
        axes: of each panel.
        figure: that they are on.
        part, inner: inches across of a panel with its labels, and without.
        width: of the figure.
    """

    def __init__(
        self, width: float, across: int, heights: Sequence[float], labels: float, above: float, under: float,
        most: float = 99.0, shared: bool = False,
    ) -> None:  # fmt: skip
        """Panels of these heights; left, above and under each there is so much room. None is wider than `most`. Labels
        that are shared stand left of the first of a row alone."""
        self.width, self._across, self._heights = width, min(across, len(heights)), heights
        self._above, self._under = above, under
        self._left, own = (labels, 0.06) if shared else (0.0, labels)
        self.part = min((width - 0.06 - self._left) / self._across, most + own + 0.08)
        self._labels, self.inner = own, self.part - own - 0.08
        self.figure = canvas(width, 10)
        self.axes = [
            self.figure.add_axes((0, 0, self.inner / width, height / 10), label=f"panel {number}")
            for number, height in enumerate(heights)
        ]
        self._foot = self.figure.add_axes((0, 0, 0.5, 0.01), label="foot")
        self._foot.set(xticks=[], yticks=[])
        self._foot.set_axis_off()
        self._wide = min(3.2, width - 0.4)
        self._foot.set_position((0.2 / width, 0, self._wide / width, 0))

    def last_of_column(self, number: int) -> bool:
        return number + self._across >= len(self.axes)

    def first_of_row(self, number: int) -> bool:
        return number % self._across == 0

    def below(self) -> Below:
        """What hangs below all panels."""
        return Below(self._foot, 0.0, 0.16, self.width - 0.1)

    def finish(self, title: Sequence[str], below: Below) -> Any:
        """Put everything in its place, and give the figure back."""
        lines = wrapped((one for one in title if one), self.width - 0.08)
        top = LINE * len(lines) + 0.1
        rows = [self._heights[at : at + self._across] for at in range(0, len(self._heights), self._across)]
        every = top + sum(self._above + max(row) + self._under for row in rows) + below.depth + 0.05
        self.figure.set_size_inches(self.width, every)
        self.figure.text(0.04 / self.width, 1 - 0.04 / every, "\n".join(lines), fontsize=TEXT, va="top",
                          linespacing=1.2)  # fmt: skip
        y = every - top
        for number, axes in enumerate(self.axes):
            row, column = divmod(number, self._across)
            if column == 0 and row:
                y -= max(rows[row - 1]) + self._above + self._under
            high = self._heights[number]
            left = 0.03 + self._left + column * self.part + self._labels
            place = left / self.width, (y - self._above - high) / every
            axes.set_position((*place, self.inner / self.width, high / every))
        self._foot.set_position((0.2 / self.width, (below.depth + 0.05) / every, self._wide / self.width, 0))
        literal(self.figure)
        return self.figure
