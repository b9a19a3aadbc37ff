"""A picture that is seen where something acts, and fades where nothing does."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, withStroke
from numpy.typing import NDArray
from PIL import Image

from nnblip.errors import InputError, ResultError
from nnblip.examples import ImageLike, load_image
from nnblip.plot.canvas import LINE, SMALL, TEXT, canvas, wrapped

#: How much of the picture is left where nothing acts.
LEAST = 0.16
#: Of the strongest region, from where on a region is outlined, and how strong one of the other sign is.
STRONG = 0.5
#: Of panels.
COLUMNS = 5
_PIXELS = 1200  # of the longer side; more cannot be seen
_FOR, _AGAINST = "#D55E00", "#0072B2"  # Okabe and Ito's vermilion and blue
_GREY = 0.45


def photograph(image: ImageLike | str, given: bool) -> Image.Image:
    """The picture, not larger than can be seen.

    Raises:
        ResultError: if it is that of the result, and not found.
        InputError: if it is one that the user gave.
    """
    if not given and not image:
        raise ResultError("the result does not say the path of its picture; give it: picture(tree, image)")
    try:
        found = load_image(image)
    except InputError as error:
        if given:
            raise
        raise ResultError(f"the picture of the result is not found; give it: picture(tree, image) ({error})") from error
    found = found.convert("RGB")
    found.thumbnail((_PIXELS, _PIXELS))
    return found


def beside(
    picture: Image.Image, maps: int, width: float, headlines: Iterable[str], notes: Iterable[str], below: float = 0.75
) -> tuple[Figure, Axes, list[Axes]]:
    """A figure of so many inches with Axes for the picture and for maps of it, of which some inches below are free."""
    edge, gap, columns = 0.08, 0.14, min(1 + maps, COLUMNS)
    side = (width - 2 * edge - gap * (columns - 1)) / columns
    wide, high = (side * pixels / max(picture.size) for pixels in picture.size)
    above, under = wrapped(headlines, width - 2 * edge), wrapped(notes, width - 2 * edge, SMALL)
    top, bottom = edge + LINE * len(above), edge + 1.25 * SMALL / 72 * len(under)
    row = 0.24 + high + below
    rows = math.ceil((1 + maps) / columns)
    height = top + rows * row + bottom
    figure = canvas(width, height)
    figure.text(edge / width, 1 - edge / height, "\n".join(above), fontsize=TEXT, va="top", linespacing=1.25)
    figure.text(edge / width, edge / height, "\n".join(under), fontsize=SMALL, va="bottom", linespacing=1.25)
    places = [
        (edge + k % columns * (side + gap) + (side - wide) / 2, bottom + (rows - 1 - k // columns) * row + below)
        for k in range(1 + maps)
    ]
    first, *others = (figure.add_axes((x / width, y / height, wide / width, high / height)) for x, y in places)
    return figure, first, others


def figure_of(axes: Axes) -> Figure:
    """The figure that Axes are in."""
    figure = axes.get_figure(root=True)
    assert isinstance(figure, Figure)
    return figure


def show(axes: Axes, picture: Image.Image, grid: tuple[int, int] = (1, 1)) -> None:
    """The picture as it is, in its own proportions, in units of regions."""
    axes.imshow(picture, **_place(picture, grid))
    bare(axes)


def fade(
    axes: Axes,
    picture: Image.Image,
    map: NDArray[Any],
    scale: tuple[float, float],
    sure: NDArray[np.bool_] | None = None,
) -> None:
    """The picture in its own colours, each region as opaque as its number is large.

    Args:
        axes: where it is drawn.
        picture: the picture.
        map: (row, column), a number of each region, NaN where there is none, which fades.
        scale: the numbers at which, and below and above which, a region is all faded and seen as in the original.
        sure: (row, column), regions that may be outlined; all if None.
    """
    rows, columns = map.shape
    low, high = scale
    known = np.nan_to_num((map - low) / (high - low), nan=0.0)
    strength = np.clip(known, 0, 1)
    opacity = LEAST + (1 - LEAST) * strength
    wide, high = picture.size
    row, column = (np.arange(size) * parts // size for size, parts in ((high, rows), (wide, columns)))
    faded = np.dstack([np.asarray(picture, float) / 255, opacity[np.ix_(row, column)]])
    axes.set_facecolor("white")
    axes.imshow(faded, **_place(picture, (rows, columns)))
    may = np.ones_like(map, bool) if sure is None else sure
    _outline(axes, (known >= STRONG) & may, _FOR, "solid")
    _outline(axes, (known <= -STRONG) & may, _AGAINST, (0, (3, 1.5)))
    bare(axes)


def opacities(low: float, high: float) -> ScalarMappable:
    """How a grey region is seen at every number from one to the other: what a bar of colours shows."""
    shades = [(0, (1 - LEAST * (1 - _GREY),) * 3), (1, (_GREY,) * 3)]
    return ScalarMappable(Normalize(low, high), LinearSegmentedColormap.from_list("opacity", shades))


def bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_linewidth(0.4)
    axes.spines[:].set_color("0.6")


def _place(picture: Image.Image, grid: tuple[int, int]) -> Any:
    wide, high = picture.size
    rows, columns = grid
    return dict(extent=(0, columns, rows, 0), aspect=high * columns / (wide * rows))


def _outline(axes: Axes, inside: NDArray[np.bool_], colour: str, style: Any) -> None:
    """A line around the regions of a set."""
    padded = np.pad(inside, 1)
    lines = [[(c, r), (c + 1, r)] for r, c in np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1])]
    lines += [[(c, r), (c, r + 1)] for r, c in np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1])]
    if lines:
        white = [withStroke(linewidth=2.6, foreground="white"), Normal()]
        drawn = LineCollection(
            lines, colors=colour, linewidths=1.3, linestyles=[style], capstyle="projecting", clip_on=False, zorder=3
        )
        drawn.set_path_effects(white if style == "solid" else [])
        axes.add_collection(drawn, autolim=False)
