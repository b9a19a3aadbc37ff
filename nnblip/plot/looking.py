"""Where cross-attention looks, and Grad-CAM, on the picture: to hold beside what acts."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nnblip.effects import reading
from nnblip.errors import ResultError, SettingError, one_of, told, visible
from nnblip.examples import ImageLike
from nnblip.plot.around import Below
from nnblip.plot.canvas import COLUMN, SMALL, literal, put_caption, width_of, wrapped
from nnblip.plot.fading import fade, line, opacities, photograph, show
from nnblip.plot.page import GAP, Page, figure_of, sides
from nnblip.plot.words import label_of, model_sentence, provenance

_NODE = "question_encoder/crossattention"
WEIGHTS = ("grad_cam", "attention")


def attention(
    tree: xr.DataTree,
    image: ImageLike | None = None,
    *,
    weights: str = "grad_cam",
    layer: int | None = None,
    head: int | None = None,
    token: int | None = None,
    example: str | None = None,
    ax: Axes | None = None,
    width: float | None = None,
) -> Figure:
    """The picture, and beside it the same picture with each patch as opaque as the question's cross-attention to it.

    Attention says where a layer looks and not whether the answer depends on it (docs/reading.md): hold it against
    `nnblip.plot.picture` of what `nnblip.pointing` finds. [CLS], which has no place, is written below.

    Args:
        tree: a result of `nnblip.attention` with the component `question_encoder`.
        image: the picture; may be left out if the result's own coordinate `image` is the path of a file.
        weights: `grad_cam`, attention times the positive part of its gradient for the answer, of which each patch's
            share is shown; or `attention` alone.
        layer, head, token: which; if None, Grad-CAM is the mean over layers and heads and the sum over the question's
            tokens, and attention the mean over all of them.
        example: name of the example; may be left out if the result has one.
        ax: Axes for the map alone, without the picture beside it; a new figure if None.
        width: of a new figure, in inches.

    Raises:
        NnblipError: if the result has no such weights, layer, head, token or example, or the picture is neither given
            nor found.
    """
    one_of(weights, WEIGHTS, "weights")
    reading.root_of(tree)
    if f"/{_NODE}" not in tree.groups:
        raise ResultError(f"the result has no node /{_NODE}; expected what nnblip.attention(model, examples) gives.")
    tree = reading.choose(tree, "example", example)
    node = tree[_NODE].to_dataset()
    if weights not in node:
        raise ResultError(f"/{_NODE} has no {weights}; read it with nnblip.attention(model, examples, grad_cam=True).")
    values = node[weights]
    for dim, label in (("layer", layer), ("head", head), ("token", token)):
        values = _chosen(values, dim, label)
    over = [dim for dim in ("layer", "head", "token") if dim in values.dims]
    if weights == "grad_cam" and "token" in over:
        values = values.sum("token")
        over.remove("token")
    numbers = values.mean(over).values.astype(float)
    if weights == "grad_cam":  # it has no unit, and of a sure answer hardly a gradient
        numbers = numbers / (numbers.sum() or 1.0)
    rows, columns = (int(size) for size in np.ravel(node.attrs["grid"]))
    map = numbers[1:].reshape(rows, columns)
    found = photograph(label_of(tree, node, "image") if image is None else image, given=image is not None)

    scale = 0.0, float(map.max()) or 1.0
    name = {"grad_cam": "share of Grad-CAM of cross-attention", "attention": "cross-attention"}[weights]
    which = _which(node, layer, head, token)
    notes = ["Where a layer looks, not what the answer depends on."]
    strongest = "at least half of the strongest"
    question, answer = (visible(label_of(tree, node, label)) for label in ("question", "answer"))
    caption = [
        f"The {name}{' for the answer' * (weights == 'grad_cam')} of the question encoder, {which}, as opacity.",
        *notes, f"Solid line: {strongest}.",
        f"Question: “{question}”.", f"Answer: “{answer}”.", model_sentence(tree),
    ]  # fmt: skip

    def draw(axes: Axes, width: float) -> None:
        fade(axes, found, map, scale)
        below = Below(axes, 0.0, 0.0, width)
        below.bar(opacities(*scale), name)
        below.legend([(line("for"), strongest)])
        below.text(wrapped(f"[CLS], which has no place: {numbers[0]:.3f}", width, SMALL))

    if ax is not None:
        draw(ax, width_of(width, COLUMN, ax))
        put_caption(ax, caption, provenance(tree))
        literal(ax)
        return figure_of(ax)
    page = Page(width_of(width, 4.6, None))
    page.heading(f"{question} → {answer}")
    side = (page.room - GAP) / 2
    wide, high = sides(found, side)
    axes = page.axes(wide, high, panel=side)
    show(axes, found)
    axes.set_title("the picture", fontsize=SMALL, pad=3, loc="left")
    axes = page.axes(wide, high, panel=side)
    draw(axes, side)
    axes.set_title("where it looks", fontsize=SMALL, pad=3, loc="left")
    page.notes([f"{which[0].upper()}{which[1:]}.", *notes])
    figure = page.finish()
    put_caption(figure, caption, provenance(tree))
    return figure


def _chosen(values: xr.DataArray, dim: str, label: Any) -> xr.DataArray:
    if label is None:
        return values
    have = values[dim].values.tolist()
    if isinstance(label, bool) or label not in have:
        raise SettingError(f"{dim} {told(label)} is not in the result. It has: {', '.join(map(str, have))}.")
    return values.sel({dim: label})


def _which(node: xr.Dataset, layer: int | None, head: int | None, token: int | None) -> str:
    text = "" if token is None else f" {visible(reading.token_texts(node)[token])}"
    every = [
        "all layers" if layer is None else f"layer {layer}",
        "all heads" if head is None else f"head {head}",
        "all tokens" if token is None else f"token {token}{text}",
    ]
    return ", ".join(every)
