"""Heatmaps: tokens by layers, of one example or the mean over several, and heads by layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure as AnyFigure

from nnblip import effects
from nnblip.effects import reading
from nnblip.errors import ResultError, SettingError, one_of, visible
from nnblip.plot import words
from nnblip.plot.around import Below, Panel
from nnblip.plot.canvas import COLUMN, SMALL, TEXT, put_caption, width_of, wrapped
from nnblip.plot.cells import Cells, cells_of, layout_of
from nnblip.plot.grid import DIVERGING, Grid, between, diverging, draw_grid
from nnblip.plot.words import VALUES
from nnblip.results import VARIABLES
from nnblip.sites import HEAD_KINDS, HEADS_NODE

#: By name: how maps look. The paper's are those of Palit et al. 2023: probability, purple and red.
STYLES = ("nnblip", "paper")
#: Colours of probabilities: of nnblip's own maps, and of the components' in the paper.
SEQUENTIAL = "viridis"
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
) -> AnyFigure:
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
    tree = words.chosen_example(reading.choose(tree, "nu", nu), example)
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
    about = f"by token and layer (states: {kind})"
    said = Said(tree, node, component, kind, value, variable, threshold, about)
    return draw_map(grid, cells, said, lines, limit=limit, style=style, width=width, ax=ax)


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
) -> AnyFigure:
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
    tree = words.chosen_example(reading.choose(tree, "nu", nu), example)
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
    said = Said(tree, node, name, kind, value, variable, threshold, f"by head and layer, {where} (heads: {kind})")
    return draw_map(grid, cells, said, lines, limit=limit, width=width, ax=ax)


def map_title(tree: xr.DataTree, node: xr.Dataset, component: str, kind: str, cells: Cells) -> list[str]:
    """Question and answer, then what was done."""
    done = f"{reading.spoken(component)}, {kind} {words.done_to(tree)}"
    settings = [done, words.nu_of(tree), "" if cells.examples else words.average_of(node)]
    return [words.headline_of(tree, node, cells.examples), visible(", ".join(one for one in settings if one))]


class Said:
    """What the words on and below a map are made of."""

    def __init__(
        self, tree: xr.DataTree, node: xr.Dataset, name: str, kind: str, value: str, variable: str,
        threshold: float, about: str,
    ) -> None:  # fmt: skip
        self.tree, self.node, self.name, self.kind = tree, node, name, kind
        self.component = name.removesuffix(HEADS_NODE)
        self.value, self.variable, self.threshold, self.about = value, variable, threshold, about

    @property
    def bar(self) -> str:
        return words.value_name(self.tree, self.node, self.value, self.variable)

    @property
    def marks(self) -> dict[str, float]:
        """The clean and the corrupted run, mean over draws and examples."""
        both = (self.tree[name].to_dataset()[self.variable] for name in ("clean", "corrupted"))
        return {
            name: float(reading.over_draws(one).mean()) for name, one in zip(("clean", "corrupted"), both, strict=True)
        }

    @property
    def why_undefined(self) -> str:
        if self.value != "relevance":
            return "No values: these states were not traced."
        at = words_of_marks(self.marks)
        limit = effects.thresholds(self.threshold)[self.variable]
        name = words.target_of(self.tree, self.node, self.variable).split(" = ")[0].removesuffix(")")
        name += ")" * name.startswith("P(")
        return (
            f"Relevance is undefined: the mean total effect is below the threshold of {limit:g}. {name} is"
            f" {at['clean']} clean and {at['corrupted']} corrupted."
        )

    def caption(self, cells: Cells, grid: Grid, grave: Sequence[str]) -> list[str]:
        of = words.value_name(self.tree, self.node, self.value, self.variable)
        done = "of damaging" if words.done_to(self.tree) == "damaged" else "of restoring"
        what = f"with one state {words.done_to(self.tree)}" if self.value == "probability" else f"{done} one state"
        first = f"{of[0].upper()}{of[1:]} {what} of the {reading.spoken(self.component)}, {self.about}."
        if self.value == "relevance":
            first += " Relevance is the sum of the indirect effects over that of the total effects."
        empty = np.zeros(grid.numbers.shape, bool)
        hatched, framed = (empty if one is None else one for one in (grid.hatched, grid.framed))
        return [
            first,
            *words.run_sentences(self.tree, self.node, cells.examples),
            *cells.sentences(hatched, framed, self.value),
            *(f"{one}." for one in grave),
        ]


def words_of_marks(marks: dict[str, float]) -> dict[str, str]:
    return {name: f"{value:.4f}" for name, value in marks.items()}


def draw_map(
    grid: Grid, cells: Cells, said: Said, title: Sequence[str], *, limit: float | None = None, style: str = STYLES[0],
    width: float | None = None, ax: Axes | None = None,
) -> AnyFigure:  # fmt: skip
    """The whole figure of a map, or all of it hung on the Axes that are given."""
    if limit is not None and said.value == "probability":
        raise SettingError("limit is given, of a map of probabilities: expected an effect, whose colours are around 0")
    wide = width_of(width, COLUMN, ax)
    grave = words.severe(said.tree, [said.name], said.kind)
    labels = 0.42 * wide
    height = max(grid.height, 0.7) if cells.undefined else grid.height
    panel = Panel(ax, wide, grid.label_width(labels), height)
    below = _cells(panel, grid, cells, said, limit, style, labels)
    put_caption(panel.axes, said.caption(cells, grid, grave), words.provenance(said.tree))
    return panel.finish([*title, *grave], below)


def _cells(panel: Panel, grid: Grid, cells: Cells, said: Said, limit: float | None, style: str, labels: float) -> Below:
    """Everything but the title: cells, and below them colour bar, legend and notes."""
    marks, axes = said.marks if said.value == "probability" else {}, panel.axes
    norm: Any = Normalize(0, 1)
    if not cells.undefined:
        norm = between(grid.numbers, *marks.values()) if marks else diverging(grid.numbers, limit)
    colours = SEQUENTIAL if marks else DIVERGING
    if style == "paper" and marks:
        colours = PAPER.get(said.component, SEQUENTIAL)
    _, depth = draw_grid(axes, grid, colours, norm, labels)
    below = panel.below(depth)
    if cells.undefined:
        lines = wrapped(said.why_undefined, panel.inner - 0.1)
        axes.text(0.5, 0.5, "\n".join(lines), transform=axes.transAxes, ha="center", va="center", fontsize=TEXT)
        return below
    below.bar(ScalarMappable(norm, colours), said.bar, marks)
    empty = np.zeros(grid.numbers.shape, bool)
    below.legend(cells.legend(grid.numbers, *(empty if one is None else one for one in (grid.hatched, grid.framed))))
    below.text(wrapped(cells.notes(), panel.width - 0.08, SMALL))
    return below
