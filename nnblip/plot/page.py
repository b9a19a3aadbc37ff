"""A page of panels in rows: as wide as is asked for, and as high as what is drawn on it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as AnyFigure
from matplotlib.text import Text

from nnblip.plot.canvas import SMALL, TEXT, Figure, canvas, literal, wrapped

#: Inches: around the page, between panels and between rows.
EDGE, GAP, BETWEEN = 0.12, 0.3, 0.14


class Page:
    """Panels are put side by side, row by row; `finish` measures them and puts all of it in its place.

    Attributes:
        figure: the figure.
        width: inches.
    """

    def __init__(self, width: float) -> None:
        self.figure, self.width = canvas(width, 12.0), width
        self._rows: list[list[Axes]] = [[]]
        self._above: list[tuple[Text, float]] = []
        self._below: list[tuple[Text, float]] = []
        self._x, self._letters = EDGE, 0

    @property
    def room(self) -> float:
        """Inches between the edges."""
        return self.width - 2 * EDGE

    def heading(self, parts: str | Iterable[str], size: float = TEXT, weight: str = "normal") -> None:
        """Lines above all panels."""
        self._say(self._above, parts, size, weight)

    def notes(self, parts: str | Iterable[str]) -> None:
        """Lines below all panels."""
        self._say(self._below, parts, SMALL, "normal")

    def letter(self, title: str) -> str:
        """The title of a panel that has a caption: they are lettered as `caption` letters them."""
        self._letters += 1
        return f"({chr(ord('a') + self._letters - 1)}) {title}"

    def axes(self, width: float, height: float, left: float = 0.0, panel: float | None = None) -> Axes:
        """Axes in so many inches, the first of which are for labels; the panel may be wider."""
        place = ((self._x + left) / self.width, 0.5, (width - left) / self.width, height / self.figure.get_figheight())
        found = self.figure.add_axes(place)
        self._rows[-1].append(found)
        self._x += (panel or width) + GAP
        return found

    def next_row(self) -> None:
        self._rows.append([])
        self._x = EDGE

    def finish(self) -> Figure:
        """Rows below each other, with room for whatever hangs on the Axes; the figure."""
        literal(self.figure)
        rows = [row for row in self._rows if row]
        heading = sum(high for _, high in self._above)
        at, tops = EDGE + heading + 0.1 * bool(heading), []
        for row in rows:
            above, below = self._reach(row)
            tops.append(at + above)
            at += above + below + BETWEEN
        every = at - BETWEEN + EDGE + sum(high for _, high in self._below)
        was = self.figure.get_figheight()
        for row, top in zip(rows, tops, strict=True):
            for axes in row:
                x, _, width, height = axes.get_position(original=True).bounds
                high = height * was
                axes.set_position((x, 1 - (top + high) / every, width, high / every))
        self.figure.set_figheight(every)
        y = EDGE
        for text, high in self._above:
            text.set_position((EDGE / self.width, 1 - y / every))
            y += high
        y = EDGE
        for text, high in reversed(self._below):
            text.set_position((EDGE / self.width, (y + high) / every))
            y += high
        return self.figure

    def _say(self, into: list[tuple[Text, float]], parts: Any, size: float, weight: str) -> None:
        lines = wrapped(parts, self.room / (1.12 if weight == "bold" else 1), size)
        if lines:
            text = self.figure.text(0, 0, "\n".join(lines), fontsize=size, weight=weight, va="top", linespacing=1.25)
            into.append((text, len(lines) * 1.35 * size / 72))

    def _reach(self, row: list[Axes]) -> tuple[float, float]:
        """Inches above the upper edges of a row of Axes, and below these edges."""
        renderer = FigureCanvasAgg(self.figure).get_renderer()
        above = below = 0.0
        for axes in row:
            box, inner = axes.get_tightbbox(renderer), axes.get_window_extent(renderer)
            assert box is not None
            above = max(above, (box.y1 - inner.y1) / self.figure.dpi)
            below = max(below, (inner.y1 - box.y0) / self.figure.dpi)
        return above, below


def figure_of(axes: Axes) -> AnyFigure:
    """The figure that Axes are in."""
    figure = axes.get_figure(root=True)
    assert isinstance(figure, AnyFigure)
    return figure


def sides(picture: Any, side: float) -> tuple[float, float]:
    """Inches of a picture's width and height, neither of which is more than `side`."""
    longest = max(picture.size)
    return side * picture.width / longest, side * picture.height / longest
