"""The regions of the image drawn on the picture."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap, ListedColormap, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from nnblip import effects
from nnblip.effects import reading
from nnblip.errors import InputError, ResultError, SettingError, one_of
from nnblip.examples import ImageLike, load_image
from nnblip.plot.common import (
    SMALL,
    TEXT,
    UNDEFINED,
    VALUES,
    colour_bar,
    label_of,
    literal,
    norm_of,
    notes_on,
    title_of,
    values_of,
    why_undefined,
)

_NODE = "image_encoder"
_COLUMNS = 4  # of panels
_LARGE, _LITTLE = 4.0, 1.9  # inches of a picture's longer side, alone and among others
_OPAQUE = 0.6
_PIXELS = 1200  # of the longer side; more cannot be seen


def picture(
    tree: xr.DataTree,
    image: ImageLike | None = None,
    *,
    nu: float | None = None,
    layer: int | None = None,
    example: str | None = None,
    value: str = "indirect_effect",
    threshold: float = effects.THRESHOLD,
) -> Figure:
    """The picture in grey with its regions coloured, each by the mean over the draws of the noise.

    The model sees every picture stretched to a square, so its regions part the whole of it.
    The stronger the effect of a region, the stronger its colour; without any it has none.
    [CLS], which has no place, is written below.

    Args:
        tree: a result of `causal_trace` with the component `image_encoder`.
        image: the picture, as `causal_trace` takes it; may be left out if the result's own
            coordinate `image` is the path of a file.
        nu: noise factor; may be left out if the result has one.
        layer: of the image encoder; each has a panel of its own, on one scale of colours, if None.
        example: name of the example; may be left out if the result has one.
        value: `indirect_effect` or `relevance`, with colours centred at 0; or `probability`
            of the answer, with the clean and the corrupted run marked on the colour bar.
        threshold: smallest mean total effect for which relevance is defined.

    Raises:
        NnblipError: if the result has no `image_encoder`, or no such layer, example, ν or
            value; if one of these is left out where there are several (other than `layer`);
            or if the picture is neither given nor found.
    """
    one_of(value, VALUES, "value")
    if _NODE not in reading.restored(tree):
        have = ", ".join(f"/{name}" for name in reading.restored(tree))
        raise ResultError(
            f"the result has no node /{_NODE}, only {have}; trace with components=[{_NODE!r}] (and regions=4, say)."
        )
    tree = reading.choose(reading.choose(tree, "nu", nu), "example", example)
    node = reading.restored(tree)[_NODE]
    rows, columns = _grid(node)
    values = values_of(tree, _NODE, value, threshold)
    values = values.expand_dims([dim for dim in ("kind", "layer") if dim not in values.dims])
    values = values.isel(kind=0).sel(layer=_layers(values, layer))
    numbers = reading.over_draws(values).transpose("layer", "token").values
    regions = numbers[:, 1:].reshape(-1, rows, columns)
    photograph = _photograph(label_of(tree, node, "image") if image is None else image, given=image is not None)

    # inches
    panels = min(len(numbers), _COLUMNS), math.ceil(len(numbers) / _COLUMNS)
    side = _LARGE if len(numbers) == 1 else _LITTLE
    wide, high = (side * pixels / max(photograph.size) for pixels in photograph.size)
    width = max(panels[0] * (wide + 0.1) + (2.0 if value == "probability" else 1.2), 4.2)
    title = title_of(tree, node, _NODE, "block", node.sizes.get("draw"), characters=int(width * 13))
    below = ["[CLS] has no place in the picture"]
    if np.isfinite(regions).any():
        below += notes_on(regions)
    else:
        below = [*why_undefined(tree, value, threshold).split("\n"), *below]
    map_height = panels[1] * (high + 0.42)
    figure = Figure(figsize=(width, 0.3 + map_height + 0.19 * (len(title) + len(below))), layout="compressed")
    figure.suptitle("\n".join(title), fontsize=TEXT, x=0.05 / width, ha="left", parse_math=False, linespacing=1.4)
    figure.supxlabel("\n".join(below), fontsize=SMALL, x=0.05 / width, ha="left", linespacing=1.4)
    all_axes = figure.subplots(panels[1], panels[0], squeeze=False).ravel().tolist()
    for axes in all_axes[len(numbers) :]:
        axes.set_visible(False)

    norm = norm_of(tree, regions, value) if np.isfinite(regions).any() else None
    for axes, depth, cls, map in zip(all_axes, values["layer"].values, numbers[:, 0], regions, strict=False):
        drawn = _panel(axes, photograph, map, _colours(value), norm)
        axes.set_title(f"layer {depth}", fontsize=SMALL, pad=3)
        axes.set_xlabel(f"[CLS] {_said(cls, signed=value != 'probability')}", fontsize=SMALL, labelpad=3)
    if norm:
        colour_bar(all_axes, drawn, tree, node, value, map_height)
    return literal(figure)


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


def _photograph(image: Any, given: bool) -> Any:
    """A grey PIL image, not larger than can be seen."""
    if not given and not image:
        raise ResultError("the result does not say the path of its picture; give it: picture(tree, image)")
    try:
        photograph = load_image(image)
    except InputError as error:
        if given:
            raise
        raise ResultError(f"the picture of the result is not found; give it: picture(tree, image) ({error})") from error
    photograph = photograph.convert("L")
    photograph.thumbnail((_PIXELS, _PIXELS))
    return photograph


def _colours(value: str) -> Colormap:
    """Strength is opacity, so that the picture is seen wherever there is little to say."""
    if value == "probability":
        shades = colormaps["viridis"](np.linspace(0, 1, 256))
        shades[:, 3] = _OPAQUE
        colours: Colormap = ListedColormap(shades)
    else:
        blue, red = to_rgb("#0050c8"), to_rgb("#e00010")
        stops = [(0, (*blue, _OPAQUE)), (0.5, (*blue, 0)), (0.5, (*red, 0)), (1, (*red, _OPAQUE))]
        colours = LinearSegmentedColormap.from_list("effect", stops, N=512)
    return colours.with_extremes(bad=UNDEFINED)


def _said(number: float, signed: bool) -> str:
    if np.isnan(number):
        return "no value"
    said = f"{number:{'+' if signed else ''}.3f}"
    return said.replace("-", "−") if float(said) else "0.000"


def _panel(axes: Axes, photograph: Any, map: NDArray[Any], colours: Colormap, norm: Normalize | None) -> AxesImage:
    """The photograph in its own proportions, in units of regions, and the map on it (none without a norm)."""
    rows, columns = map.shape
    wide, high = photograph.size
    place: Any = dict(extent=(0, columns, rows, 0), aspect=high * columns / (wide * rows))
    drawn = axes.imshow(photograph, cmap="gray", vmin=-140, vmax=255, **place)
    if norm:
        drawn = axes.imshow(np.ma.masked_invalid(map), cmap=colours, norm=norm, interpolation="nearest", **place)
    axes.hlines(range(1, rows), 0, columns, color="white", linewidth=0.4, alpha=0.6)
    axes.vlines(range(1, columns), 0, rows, color="white", linewidth=0.4, alpha=0.6)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    return drawn
