"""A map: coloured cells with their marks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.colors import CenteredNorm, Colormap, Normalize
from numpy.typing import NDArray

from nnblip.errors import SettingError, told
from nnblip.plot.around import MARKS, STROKES, UNDEFINED
from nnblip.plot.canvas import LINE, SMALL, TEXT, inches, shortened, size_of

#: Colours never span less than this, so that a map of (next to) no effect looks like one.
LEAST_RANGE = 0.01
#: Red above 0 and blue below, which people with any colour vision tell apart.
DIVERGING = "RdBu_r"
#: Inches: of a row of a map that has room, the least, and of all rows together at most.
ROW, LEAST_ROW, MOST_ROWS = 0.19, 0.13, 7.0
#: Inches between the strokes of hatching, along a side.
APART = 0.085


@dataclass(frozen=True)
class Grid:
    """Numbers in rows and columns, and what is marked.

    Attributes:
        numbers: (row, column), NaN for none.
        rows, columns: their labels.
        down, across: what the rows and the columns are.
        hatched, framed: (row, column), of which cells the interval includes 0, and which restore by construction.
        dots, few: which have a dot, and which a dash: too few examples for an interval, among others that have enough.
    """

    numbers: NDArray[Any]
    rows: Sequence[str]
    columns: Sequence[str]
    down: str
    across: str = "layer"
    hatched: NDArray[np.bool_] | None = None
    framed: NDArray[np.bool_] | None = None
    dots: NDArray[np.bool_] | None = None
    few: NDArray[np.bool_] | None = None

    @property
    def height(self) -> float:
        """Inches that its rows need."""
        return min(max(ROW * len(self.rows), 0.3), max(MOST_ROWS, LEAST_ROW))

    def label_width(self, most: float) -> float:
        """Inches left of the cells: of labels, which are not wider than `most`, and of what they are."""
        labels = min(max((inches(row, SMALL) for row in self.rows), default=0.0), most)
        return labels + 0.08 + (LINE if self.down and inches(self.down) <= self.height else 0)


def diverging(numbers: NDArray[Any], limit: float | None = None) -> CenteredNorm:
    """Colours around 0, as far as the numbers reach or the limit.

    Raises:
        SettingError: if the limit would cut numbers off.
    """
    largest = float(np.nanmax(np.abs(numbers), initial=0.0)) if np.isfinite(numbers).any() else 0.0
    if limit is not None:
        if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not limit > 0 or limit < largest * 0.9999:
            raise SettingError(
                f"limit {told(limit)}: expected where the colours end, at least the largest value, {largest:.3g}"
            )
        return CenteredNorm(0.0, float(limit))
    return CenteredNorm(0.0, max(largest, LEAST_RANGE))


def between(numbers: NDArray[Any], *also: float) -> Normalize:
    """Colours from the smallest to the largest of the numbers and these others."""
    every = [*numbers[np.isfinite(numbers)].ravel().tolist(), *also]
    low, high = min(every), max(every)
    spare = max(0.0, LEAST_RANGE - (high - low))
    low = low - spare / 2 if low < 0 else max(low - spare / 2, 0.0)
    return Normalize(low, max(high, low + LEAST_RANGE))


def draw_grid(
    axes: Axes, grid: Grid, colours: str | Colormap, norm: Normalize, labels: float = 2.0
) -> tuple[QuadMesh, float]:
    """The cells with their marks and ticks; row labels may take so many inches.

    Returns:
        The cells, and how many inches below the Axes their ticks and label reach.
    """
    rows, columns = grid.numbers.shape
    mesh = axes.pcolormesh(
        np.ma.masked_invalid(grid.numbers), cmap=colours, norm=norm, edgecolors="white" if rows <= 60 else "none",
        linewidth=0.4,
    )  # fmt: skip
    axes.set_facecolor(UNDEFINED)
    _strokes(axes, grid.hatched)
    _frame(axes, grid.framed)
    for name, cells in (("dot", grid.dots), ("few", grid.few)):
        if cells is not None and cells.any():
            row, column = np.nonzero(cells)
            axes.plot(column + 0.5, row + 0.5, linestyle="none", gid=name, **MARKS[name])
    width, height = size_of(axes)
    axes.set_xlim(0, columns)
    axes.set_ylim(rows, 0)
    widest = max((inches(label, SMALL) for label in grid.columns), default=0.0)
    turned = widest > 0.3 and widest * columns > width  # texts, not numbers
    across = 1 if turned else 1 + int((widest + 0.04) * columns / width - 1e-6)
    down = 1 + int(1.02 * SMALL / 72 * rows / height)
    axes.set_xticks(np.arange(0, columns, across) + 0.5, list(grid.columns)[::across], fontsize=SMALL,
                    rotation=90 if turned else 0)  # fmt: skip
    said = [shortened(row, labels) for row in list(grid.rows)[::down]]
    axes.set_yticks(np.arange(0, rows, down) + 0.5, said, fontsize=SMALL)
    axes.set_xlabel(grid.across, fontsize=TEXT, labelpad=2)
    axes.set_ylabel(grid.down if inches(grid.down) <= height else "", fontsize=TEXT, labelpad=3)
    axes.tick_params(length=0, pad=2)
    axes.spines[:].set_visible(False)
    return mesh, 3 / 72 + (widest if turned else SMALL / 72) + LINE * bool(grid.across)


def _strokes(axes: Axes, cells: NDArray[np.bool_] | None) -> None:
    """Strokes through these cells, as far apart however large cells are; no global setting tells how wide they are."""
    if cells is None or not cells.any():
        return
    width, height = size_of(axes)
    wide, high = width / cells.shape[1], height / cells.shape[0]
    lines = []
    for row, column in np.argwhere(cells):
        left, top = column * wide, row * high  # inches; y runs down
        first, last = np.ceil((left + top) / APART), np.floor((left + top + wide + high) / APART)
        for at in np.arange(first, last + 1) * APART:  # x + y = at
            xs = max(left, at - top - high), min(left + wide, at - top)
            lines.append([(x / wide, (at - x) / high) for x in xs])
    axes.add_collection(LineCollection(lines, colors=STROKES, linewidths=0.45, gid="hatched"), autolim=False)


def _frame(axes: Axes, cells: NDArray[np.bool_] | None) -> None:
    """A line around these cells, where a neighbour is none of them."""
    if cells is None or not cells.any():
        return
    every = np.pad(cells, 1)
    lines = []
    for row, column in np.argwhere(cells):
        around = {
            (-1, 0): [(column, row), (column + 1, row)],
            (1, 0): [(column, row + 1), (column + 1, row + 1)],
            (0, -1): [(column, row), (column, row + 1)],
            (0, 1): [(column + 1, row), (column + 1, row + 1)],
        }
        lines += [line for (y, x), line in around.items() if not every[row + 1 + y, column + 1 + x]]
    axes.add_collection(
        LineCollection(lines, colors="black", linewidths=1.2, capstyle="projecting", clip_on=False, gid="framed"),
        autolim=False,
    )
