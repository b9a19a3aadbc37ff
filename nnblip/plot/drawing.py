"""A whole map: cells, what stands around them, and its caption."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from nnblip import effects
from nnblip.effects import reading
from nnblip.effects.intervals import MIN_EXAMPLES
from nnblip.errors import SettingError, visible
from nnblip.plot import words
from nnblip.plot.around import Below, Panel
from nnblip.plot.canvas import COLUMN, SMALL, TEXT, put_caption, width_of, wrapped
from nnblip.plot.cells import Cells
from nnblip.plot.grid import DIVERGING, Grid, between, diverging, draw_grid

#: Colours of probabilities.
SEQUENTIAL = "viridis"


@dataclass(frozen=True)
class Told:
    """The words of a map.

    Attributes:
        bar: what the colours stand for.
        caption: sentences.
        made: attributes of the result, and what was chosen of it.
        grave: what leaves nothing in the numbers.
        marks: values that are named on the bar of colours, which then are between these and not around 0.
        empty: what is said if there is no number at all.
        notes: what is said below the map.
        legend: signs and what they mean.
    """

    bar: str
    caption: Sequence[str]
    made: Mapping[str, Any]
    grave: Sequence[str] = ()
    marks: Mapping[str, float] = field(default_factory=dict)
    empty: str = "No values: these states were not traced."
    notes: Sequence[str] = ()
    legend: Sequence[tuple[str, str]] = ()


def draw_map(
    grid: Grid, told: Told, title: Iterable[str], *, limit: float | None = None, colours: str | None = None,
    width: float | None = None, ax: Axes | None = None,
) -> Figure:  # fmt: skip
    """The figure of a map, or all of it hung on the Axes that are given."""
    if limit is not None and told.marks:
        raise SettingError("limit is given, of a map of probabilities: expected an effect, whose colours are around 0")
    wide = width_of(width, COLUMN, ax)
    labels, empty = 0.45 * wide, not np.isfinite(grid.numbers).any()
    panel = Panel(ax, wide, grid.label_width(labels), max(grid.height, 0.7) if empty else grid.height)
    norm: Normalize = Normalize(0, 1)
    if not empty:
        norm = between(grid.numbers, *told.marks.values()) if told.marks else diverging(grid.numbers, limit)
    colours = colours or (SEQUENTIAL if told.marks else DIVERGING)
    _, depth = draw_grid(panel.axes, grid, colours, norm, labels)
    below = panel.below(depth)
    if empty:
        lines = wrapped(told.empty, panel.inner - 0.1)
        panel.axes.text(0.5, 0.5, "\n".join(lines), transform=panel.axes.transAxes, ha="center", va="center",
                        fontsize=TEXT)  # fmt: skip
    else:
        hang(below, ScalarMappable(norm, colours), told, wide - 0.08)
    put_caption(panel.axes, [*told.caption, *(f"{one}." for one in told.grave)], told.made)
    return cast(Figure, panel.finish([*title, *told.grave], below))


def hang(below: Below, colours: ScalarMappable, told: Told, room: float) -> None:
    """The bar of colours, what signs mean, and notes."""
    below.bar(colours, told.bar, dict(told.marks))
    below.legend(told.legend)
    below.text(wrapped((f"{note[0].upper()}{note[1:]}." for note in told.notes), room, SMALL))


def marks_of(grid: Grid, over: str, level: float) -> list[tuple[str, str]]:
    """The signs that are on a grid, and what they mean."""
    found = [
        ("hatched", grid.hatched, f"{100 * level:g} % interval over {over} includes 0"),
        ("framed", grid.framed, "restores by construction"),
        ("few", grid.few, f"fewer than {MIN_EXAMPLES} examples, no interval"),
        ("grey", ~np.isfinite(grid.numbers), "no value"),
    ]
    return [(sign, said) for sign, cells, said in found if cells is not None and cells.any()]


def told_of(
    tree: xr.DataTree, node: xr.Dataset, name: str, kind: str, cells: Cells, grid: Grid, what: str,
    settings: tuple[str, str, float],
) -> Told:  # fmt: skip
    """The words of a map of effects or probabilities of a result.

    Args:
        tree, node: at one ν, of one example or of those that are averaged.
        name: of the node.
        kind: of its states.
        cells, grid: what is drawn.
        what: what single cells are, for the caption.
        settings: value, variable and threshold.
    """
    value, variable, threshold = settings
    component = reading.spoken(name.removesuffix("_heads"))
    of = words.value_name(tree, node, value, variable)
    done = words.done_to(tree)
    how = f"with one state {done}" if value == "probability" else f"of {done[:-2]}ing one state"
    first = f"{of[0].upper()}{of[1:]} {how} of the {component}, {what} (states: {visible(kind)})."
    if value == "relevance":
        first += " Relevance is the sum of the indirect effects over that of the total effects."
    runs = runs_of(tree, variable)
    empty = "No values: these states were not traced."
    if value == "relevance":
        limit, target = effects.thresholds(threshold)[variable], words.target_name(variable)
        empty = (
            f"Relevance is undefined: the mean total effect is below the threshold of {limit:g}. {target} is"
            f" {runs['clean']:.4f} clean and {runs['corrupted']:.4f} corrupted."
        )
    return Told(
        of,
        [first, *words.run_sentences(tree, node, cells.examples), *cells.sentences(grid, value)],
        words.provenance(tree),
        words.severe(tree, [name], kind),
        runs if value == "probability" else {},
        empty,
        cells.notes(),
        marks_of(grid, cells.over, cells.level),
    )


def runs_of(tree: xr.DataTree, variable: str) -> dict[str, float]:
    """The clean and the corrupted run: means over draws, then over examples."""
    both = {name: reading.over_draws(tree[name].to_dataset()[variable]) for name in ("clean", "corrupted")}
    return {name: float(one.mean()) for name, one in both.items()}
