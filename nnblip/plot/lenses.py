"""What the model would say after each layer: the two lenses of `nnblip.lens`."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nnblip.effects import reading
from nnblip.errors import ResultError, one_of, visible
from nnblip.plot import words
from nnblip.plot.around import Panel
from nnblip.plot.canvas import COLUMN, LINE, SMALL, TEXT, inches, put_caption, width_of
from nnblip.plot.curves import LEFT, LINES, banded, line_axes, lines_below
from nnblip.results import VARIABLES

_NODES = ("decoder_lens", "logit_lens")


def lens(
    tree: xr.DataTree,
    *,
    example: str | None = None,
    variable: str = VARIABLES[0],
    title: str | None = None,
    width: float | None = None,
    ax: Axes | None = None,
) -> Figure:
    """The answer's probability after each layer, by either lens, and below each layer what the decoder lens says.

    Args:
        tree: a result of `nnblip.lens`.
        example: name of the example; may be left out if the result has one.
        variable: which of the three numbers. Those of the answer's tokens, which the logit lens has one by one, are
            multiplied (of probabilities) or added; their logit difference is that of the first.
        title, width, ax: as for `heatmap`.

    Raises:
        NnblipError: if the result is none of `nnblip.lens`, or has no such example or variable.
    """
    one_of(variable, VARIABLES, "variable")
    reading.root_of(tree)
    if missing := [name for name in _NODES if name not in tree.children]:
        raise ResultError(f"the result has no node /{missing[0]}; expected what nnblip.lens(model, examples) gives.")
    tree = reading.choose(tree, "example", example)
    decoder, logit = (tree[name].to_dataset() for name in _NODES)
    of_answer: Any = logit[variable].isel(token=0)
    if variable != "logit_difference":
        of_answer = logit["log_probability"].sum("token", skipna=True)
        of_answer = np.exp(of_answer) if variable == "probability" else of_answer
    layers = decoder["layer"].values
    said = [visible(text) for text in decoder["said"].values.tolist()]
    wide = width_of(width, COLUMN, ax)
    panel = Panel(ax, wide, LEFT, min(0.5 * wide, 2.4))
    for values, style in zip((decoder[variable], of_answer), LINES, strict=False):
        none = xr.full_like(values, np.nan)  # one run each: no interval
        banded(panel.axes, layers, xr.Dataset({"value": values, "low": none, "high": none}), style)
    question, answer = (visible(words.label_of(tree, decoder, name)) for name in ("question", "answer"))
    line_axes(panel.axes, words.target_of(tree, decoder, variable))
    labels = [f"{layer}  {text}" for layer, text in zip(layers, said, strict=True)]
    panel.axes.set_xticks(layers, labels, rotation=90)
    panel.axes.set_xlabel("layer, and what the decoder lens says", fontsize=TEXT, labelpad=2)
    below = panel.below(0.1 + max(inches(label, SMALL) for label in labels) + LINE)
    styles = dict(zip(("decoder lens (question encoder)", "logit lens (answer decoder)"), LINES, strict=False))
    lines_below(below, styles)
    sentences = [
        f"{words.target_of(tree, decoder, variable)} after each layer, by the decoder lens, in which the answer decoder"
        " reads that layer of the question encoder, and by the logit lens, in which its head reads that of its own.",
        f"Question: “{question}”.", f"Answer: “{answer}”.", words.model_sentence(tree),
    ]  # fmt: skip
    put_caption(panel.axes, sentences, words.provenance(tree))
    return cast(Figure, panel.finish([f"{question} → {answer}" if title is None else title], below))
