"""Small maps of many examples, on one scale."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, cast

import numpy as np
import xarray as xr
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nnblip import effects
from nnblip.effects import reading
from nnblip.errors import ResultError, SettingError, one_of, visible, whole
from nnblip.plot import words
from nnblip.plot.around import Page
from nnblip.plot.averages import one_map
from nnblip.plot.canvas import DOUBLE, LINE, SMALL, inches, put_caption, width_of, wrapped
from nnblip.plot.cells import Cells, cells_of_each, layout_of, part_of
from nnblip.plot.drawing import SEQUENTIAL, Told, hang, marks_of, runs_of
from nnblip.plot.grid import DIVERGING, Grid, between, diverging, draw_grid
from nnblip.plot.words import VALUES
from nnblip.results import VARIABLES

#: Inches: of a row of tokens, and of all panels of a page.
_ROW, _HIGH = 0.13, 7.5


def sheet(
    tree: xr.DataTree,
    component: str,
    *,
    page: int = 1,
    per_page: int | None = None,
    nu: float | None = None,
    kind: str = "block",
    value: str = VALUES[0],
    variable: str = VARIABLES[0],
    threshold: float = effects.THRESHOLD,
    level: float = 0.95,
    title: str | None = None,
    width: float | None = None,
) -> Figure:
    """Small heatmaps of many examples, each with its question and answer, all on the scale of the whole result.

    Args:
        tree: a result of `causal_trace` or `sweep`; select examples of it first to choose or sort them.
        component: such as `question_encoder`.
        page: which one, from 1 on; every page has the same scale.
        per_page: how many examples; as many as a page of a paper holds if None.
        nu, kind, value, variable, threshold, level, title: as for `heatmap`. Intervals are over the draws of each.
        width: inches; two columns of a paper if None.

    Raises:
        NnblipError: as `heatmap`, for a page that there is not, or a result of a single example.
    """
    one_of(value, VALUES, "value")
    tree, node = one_map(tree, component, nu, kind, None, variable)
    if "example" not in tree.dims:
        raise ResultError("the result has one example: a sheet is of many. Take plot.heatmap")
    examples = node["example"].values.tolist()
    there = node[variable].notnull().any([dim for dim in node[variable].dims if dim != "example"])
    known = [place for place in range(len(examples)) if there[place].item()]
    wide = width_of(width, DOUBLE, None)
    layouts = {place: layout_of(node.isel(example=place), component) for place in known}
    labels = max(inches(label, SMALL) for _, said in layouts.values() for label in said) + 0.1
    across = max(1, int((wide - 0.06) / (labels + max(0.9, 0.1 * node.sizes["layer"]) + 0.08)))
    high = _ROW * max(len(shown) for shown, _ in layouts.values())
    above, under = 2 * LINE + 0.06, 0.14
    fit = across * max(1, int(_HIGH / (high + above + under)))
    count = whole(per_page, "per_page", 1) if per_page is not None else fit
    pages = math.ceil(len(known) / count)
    if whole(page, "page", 1) > pages:
        raise SettingError(f"page {page}: expected 1 to {pages}, as {len(known)} examples at {count} a page take")

    places = known[(page - 1) * count : page * count]
    settings = value, variable, threshold
    here = tree.isel(example=places)
    each = cells_of_each(here, component, kind, *settings, level)
    found = [(cells, _grid(cells, *layouts[place])) for cells, place in zip(each, places, strict=True)]
    drawn = Page(wide, across, [_ROW * len(grid.rows) for _, grid in found], labels, above, under)
    every, runs = _all_values(tree, component, kind, settings)
    norm = between(every, *runs.values()) if runs else diverging(every)
    colours = SEQUENTIAL if runs else DIVERGING
    for number, (axes, (_, grid), place) in enumerate(zip(drawn.axes, found, places, strict=True)):
        draw_grid(axes, grid, colours, norm, labels - 0.1)
        axes.set_xlabel("layer" if drawn.last_of_column(number) else "", fontsize=SMALL, labelpad=1)
        headline = words.headline_of(tree.isel(example=place), node.isel(example=place))
        said = wrapped(headline or str(examples[place]), drawn.part - 0.1, SMALL)
        said = said if len(said) < 3 else [said[0], f"{said[1][:-2]}…"]
        axes.set_title("\n".join(said), fontsize=SMALL, loc="left", x=(0.02 - labels) / drawn.inner, pad=3,
                       linespacing=1.15)  # fmt: skip
    grave = words.severe(tree, [component], kind)
    one = _as_one([grid for _, grid in found])
    notes = sorted({note for cells, _ in found for note in cells.notes()})
    bar = words.value_name(tree, node, value, variable)
    many = f"{len(known)} examples" + (f", page {page} of {pages}" if pages > 1 else "")
    caption = [
        f"{bar[0].upper()}{bar[1:]} by token and layer of the {reading.spoken(component)} (states: {visible(kind)}), of"
        f" {len(places)} of {len(examples)} examples, all on one scale that reaches to the largest value of all.",
        *words.noise_sentences(tree, node),
        words.model_sentence(tree),
        *replace(found[0][0], reasons={}, examples=None).sentences(one, value),
        *(f"{note[0].upper()}{note[1:]}." for note in notes),
        *(f"{said}." for said in grave),
    ]
    below = drawn.below()
    below.depth += LINE
    told = Told(bar, (), {}, marks={}, notes=notes, legend=marks_of(one, "draws", level))
    hang(below, ScalarMappable(norm, colours), told, wide - 0.1)
    put_caption(drawn.figure, caption, words.provenance(tree))
    shown = f"{reading.spoken(component)}, {visible(kind)} {words.done_to(tree)}, {words.nu_of(tree)}, {many}"
    return cast(Figure, drawn.finish([title if title is not None else shown, *grave], below))


def _grid(cells: Cells, shown: list[int], labels: list[str]) -> Grid:
    numbers, hatched, framed = (
        one.transpose("token", "layer").values[shown] for one in (cells.values, cells.hatched, cells.framed)
    )
    layers = [str(layer) for layer in cells.values["layer"].values]
    return Grid(numbers, labels, layers, "", hatched=hatched, framed=framed)


def _all_values(
    tree: xr.DataTree, component: str, kind: str, settings: tuple[str, str, float]
) -> tuple[NDArray[Any], dict[str, float]]:
    """What is drawn of all examples, of all pages; and between which runs' means colours go, if these are so."""
    value, variable, threshold = settings
    alone = part_of(tree, component, tree.children[component].to_dataset(inherit=False).sel(kind=[kind]))
    if value == "relevance":
        return effects.relevance(alone, threshold)[component].to_dataset()[variable].values, {}
    if value == "indirect_effect":
        return reading.over_draws(effects.indirect_effect(alone)[component].to_dataset()[variable]).values, {}
    return reading.over_draws(alone[component].to_dataset()[variable]).values, runs_of(tree, variable)


def _as_one(grids: list[Grid]) -> Grid:
    """All panels in one row, for what signs there are."""
    numbers, hatched, framed = (
        np.concatenate([getattr(grid, name).ravel() for grid in grids])[None]
        for name in ("numbers", "hatched", "framed")
    )
    return Grid(numbers, [""], [], "", hatched=hatched, framed=framed)
