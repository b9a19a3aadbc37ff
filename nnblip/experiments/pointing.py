"""Does a map over a picture point at the object? Boxes become patches; a map is held against them and another map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from nnblip.errors import InputError, told
from nnblip.examples import Example, load_image
from nnblip.experiments.sources import BOX

Array = NDArray[np.float64]
#: left, upper, right, lower, as shares of the picture
Box = tuple[float, float, float, float]
#: So often a random place is drawn anew before it is given up.
TRIES = 200


class Pointed(NamedTuple):
    """What `pointed` says of one map."""

    hit: float
    mass: float
    rank: float


def boxes_of(example: Example) -> list[Box]:
    """Where what is asked about is, as shares of the picture; none if the example does not say.

    Its extra field "box" is "left,upper,right,lower" in pixels of its picture, right and lower left out; several are
    parted by spaces.

    Raises:
        InputError: for a box that is no such text, or not in the picture.
    """
    given = str(example.extra.get(BOX) or "").split()
    if not given:
        return []
    width, height = load_image(example.image).size
    found = []
    for one in given:
        try:
            left, upper, right, lower = map(float, one.split(","))
        except ValueError:
            left, upper, right, lower = 0.0, 0.0, 0.0, 0.0
        if not (0 <= left < right <= width and 0 <= upper < lower <= height):
            raise InputError(
                f"{BOX} {told(example.extra[BOX])} of {example.id or example.question!r}: expected"
                f" 'left,upper,right,lower' in pixels of a picture of {width} x {height}, several parted by spaces"
            )
        found.append((left / width, upper / height, right / width, lower / height))
    return found


def coverage(example: Example, side: int) -> Array:
    """How much of each patch is in a box, (side, side), 0 to 1. The picture is made square, as the processor does.

    Raises:
        InputError: as `boxes_of`, and for an example without one.
    """
    boxes = boxes_of(example)
    if not boxes:
        raise InputError(f"{(example.id or example.question)!r}: expected where what is asked about is, {BOX} in extra")
    return covered(boxes, (side, side)).reshape(side, side)


def covered(boxes: Sequence[Box], grid: tuple[int, int]) -> Array:
    """Which share of each patch lies in a box, (row · column) in reading order; of several boxes the largest share.

    Args:
        boxes: of `boxes_of`.
        grid: rows and columns of patches.
    """
    found = np.zeros(grid)
    for left, upper, right, lower in boxes:
        inside = []
        for low, high, count in ((upper, lower, grid[0]), (left, right, grid[1])):
            edges = np.arange(count + 1) / count
            inside.append(np.maximum(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0) * count)
        found = np.maximum(found, np.outer(*inside))
    return found.ravel()


def pointed(map: Array, cover: Array, truth: Array) -> Pointed:
    """Of one map, all (side, side):

    - `hit`: 1 if its strongest patch touches a box (the pointing game of Zhang et al. 1608.00507), else 0. Strongest
      patches that are equally strong count by their share; a map without a positive patch does not point: NaN.
    - `mass`: the share of its positive part that lies in the box; NaN if it has none.
    - `rank`: its rank correlation (Spearman) with `truth`, over patches; NaN if one of them is the same everywhere.
    """
    positive = np.maximum(map, 0)
    if not positive.any():
        return Pointed(np.nan, np.nan, correlation(map, truth))
    hit = float((cover[map == map.max()] > 0).mean())
    return Pointed(hit, float((positive * cover).sum() / positive.sum()), correlation(map, truth))


def correlation(a: Array, b: Array) -> float:
    """Spearman's, of two arrays of one shape."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return np.nan
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def regions(cover: Array, number: int, rng: np.random.Generator) -> list[list[int]]:
    """The patches that the boxes touch, and random regions of the same size and shape that touch none of them.

    Args:
        cover: of `coverage`.
        number: how many random ones.
        rng: draws their places, each among all at which the region fits into the picture.

    Returns:
        Lists of patches, counted by rows from 0: first those of the boxes. Fewer random ones, or none, where the boxes
        leave no room for them.
    """
    own = cover > 0
    found = [np.flatnonzero(own).tolist()]
    for _ in range(TRIES):
        if len(found) > number:
            break
        moved = _moved(own, rng)
        if not (moved & own).any() and (where := np.flatnonzero(moved).tolist()) not in found:
            found.append(where)
    return found


def _moved(own: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """The same shape elsewhere: all of it moved together, or each connected part by itself if there are several."""
    moved = np.zeros_like(own)
    for part in _parts(own):
        rows, columns = np.nonzero(part)
        high, wide = np.ptp(rows) + 1, np.ptp(columns) + 1
        row, column = rng.integers(own.shape[0] - high + 1), rng.integers(own.shape[1] - wide + 1)
        there = rows - rows.min() + row, columns - columns.min() + column
        if moved[there].any():  # the parts may not cover each other: the region would be smaller
            return own
        moved[there] = True
    return moved


def _parts(own: NDArray[np.bool_]) -> Iterator[NDArray[np.bool_]]:
    from scipy.ndimage import label

    numbered, count = label(own)
    for number in range(1, count + 1):
        yield numbered == number
