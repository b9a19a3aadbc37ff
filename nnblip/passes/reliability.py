"""How far a map of the mean over draws would come out again with other draws. Plain NumPy.

Split-half reliability: the draws are parted into halves at random, many times; the correlation of the two mean maps
over their cells is stepped up to all draws (Spearman 1910, Brown 1910). It says how well a map's cells are told
apart, and is no interval of any one of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nnblip.sites import CELLS_NODE, EDGES_NODE, KNOCK_OUTS_NODE

#: So many ways of parting the draws: their mean is then known to a hundredth.
SPLITS = 200
#: With fewer draws a half is one draw; with fewer cells a correlation means nothing.
LEAST_DRAWS, LEAST_CELLS = 4, 3


class Reliability(NamedTuple):
    """Of one map, with a 95 % interval from leaving out each draw in turn; NaN where it cannot be told."""

    value: float
    low: float
    high: float


NOT_TOLD = Reliability(np.nan, np.nan, np.nan)


def split_half(maps: np.ndarray, splits: int = SPLITS, seed: int = 0) -> float:
    """Reliability of the mean of all maps: 1 is that other draws would give the same.

    Args:
        maps: (draw, cell), all known.
        splits: how many ways of parting the draws are averaged.
        seed: of the ways; the same seed gives the same number.
    """
    draws = len(maps)
    half = draws // 2
    order = np.argsort(np.random.default_rng(seed).random((splits, draws)), 1)
    means = []
    for part in (order[:, :half], order[:, half : 2 * half]):
        weights = np.zeros((splits, draws))
        np.put_along_axis(weights, part, 1 / half, 1)
        mean = weights @ maps
        means.append(mean - mean.mean(1, keepdims=True))
    norm = np.sqrt((means[0] ** 2).sum(1) * (means[1] ** 2).sum(1))
    known = norm > 0
    if not known.any():
        return np.nan
    together = float(((means[0] * means[1]).sum(1)[known] / norm[known]).mean())
    times = draws / half
    return times * together / max(1 + (times - 1) * together, 1e-9) if together > -0.99 else -1.0


def reliability(maps: np.ndarray) -> Reliability:
    """Reliability of the mean map with its interval: a jackknife over draws, on Fisher's scale.

    Args:
        maps: (draw, cell); cells and draws that are NaN are left out.
    """
    from scipy.special import stdtrit

    maps = np.asarray(maps, float)
    maps = maps[~np.isnan(maps).all(1)]
    maps = maps[:, ~np.isnan(maps).any(0)] if len(maps) else maps
    draws = len(maps)
    if draws < LEAST_DRAWS or maps.shape[1] < LEAST_CELLS or np.ptp(maps) == 0:
        return NOT_TOLD
    value = split_half(maps)
    if np.isnan(value) or draws == LEAST_DRAWS or np.ptp(maps, axis=0).max() == 0:
        return Reliability(value, np.nan, np.nan) if np.ptp(maps, axis=0).max() else Reliability(1.0, 1.0, 1.0)
    fisher = _fisher(value)
    without = np.array([_fisher(split_half(np.delete(maps, draw, 0))) for draw in range(draws)])
    pseudo = draws * fisher - (draws - 1) * without
    half = stdtrit(draws - 1, 0.975) * pseudo.std(ddof=1) / np.sqrt(draws)
    return Reliability(value, float(np.tanh(fisher - half)), float(np.tanh(fisher + half)))


def maps_of(nodes: Mapping[str, Sequence[Any]]) -> Iterator[tuple[str, str, list[int]]]:
    """The maps of a trace that have draws: node, kind ("" in `/cells`, `/edges`), and which of all cells they have."""
    start = 0
    for name, cells in nodes.items():
        if name == KNOCK_OUTS_NODE:
            continue
        kinds = ["" if name in (CELLS_NODE, EDGES_NODE) else cell[0].kind for cell in cells]
        for kind in dict.fromkeys(kinds):
            yield name, kind, [start + place for place, one in enumerate(kinds) if one == kind]
        start += len(cells)


def _fisher(value: float) -> float:
    return float(np.arctanh(np.clip(value, -0.999, 0.99999)))
