"""Knock-out maps: what the answer needs of connections."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nnblip import effects
from nnblip.edges import EDGES, SOURCES
from nnblip.effects.reading import spoken
from nnblip.errors import ResultError, SettingError, one_of, visible
from nnblip.plot.around import Page
from nnblip.plot.canvas import COLUMN, DOUBLE, LINE, SMALL, inches, put_caption, shortened, width_of
from nnblip.plot.drawing import Told, draw_map, hang
from nnblip.plot.grid import DIVERGING, Grid, diverging, draw_grid
from nnblip.plot.words import chosen_example, headline_of, model_sentence, of_one, provenance, target_of, texts_of
from nnblip.results import VARIABLES

_ROW = 0.15  # inches


def knock_outs(
    tree: xr.DataTree,
    *,
    edges: str | None = None,
    window: int | None = None,
    by: str | None = None,
    example: str | None = None,
    variable: str = VARIABLES[0],
    level: float = 0.95,
    limit: float | None = None,
    title: str | None = None,
    width: float | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Sources by layers, a panel for each target: what the answer loses when these edges alone are cut.

    Each cell is `nnblip.effects.knock_out_effect`, clean − knocked out: red where the answer needs the edge, blue where
    it is better without. A window's cell stands at its first layer.

    Args:
        tree: a result of `causal_trace` with `cells=nnblip.sites.knock_outs(...)`.
        edges, window, by: from where to where, how many layers are cut together, and how; each may be left out if the
            result has one.
        example: name of the example; the mean over all of them if None.
        variable: which of the three numbers; a logit difference shows what a probability near 1 hides.
        level: of the intervals over examples; cells whose interval includes 0 are hatched. Of one example there are
            none: a cut has no noise.
        limit, title, ax: as for `heatmap`; ax for knock-outs of a single target.
        width: inches; two columns of a paper if None, one for a single target.

    Raises:
        NnblipError: if the result has no knock-outs, none that is named, or several where one has to be named; or
            if two of them would have one place.
    """
    one_of(variable, VARIABLES, "variable")
    every = effects.knock_out_effect(tree)
    tree = chosen_example(tree, example)
    if "example" not in tree.sizes and "example" in every.dims:
        every = every.sel(example=tree.coords["example"].item())
    found = _one(_one(_one(every, "edges", edges), "window", window), "by", by)
    edges, window, by = (found[name].values[0].item() for name in ("edges", "window", "by"))
    examples = found.sizes.get("example")
    numbers, hatched, notes = _means(found[variable], level)
    sources, targets = (list(dict.fromkeys(found[name].values.tolist())) for name in ("source", "target"))
    layers = np.arange(int(found["layer"].min()), int(found["layer"].max()) + 1)
    if ax is not None and len(targets) > 1:
        raise SettingError(f"ax is given, and the knock-outs are of {len(targets)} targets, a panel each: select one of"
                           " them, or leave ax out")  # fmt: skip
    placed = [_placed(found, one, targets, sources, layers) for one in (numbers, hatched)]
    texts = {name: texts_of(tree, component) for name, component in (("source", SOURCES[edges]),
                                                                    ("target", EDGES[edges][0]))}  # fmt: skip
    rows = [_named(source, texts["source"]) for source in sources]
    said = [_named(target, texts["target"]) for target in targets]
    grids = [
        Grid(placed[0][at], rows, [str(layer) for layer in layers], "", hatched=placed[1][at] > 0)
        for at in range(len(targets))
    ]
    target = target_of(tree, every, variable)
    done = {"mask": "cut by mask", "mean": "replaced by the mean"}.get(by, by)
    of = f"window of {window} layers, at its first" if window > 1 else "each layer alone"
    signs = [("hatched", f"{100 * level:g} % interval over examples includes 0")] if (placed[1] > 0).any() else []
    signs += [("grey", "no value")] if not np.isfinite(placed[0]).all() else []
    caption = [
        f"What {target} loses when {spoken(edges)} edges alone are {done} in the clean run (clean − cut), {of}: sources"
        " by layers, a panel for each target.",
        *([f"Mean over {examples} examples."] if examples else of_one(tree, every)),
        model_sentence(tree),
        f"Hatched: the {100 * level:g} % interval over the examples includes 0." if (placed[1] > 0).any() else "",
        *(f"{note[0].upper()}{note[1:]}." for note in notes),
    ]
    told = Told(f"{target}, clean − cut", caption, provenance(tree), notes=notes, legend=signs)
    lines = [title] if title is not None else [headline_of(tree, every, examples), f"{spoken(edges)} {done}, {of}"]
    if len(targets) == 1:
        lines = lines if said[0] == "all" else [*lines, f"to {said[0]}"]
        return draw_map(grids[0], told, lines, limit=limit, width=width or (None if ax else COLUMN), ax=ax)
    return _panels(grids, said, told, lines, width_of(width, DOUBLE, None), limit)


def _panels(
    grids: list[Grid], targets: list[str], told: Told, title: list[str], wide: float, limit: float | None
) -> Figure:
    """A panel for each target, on one scale."""
    layers = max(len(grids[0].columns), 4)
    labels = min(max(inches(row, SMALL) for row in grids[0].rows), 0.4 * wide) + 0.12
    across = max(1, int((wide - 0.06 - labels) / (0.15 * layers + 0.14)))
    across = math.ceil(len(grids) / math.ceil(len(grids) / across))  # rows of as many panels
    heights = [_ROW * len(grid.rows) for grid in grids]
    page = Page(wide, across, heights, labels, LINE + 0.05, 0.16, 0.45 * layers, shared=True)
    norm = diverging(np.concatenate([grid.numbers.ravel() for grid in grids]), limit)
    for number, (axes, grid, target) in enumerate(zip(page.axes, grids, targets, strict=True)):
        draw_grid(axes, grid, DIVERGING, norm, labels - 0.1)
        if not page.first_of_row(number):
            axes.set_yticklabels([])
        axes.set_xlabel("layer" if page.last_of_column(number) else "", fontsize=SMALL, labelpad=1)
        axes.set_title(shortened(target, page.inner), fontsize=SMALL, pad=3)
    below = page.below()
    below.depth += LINE
    hang(below, ScalarMappable(norm, DIVERGING), told, wide - 0.1)
    put_caption(page.figure, told.caption, told.made)
    return cast(Figure, page.finish(title, below))


def _means(values: xr.DataArray, level: float) -> tuple[NDArray[Any], NDArray[Any], list[str]]:
    """Of each knock-out the mean over examples, 1 where its interval includes 0, and what must be said."""
    if "example" not in values.dims:
        return values.values, np.zeros(values.shape), ["one example and no noise: no intervals"]
    support = (-1.0, 1.0) if values.name == VARIABLES[0] else (-np.inf, np.inf)
    found = cast(xr.Dataset, effects.interval(values, over="examples", level=level, support=support))
    numbers, units = found["value"].values, found["units"].values[np.isfinite(found["value"].values)]
    crossing = ((found["low"] <= 0) & (found["high"] >= 0)).values.astype(float)
    few = sorted({str(why) for why in found["reason"].values.tolist() if str(why).startswith("too few")})
    notes = [f"no interval where there are {why}" for why in few]
    if units.size and units.min() < values.sizes["example"]:
        notes.append(f"some of fewer examples, at least {units.min()}")
    return numbers, crossing, notes


def _one(found: xr.Dataset, name: str, label: Any) -> xr.Dataset:
    """The knock-outs of one label, the only one if none is named."""
    have = list(dict.fromkeys(found[name].values.tolist()))
    said = ", ".join(map(str, have))
    if label is None:
        if len(have) > 1:
            raise SettingError(f"the knock-outs of the result have {len(have)} values of {name}: {said}. Choose one"
                               f" with {name}=.")  # fmt: skip
        return found
    if label not in have or isinstance(label, bool):
        raise SettingError(f"{name} {label!r} is not among the knock-outs of the result. It has: {said}.")
    return found.isel(knock_out=found[name].values == label)


def _placed(
    found: xr.Dataset, values: NDArray[Any], targets: list[str], sources: list[str], layers: NDArray[Any]
) -> NDArray[Any]:
    """(target, source, layer), NaN where there is no knock-out."""
    numbers = np.full((len(targets), len(sources), len(layers)), np.nan)
    places = zip(*(found[name].values.tolist() for name in ("target", "source", "layer", "knock_out")), strict=True)
    taken: dict[tuple[int, int, int], str] = {}
    for (target, source, layer, name), value in zip(places, values, strict=True):
        place = targets.index(target), sources.index(source), layer - int(layers[0])
        if place in taken:
            raise ResultError(
                f"{taken[place]!r} and {name!r} have one place in the map; select one of them, or call their"
                " sources and targets different names"
            )
        taken[place] = name
        numbers[place] = value
    return numbers


def _named(label: str, texts: dict[int, str]) -> str:
    """A token with its text, where it is one and the text is known; what a family calls others."""
    text = texts.get(int(label)) if label.isascii() and label.isdigit() else None
    return f"{text}  {label}" if text else visible(label)
