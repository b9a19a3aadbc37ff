"""Where in the picture: each region as visible as its effect is large."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from nnblip import effects
from nnblip.diagnosis.look import UNVARIED
from nnblip.effects import reading
from nnblip.errors import ResultError, SettingError, one_of
from nnblip.examples import ImageLike
from nnblip.plot.around import Below
from nnblip.plot.canvas import COLUMN, DOUBLE, SMALL, literal, put_caption, width_of, wrapped
from nnblip.plot.fading import STRONG, fade, line, opacities, photograph, show
from nnblip.plot.page import GAP, Page, figure_of, sides
from nnblip.plot.words import VALUES, done_to, headline_of, label_of, provenance, run_sentences, severe, value_name
from nnblip.results import VARIABLES

_NODE = "image_encoder"
_COLUMNS = 5  # of panels
#: Why there are no intervals where none are missed.
UNNEEDED = "this noise has no randomness"
#: Full opacity never stands for less, so that a map of (next to) no effect looks like one.
_LEAST = {"probability": 0.01, "log_probability": 0.05, "logit_difference": 0.1, "relevance": 0.05}


def picture(
    tree: xr.DataTree,
    image: ImageLike | None = None,
    *,
    nu: float | None = None,
    layer: int | None = None,
    example: str | None = None,
    value: str = "indirect_effect",
    variable: str | None = None,
    threshold: float = effects.THRESHOLD,
    ax: Axes | None = None,
    width: float | None = None,
) -> Figure:
    """The picture, and beside it the same picture with each region as opaque as its effect is large.

    Of a result of `nnblip.pointing`, or any with `direction="noising"`, those regions are seen that the answer needs:
    what is lost when one of them alone is damaged. Of others, those whose restoring brings the answer back. All are
    means over the draws of the noise. A solid line is around regions of at least half of the strongest effect, where
    there are intervals only if theirs is above 0; a dashed one around those of as strong an effect of the other sign.

    The model sees every picture stretched to a square, so its regions part the whole of it. [CLS], which has no
    place, is written below.

    Args:
        tree: a result with the component `image_encoder`.
        image: the picture, as `causal_trace` takes it; may be left out if the result's own
            coordinate `image` is the path of a file.
        nu: noise factor; may be left out if the result has one.
        layer: of the image encoder; each has a panel of its own, on one scale, if None.
        example: name of the example; may be left out if the result has one.
        value: `indirect_effect` or `relevance`; or `probability` of the answer, from the lowest to the highest.
        variable: effects on `probability`, `log_probability` or `logit_difference`; by default the logit difference
            where regions are damaged, since one of many hardly moves the probability of a sure answer, and the
            probability where they are restored.
        threshold: smallest mean total effect on the probability for which relevance is defined.
        ax: Axes for the map of one layer alone, without the picture beside it; a new figure if None.
        width: of a new figure, in inches.

    Raises:
        NnblipError: if the result has no `image_encoder`, or no such layer, example, ν, variable or value; if one of
            these is left out where there are several (other than `layer`); or if the picture is neither given nor
            found.
    """
    one_of(value, VALUES, "value")
    if _NODE not in reading.restored(tree):
        have = ", ".join(f"/{name}" for name in reading.restored(tree))
        raise ResultError(f"the result has no node /{_NODE}, only {have}; trace it with nnblip.pointing(model, ...).")
    tree = reading.choose(reading.choose(tree, "nu", nu), "example", example)
    if variable is None:
        variable = VARIABLES[2 if done_to(tree) == "damaged" and value != "probability" else 0]
    one_of(variable, VARIABLES, "variable")
    if value == "probability" and variable != value:
        raise SettingError(f"value 'probability' with variable {variable!r}: it has no other; leave variable out")
    node = reading.restored(tree)[_NODE]
    grid = _grid(node)
    values, sure, why = _values(tree, node, value, variable, threshold)
    layers = _layers(values, layer)
    if ax is not None and len(layers) > 1:
        raise SettingError(f"ax is for one map, and there are {len(layers)} layers: choose one with layer=")
    numbers, certain = (one.sel(layer=layers).transpose("layer", "token").values for one in (values, sure))
    maps, certain = numbers[:, 1:].reshape(-1, *grid), certain[:, 1:].reshape(-1, *grid)
    found = photograph(label_of(tree, node, "image") if image is None else image, given=image is not None)
    shown = _Shown.of(tree, node, maps, value, variable, threshold, why)
    if ax is not None:
        shown.draw(ax, found, maps[0], certain[0], numbers[0, 0], width_of(width, COLUMN, ax))
        put_caption(ax, shown.caption, shown.made)
        literal(ax)
        return figure_of(ax)

    columns = min(1 + len(layers), _COLUMNS)
    page = Page(width_of(width, 4.6 if columns == 2 else DOUBLE, None))
    page.heading(shown.headlines)
    side = (page.room - GAP * (columns - 1)) / columns
    wide, high = sides(found, side)
    axes = page.axes(wide, high, panel=side)
    show(axes, found, grid)
    axes.set_title("the picture", fontsize=SMALL, pad=3, loc="left")
    for place, (depth, cls, map, here) in enumerate(zip(layers, numbers[:, 0], maps, certain, strict=True), 1):
        if place % columns == 0:
            page.next_row()
        axes = page.axes(wide, high, panel=side)
        shown.draw(axes, found, map, here, cls, side)
        axes.set_title(f"layer {depth}" if len(layers) > 1 else shown.done, fontsize=SMALL, pad=3, loc="left")
    page.notes(shown.notes)
    figure = page.finish()
    put_caption(figure, shown.caption, shown.made)
    return figure


@dataclass(frozen=True)
class _Shown:
    """What is drawn: on which scale, and in which words.

    Attributes:
        scale: the numbers at which a region is all faded, and seen as in the picture.
        marks: numbers that are named on the bar.
        name: what the numbers are.
        signed: whether they are effects.
        lines: how lines around regions are drawn, and what they mean.
        done: what was done to regions.
        headlines: above the panels: question and answer, and what speaks against the numbers.
        notes: below them.
        caption: what can stand in a paper.
        made: the attributes of the result.
    """

    scale: tuple[float, float]
    marks: dict[str, float]
    name: str
    signed: bool
    lines: list[tuple[str, str]]
    done: str
    headlines: list[str]
    notes: list[str]
    caption: list[str]
    made: Mapping[str, Any]

    @classmethod
    def of(
        cls, tree: xr.DataTree, node: xr.Dataset, maps: NDArray[Any], value: str, variable: str, threshold: float,
        why: str,
    ) -> _Shown:  # fmt: skip
        known = maps[np.isfinite(maps)]
        signed, marks = value != "probability", dict[str, float]()
        if signed:
            scale = 0.0, max(float(known.max(initial=0)), _LEAST["relevance" if value == "relevance" else variable])
        else:
            marks = _marks(tree)
            limits = [*known.tolist(), *marks.values()]
            scale = min(limits), max(max(limits), min(limits) + _LEAST[variable])
        notes = [] if known.size else [_why_none(tree, value, threshold)]
        if known.size < maps.size:
            notes.append("Regions without a value are faded.")
        lines = []
        if signed:
            notes += [f"No intervals: {why}."] * bool(why and why != UNNEEDED)
            lines.append(
                ("for", f"{'at least ' * bool(why)}half of the strongest{'' if why else ' or more, interval above 0'}")
            )
        if signed and (known <= -STRONG * scale[1]).any():
            lines.append(("against", "as strong, of the other sign"))
        # what is damaged is held against the clean run, and not against the corrupted one, which may be weak
        grave = [one for one in severe(tree, [_NODE]) if done_to(tree) == "restored" or "weak corruption" not in one]
        limit = effects.thresholds(threshold)[variable]
        if value == "indirect_effect" and known.size and np.abs(known).max() < limit:
            notes.append(f"Weak: no {_place(node)} alone has an effect of {limit:.2g}.")
        done = f"{done_to(tree)} one {_place(node)} at a time"
        name = value_name(tree, node, value, variable)
        caption = [f"Where in the picture: the {name}, {done}, is how opaque the picture is.", *notes]
        styles = {"for": "Solid", "against": "Dashed"}
        caption += [f"{styles[style]} line: {text}." for style, text in lines] + [f"No intervals: {why}."] * (
            why == UNNEEDED
        )
        return cls(
            scale, marks, name, signed, lines, done, [headline_of(tree, node), *grave], notes,
            [*caption, *run_sentences(tree, node, None)], provenance(tree),
        )  # fmt: skip

    def draw(
        self, axes: Axes, photograph: Image.Image, map: NDArray[Any], certain: NDArray[np.bool_], cls: float,
        width: float,
    ) -> None:  # fmt: skip
        """One map, and below it what opacity and lines mean."""
        fade(axes, photograph, map, self.scale, certain if self.signed else np.zeros_like(certain))
        below = Below(axes, 0.0, 0.0, width)
        below.bar(opacities(*self.scale), self.name, self.marks)
        below.legend([(line(style), text) for style, text in self.lines])
        below.text(wrapped(f"[CLS], which has no place: {_said(cls, self.signed)}", width, SMALL))


def _values(
    tree: xr.DataTree, node: xr.Dataset, value: str, variable: str, threshold: float
) -> tuple[xr.DataArray, xr.DataArray, str]:
    """Means over draws, (layer, token); of which the interval does not include 0; and why there are no intervals."""
    if value == "probability":
        values = reading.over_draws(node[variable])
    else:
        of = effects.relevance(tree, threshold) if value == "relevance" else effects.indirect_effect(tree)
        values = reading.over_draws(of[_NODE].to_dataset()[variable])
    values = _plain(values)
    sure, why = xr.ones_like(values, bool), ""
    if value == "probability":
        return values, sure, why
    if "draw" not in node.dims:
        return values, sure, "these are means over draws"
    if str(tree.attrs.get("noise", "")).startswith(UNVARIED):
        return values, sure, UNNEEDED
    found = effects.interval(tree, value, variable=variable, threshold=threshold)[_NODE].to_dataset()
    low, high = _plain(found["low"]), _plain(found["high"])
    reasons = {str(one) for one in found["reason"].values.ravel()} - {""}
    if low.isnull().all():
        return values, sure, "; ".join(sorted(reasons))
    return values, (low > 0) | (high < 0), ""


def _plain(values: xr.DataArray) -> xr.DataArray:
    """Over layer and token alone: maps of the image encoder have one kind."""
    values = values.expand_dims([dim for dim in ("kind", "layer") if dim not in values.dims])
    return values.isel({dim: 0 for dim in values.dims if dim not in ("layer", "token")})


def _grid(node: xr.Dataset) -> tuple[int, int]:
    grid = np.ravel(node.attrs.get("grid", ())).tolist()
    if len(grid) != 2 or node.sizes.get("token") != 1 + grid[0] * grid[1]:
        raise ResultError(
            f"/{_NODE} has {node.sizes.get('token', 'no')} tokens and the grid {grid}; a picture needs its"
            " attribute `grid`, and [CLS] and every region as tokens. Trace it again, and select no tokens."
        )
    return int(grid[0]), int(grid[1])


def _layers(values: xr.DataArray, layer: object) -> list[int]:
    have: list[int] = values["layer"].values.tolist()
    if layer is not None and layer not in have:
        hint = "" if len(have) > 1 else "; trace with noise_at='pixels' for the layers before"
        raise SettingError(
            f"layer {layer!r} of {_NODE} is not in the result. It has: {', '.join(map(str, have))}{hint}."
        )
    return have if layer is None else [have[have.index(layer)]]


def _place(node: xr.Dataset) -> str:
    """What the regions are: single patches, or several together."""
    return "region" if any("-" in text for text in reading.token_texts(node)) else "patch"


def _said(number: float, signed: bool) -> str:
    if np.isnan(number):
        return "no value"
    said = f"{number:{'+' if signed else ''}.3f}"
    return said.replace("-", "−") if float(said) else "0.000"


def _marks(tree: xr.DataTree) -> dict[str, float]:
    """The probability of the clean and of the corrupted run."""
    both = {name: tree[name].to_dataset()[VARIABLES[0]] for name in ("clean", "corrupted")}
    return {name: float(reading.over_draws(one)) for name, one in both.items()}


def _why_none(tree: xr.DataTree, value: str, threshold: float) -> str:
    if value != "relevance":
        return "No values: these states were not traced."
    at = _marks(tree)
    return (
        f"Relevance is undefined: the mean total effect is below the threshold of {threshold:g}."
        f" P(answer) is {at['clean']:.4f} clean and {at['corrupted']:.4f} corrupted."
    )
