"""A picture that is seen where something acts, and fades where nothing does."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.lines import Line2D
from matplotlib.patheffects import Normal, withStroke
from numpy.typing import NDArray
from PIL import Image

from nnblip.errors import InputError, ResultError
from nnblip.examples import ImageLike, load_image

#: How much of the picture is left where nothing acts.
LEAST = 0.16
#: Of the strongest region, from where on a region is outlined, and how strong one of the other sign is.
STRONG = 0.5
_PIXELS = 1200  # of the longer side; more cannot be seen
#: Okabe and Ito's vermilion and blue.
_LINES: dict[str, tuple[str, Any]] = {"for": ("#D55E00", "solid"), "against": ("#0072B2", (0, (3, 1.5)))}
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
    _outline(axes, (known >= STRONG) & may, "for")
    _outline(axes, (known <= -STRONG) & may, "against")
    bare(axes)


def line(style: str) -> Line2D:
    """The line around regions: "for" of the strongest, "against" of the strongest of the other sign."""
    colour, dashes = _LINES[style]
    return Line2D([], [], color=colour, linestyle=dashes, linewidth=1.3)


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


def _outline(axes: Axes, inside: NDArray[np.bool_], style: str) -> None:
    """A line around the regions of a set."""
    padded = np.pad(inside, 1)
    lines = [[(c, r), (c + 1, r)] for r, c in np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1])]
    lines += [[(c, r), (c, r + 1)] for r, c in np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1])]
    if lines:
        colour, dashes = _LINES[style]
        drawn = LineCollection(lines, colors=colour, linewidths=1.3, linestyles=[dashes], capstyle="projecting")
        drawn.set(clip_on=False, zorder=3, gid=style)
        if style == "for":
            drawn.set_path_effects([withStroke(linewidth=2.6, foreground="white"), Normal()])
        axes.add_collection(drawn, autolim=False)
