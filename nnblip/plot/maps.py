"""Heatmaps: tokens by layers, of one example or the mean over several, and heads by layers."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nnblip import effects
from nnblip.effects import reading
from nnblip.errors import ResultError, one_of, visible
from nnblip.plot import words
from nnblip.plot.cells import Cells, cells_of, layout_of, part_of
from nnblip.plot.drawing import draw_map, told_of
from nnblip.plot.grid import Grid
from nnblip.plot.words import VALUES
from nnblip.results import VARIABLES
from nnblip.sites import HEAD_KINDS, HEADS_NODE

#: By name: how maps look. The paper's are those of Palit et al. 2023: probability, purple and red.
STYLES = ("nnblip", "paper")
#: The paper's colours.
PAPER = {"question_encoder": "Purples", "answer_decoder": "Reds"}


def heatmap(
    tree: xr.DataTree,
    component: str,
    *,
    nu: float | None = None,
    kind: str = "block",
    example: str | None = None,
    value: str | None = None,
    variable: str = VARIABLES[0],
    threshold: float = effects.THRESHOLD,
    level: float = 0.95,
    limit: float | None = None,
    style: str = STYLES[0],
    title: str | None = None,
    width: float | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Tokens by layers of one component: the mean over the draws of the noise, or over examples of their means.

    Tokens run from top to bottom in reading order, each with its position; layers and positions are counted from 0, as
    in `nnblip.Site`. Cells whose interval includes 0 are hatched, those that restore by construction are framed
    (`nnblip.effects.structural`). The layout is that of the figures of Palit et al. 2023 (arXiv:2308.14179).

    Args:
        tree: a result of `causal_trace`.
        component: a restored node with the dimensions kind, layer and token, such as `question_encoder`.
        nu: noise factor; may be left out if the result has one.
        kind: which state of the layers.
        example: name of the example. Without it the only one, or the mean over all, which must have as many tokens.
        value: `indirect_effect` (the default) or `relevance`, with colours centred at 0; or `probability`, with the
            clean and the corrupted run marked on the colour bar.
        variable: which of the three numbers.
        threshold: smallest mean total effect on the probability for which relevance is defined.
        level: of the intervals, which `nnblip.effects.interval` makes over the draws of one example, or over examples.
            Each cell has its own: of many without an effect some will not be hatched.
        limit: where the colours end, so that several maps have the same; by default at the largest value.
        style: `paper` for the colours of Palit et al.: probabilities, purple for the question encoder, red for the
            answer decoder.
        title: in place of question, answer and settings.
        width: inches; one column of a paper if None (`nnblip.plot.COLUMN`, and `DOUBLE` for two).
        ax: Axes to draw into, in place of a figure of its own.

    Returns:
        The figure; `nnblip.plot.caption` has what can stand below it.

    Raises:
        NnblipError: if the component, kind, example, ν, value or variable is not there (the nearest is suggested), `nu`
            is left out where there are several, the examples are of different lengths, or a limit cuts values off.
    """
    one_of(style, STYLES, "style")
    value = one_of(value or ("probability" if style == "paper" else VALUES[0]), VALUES, "value")
    one_of(variable, VARIABLES, "variable")
    one_of(component, reading.restored(tree), "component")
    tree = words.chosen(part_of(tree, component), nu, example)
    node = reading.node_of(tree, component)
    expected = [dim for dim in ("example", "draw") if dim in node[variable].dims] + ["kind", "layer", "token"]
    if set(node[variable].dims) != set(expected):
        raise ResultError(
            f"/{component} has the dimensions {', '.join(map(str, node[variable].dims))}; a heatmap needs"
            f" {', '.join(expected)}. Select one label of any other first, as in tree.sel(head=0)."
        )
    one_of(kind, node["kind"].values.tolist(), f"kind of {component}")
    shown, labels = layout_of(node, component)
    cells = cells_of(tree, component, kind, value, variable, threshold, level)
    numbers, hatched, framed = (
        one.transpose("token", "layer").values[shown] for one in (cells.values, cells.hatched, cells.framed)
    )
    grid = Grid(numbers, labels, [str(layer) for layer in node["layer"].values], "token, position",
                hatched=hatched, framed=framed)  # fmt: skip
    lines = [title] if title is not None else map_title(tree, node, component, kind, cells)
    told = told_of(tree, node, component, kind, cells, grid, "by token and layer", (value, variable, threshold))
    colours = PAPER.get(component) if style == "paper" and value == "probability" else None
    return draw_map(grid, told, lines, limit=limit, colours=colours, width=width, ax=ax)


def heads(
    tree: xr.DataTree,
    component: str,
    *,
    nu: float | None = None,
    kind: str = HEAD_KINDS[0],
    token: int | None = None,
    example: str | None = None,
    value: str = VALUES[0],
    variable: str = VARIABLES[0],
    threshold: float = effects.THRESHOLD,
    level: float = 0.95,
    limit: float | None = None,
    title: str | None = None,
    width: float | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Heads by layers of one component, at one token or each at the token where it has the largest value.

    The largest of several values is rather too large, and has no interval: only maps of one token are hatched.

    Args:
        tree: a result of `causal_trace` with kinds of heads.
        component: such as `question_encoder`.
        kind: `attention_head` or `crossattention_head`.
        token: its position; each head's best if None.
        nu, example, value, variable, threshold, level, limit, title, width, ax: as for `heatmap`.

    Raises:
        NnblipError: as `heatmap`, or if there is no such token.
    """
    one_of(value, VALUES, "value")
    one_of(variable, VARIABLES, "variable")
    name = component.removesuffix(HEADS_NODE) + HEADS_NODE
    one_of(name, reading.restored(tree), "heads of")
    tree = words.chosen(part_of(tree, name), nu, example)
    node = reading.node_of(tree, name)
    one_of(kind, node["kind"].values.tolist(), f"kind of {name}")
    shown, labels = layout_of(node, name)
    cells = cells_of(tree, name, kind, value, variable, threshold, level)
    if token is None:
        numbers = cells.values.max("token").transpose("head", "layer").values
        hatched = framed = np.zeros(numbers.shape, bool)
        where = "each at its best token"
        cells = cells.best()
    else:
        there = [int(node["token"].values[place]) for place in shown]
        if token not in there or isinstance(token, bool):
            raise ResultError(f"token {token!r} is not in /{name}. It has: {', '.join(map(str, there))}.")
        place = shown[there.index(token)]
        numbers, hatched, framed = (
            one.isel(token=place).transpose("head", "layer").values
            for one in (cells.values, cells.hatched, cells.framed)
        )
        where = f"at token {labels[there.index(token)]}"
    rows = [f"head {head}" for head in node["head"].values]
    grid = Grid(numbers, rows, [str(layer) for layer in node["layer"].values], "", hatched=hatched, framed=framed)
    component = component.removesuffix(HEADS_NODE)
    lines = [title] if title is not None else [*map_title(tree, node, component, kind, cells), where]
    told = told_of(tree, node, name, kind, cells, grid, f"by head and layer, {where}", (value, variable, threshold))
    return draw_map(grid, told, lines, limit=limit, width=width, ax=ax)


def map_title(tree: xr.DataTree, node: xr.Dataset, component: str, kind: str, cells: Cells) -> list[str]:
    """Question and answer, then what was done."""
    done = f"{reading.spoken(component)}, {kind} {words.done_to(tree)}"
    settings = [done, words.setting_of(tree), "" if cells.examples else words.average_of(node)]
    return [words.headline_of(tree, node, cells.examples), visible(", ".join(one for one in settings if one))]
