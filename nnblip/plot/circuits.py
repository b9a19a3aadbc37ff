"""A circuit: the strongest edges as arrows, components from left to right, layers from bottom to top."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nnblip import effects
from nnblip.effects import reading
from nnblip.errors import ResultError, one_of, whole
from nnblip.plot import words
from nnblip.plot.around import Panel
from nnblip.plot.arrows import Drawing, arrows_of
from nnblip.plot.canvas import DOUBLE, SMALL, TEXT, put_caption, width_of, wrapped
from nnblip.plot.cells import mean_over, part_of
from nnblip.results import VARIABLES
from nnblip.sites import COMPONENTS, EDGES_NODE

#: Effects below this are rounding of float32, and no edge is drawn for them.
ROUNDING = 1e-5


def circuit(
    tree: xr.DataTree,
    *,
    n: int | None = 20,
    interval: float | None = None,
    nu: float | None = None,
    example: str | None = None,
    variable: str = VARIABLES[0],
    title: str | None = None,
    width: float | None = None,
    ax: Axes | None = None,
) -> Figure:
    """The strongest edges as arrows from sender to receiver, each as wide as its indirect effect is strong.

    Image, question encoder and answer decoder stand side by side, each with a column for every token that an edge has
    at an end; layers go up, and in a layer its sublayers. Effects are means over the draws. Edges whose 95 % interval
    includes 0 are pale.

    Args:
        tree: a result of `causal_trace` with `cells=nnblip.sites.edges(...)`. Tokens are named where it has their
            texts, as it does if maps of the components were traced too.
        n: how many edges at most, the strongest in either direction; all if None. Effects below `ROUNDING` are none.
        interval: a level of confidence, such as 0.95: only edges whose interval (see `nnblip.effects.interval`)
            excludes 0. Each edge is looked at for itself: of many without an effect some will be among them.
        nu: noise factor; may be left out if the result has one.
        example: name of the example; the mean over all of them if None.
        variable: which of the three numbers.
        title, ax: as for `heatmap`.
        width: inches; two columns of a paper if None.

    Raises:
        NnblipError: if the result has no edges, or no such ν or example, or several ν and none is named; or for an `n`
            or a level that cannot be.
    """
    one_of(variable, VARIABLES, "variable")
    most = None if n is None else whole(n, "n", 1)
    if EDGES_NODE not in reading.restored_names(tree):
        raise ResultError("the result has no node /edges; trace with cells=nnblip.sites.edges(...).")
    tree = words.chosen(tree, nu, example)
    alone = part_of(tree, EDGES_NODE)
    node = effects.indirect_effect(alone)[EDGES_NODE].to_dataset()
    values, examples, notes = mean_over(node[variable])
    numbers = values.values
    level = 0.95 if interval is None else interval
    found = cast(xr.DataTree, effects.interval(alone, variable=variable, level=level))
    low, high, reasons = _flat(found[EDGES_NODE].to_dataset(), numbers.shape)
    sure = (low > 0) | (high < 0)
    kept = np.abs(numbers) >= ROUNDING  # NaN is not
    missing = [why for why, has in zip(reasons, kept, strict=True) if has and why.startswith("too few")]
    few = missing[0] if missing else ""
    if missing:
        of_all = len(missing) == kept.sum()
        notes = [*notes, f"no intervals: {few}" if of_all else f"{len(missing)} edges have no interval: {few}"]
    kept = kept if interval is None else kept & sure
    order = np.flatnonzero(kept)[np.argsort(-np.abs(numbers[kept]), kind="stable")]
    shown = order[:most]
    pale = {int(place) for place in shown if not sure[place] and np.isfinite(low[place])}
    arrows = arrows_of(node, shown, numbers, pale)
    names = {component: words.texts_of(tree, component) for component in COMPONENTS}
    over, target = str(found.attrs["over"]), words.target_of(tree, node, variable)

    wide = width_of(width, DOUBLE, ax)
    drawing = Drawing(arrows, names) if arrows else None
    panel = Panel(ax, wide, 0.36, drawing.height if drawing else 0.5)
    axes = panel.axes
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, pad=2, labelsize=SMALL)
    if drawing is None:
        axes.set_xticks([])
        axes.set_yticks([])
        why = f"No intervals: {few}." if few and interval is not None else "No edge has an effect."
        if interval is not None and not few:
            why = f"No edge has an effect whose {100 * level:g} % interval excludes 0."
        lines = wrapped(why, panel.inner - 0.1)
        axes.text(0.5, 0.5, "\n".join(lines), transform=axes.transAxes, ha="center", va="center", fontsize=TEXT)
        below = panel.below(0.05)
    else:
        below = panel.below(drawing.draw(axes, panel.inner))
        below.legend(drawing.legend(f"{100 * level:g} % interval over {over} includes 0"))
        below.text(wrapped((f"{note[0].upper()}{note[1:]}." for note in notes), wide - 0.08, SMALL))
    grave = words.severe(tree, [EDGES_NODE])
    told = _told(tree, node, examples, len(shown), len(order), numbers.size, interval)
    caption = [
        f"The strongest edges by their indirect effect on {target}, as arrows from sender to receiver: components from"
        " left to right, layers from bottom to top.",
        f"{told[-1][0].upper()}{told[-1][1:]}.",
        "Red: the edge alone raises it; blue: lowers it; the wider, the more.",
        *words.run_sentences(tree, node, examples, "Each edge alone"),
        f"Pale: the {100 * level:g} % interval over the {over} includes 0 (each edge for itself)." if pale else "",
        *(f"{note[0].upper()}{note[1:]}." for note in notes),
        *(f"{one}." for one in grave),
    ]
    put_caption(axes, caption, words.provenance(tree))
    lines = [title] if title is not None else [*told[:-1], f"{told[-1]}; indirect effect on {target}"]
    return cast(Figure, panel.finish([*lines, *grave], below))


def _flat(bounds: xr.Dataset, shape: tuple[int, ...]) -> tuple[NDArray[Any], NDArray[Any], list[str]]:
    low, high = (bounds[name].values.reshape(shape) for name in ("low", "high"))
    return low, high, [str(why) for why in np.ravel(bounds["reason"].values)]


def _told(
    tree: xr.DataTree, node: xr.Dataset, examples: int | None, shown: int, kept: int, every: int,
    interval: float | None,
) -> Sequence[str]:  # fmt: skip
    """Lines of the title: of what, what was done, how many edges."""
    done = [f"edges {words.done_to(tree)}", words.setting_of(tree), "" if examples else words.average_of(node)]
    of = f"{kept} edges" if shown == kept else f"{shown} strongest of {kept} edges"
    which = "with an effect" if interval is None else f"whose {100 * interval:g} % interval excludes 0"
    return [
        words.headline_of(tree, node, examples),
        ", ".join(one for one in done if one),
        f"{of} {which}, of {every} traced",
    ]
