"""A result as the checks see it: plain arrays with all dimensions, whatever was selected or left out before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from nnblip.effects import THRESHOLD, indirect_effect, structural, thresholds, total_effect
from nnblip.effects.numbers import mean_known, quotient
from nnblip.effects.reading import noise_of, one_noise, restored_names, root_of
from nnblip.errors import ResultError
from nnblip.results import VARIABLES
from nnblip.sites import CELLS_NODE

Array = NDArray[np.float64]
T = TypeVar("T")
PROBABILITY, LOG, LOGITS = VARIABLES
OUTER = ("example", "nu", "draw")
#: Noises whose draws are all alike.
UNVARIED = ("Mean(", "Scale(", "Swap(")
#: Of several examples, so many may be left out, or be otherwise, before what is said of all of them is not true of
#: them.
MOST = 0.2


@dataclass(frozen=True)
class Map:
    """The cells of one node and kind.

    Attributes:
        node: such as "question_encoder_heads" or "cells".
        kind: "" in `/cells`.
        effects: of each variable the indirect effects, (example, nu, draw, cell); NaN where there is no such cell.
        structural: which restore by construction, (example, cell).
        layers: of each cell; -1 where it has none.
        tokens: likewise.
        labels: what each cell is.
    """

    node: str
    kind: str
    effects: dict[str, Array]
    structural: NDArray[np.bool_]
    layers: NDArray[Any]
    tokens: NDArray[Any]
    labels: list[str]

    def __str__(self) -> str:
        return f"{self.node} {self.kind}".strip()

    def mean(self, variable: str = PROBABILITY) -> Array:
        """Over draws, (example, nu, cell), of cells that do not restore by construction; NaN for the others."""
        return np.where(self.structural[:, None], np.nan, mean_known(self.effects[variable], 2))


class Look:
    """One result, and perhaps another to hold beside it.

    Attributes:
        tree: the result.
        other: the other, if there is one.
        width: of intervals, if one is wished for.
        examples: their names.
        nus: noise factors.
        clean: of each variable, (example).
        corrupted: (example, nu, draw).
        total: total effects, (example, nu, draw).
        mean_total: their means over draws, by probability, (example, nu).
        draws: how many draws of each example are known.
    """

    def __init__(self, tree: xr.DataTree, other: Look | None = None, width: float | None = None) -> None:
        if not isinstance(tree, xr.DataTree):
            raise ResultError(f"expected a result of causal_trace, an xarray.DataTree, not {type(tree).__name__}.")
        one_noise(tree)
        self.tree, self.other, self.width = tree, other, width
        self.attrs = {str(name): value for name, value in tree.attrs.items()}
        total = total_effect(tree)["corrupted"].to_dataset()
        self.total = {name: _outer(total[name]) for name in VARIABLES}
        self.corrupted = {name: _outer(tree["corrupted"].to_dataset()[name]) for name in VARIABLES}
        self.clean = {name: _outer(tree["clean"].to_dataset()[name], OUTER[:1]) for name in VARIABLES}
        coords = root_of(tree).coords
        self.examples = [str(name) for name in _labels(coords, "example", len(self.clean[PROBABILITY]))]
        self.nus = [float(nu) for nu in _labels(coords, "nu", self.total[PROBABILITY].shape[1])]
        self.mean_total = mean_known(self.total[PROBABILITY], 2)
        self.draws = (~np.isnan(self.total[PROBABILITY])).any(1).sum(1)
        self._done: dict[Callable[[Look], Any], Any] = {}

    @cached_property
    def maps(self) -> list[Map]:
        """Of every restored node, one for each kind."""
        if not restored_names(self.tree):
            return []
        effects, given = indirect_effect(self.tree), structural(self.tree)
        return [
            one
            for name, node in sorted(effects.children.items())  # a stored tree has them in this order
            for one in _maps(name, node.to_dataset(), given[name].to_dataset()["structural"])
        ]

    def once(self, work: Callable[[Look], T]) -> T:
        """What `work` makes of this result: several checks may need it, and the first of them does it."""
        if work not in self._done:
            self._done[work] = work(self)
        found: T = self._done[work]
        return found

    @property
    def varied(self) -> bool:
        """Whether the draws of the noise differ."""
        said = noise_of(self.tree)
        if self.total[PROBABILITY].shape[2] == 1:
            return not said.startswith(UNVARIED)
        return bool(np.nanmax(_spread(self.total[PROBABILITY]), initial=0) > 0)

    @property
    def visible(self) -> NDArray[np.bool_]:
        """Where there is something to restore, (example, nu)."""
        return self.mean_total >= THRESHOLD

    def visible_by(self, variable: str) -> NDArray[np.bool_]:
        """The same by another variable, (example, nu)."""
        return self.visible & (mean_known(self.total[variable], 2) >= thresholds()[variable])

    def texts(self, name: str) -> list[str]:
        """A coordinate on `example`, "" where there is none."""
        for coords in (root_of(self.tree).coords, self.tree["clean"].coords):
            if name in coords and coords[name].dims in ((), ("example",)):
                return [one if isinstance(one, str) else "" for one in np.atleast_1d(coords[name].values).tolist()]
        return [""] * len(self.examples)

    def damage(self, name: str) -> Array | None:
        """A coordinate of `/corrupted`, mean over draws, (example, nu); None of a result without."""
        coords = self.tree["corrupted"].to_dataset().coords
        return mean_known(_outer(coords[name]), 2) if name in coords else None

    def at(self, places: NDArray[np.bool_]) -> tuple[str, ...]:
        """Names of places (example, nu): examples, with ν where there are several."""
        several = len(self.nus) > 1
        return tuple(
            f"{self.examples[example]}, ν = {self.nus[nu]:g}" if several else self.examples[example]
            for example, nu in np.argwhere(places)
        )

    def nu_texts(self, places: Sequence[bool] | NDArray[np.bool_]) -> tuple[str, ...]:
        return tuple(f"ν = {nu:g}" for nu, there in zip(self.nus, places, strict=True) if there)


def shares(bad: NDArray[np.bool_], known: NDArray[np.bool_]) -> Array:
    """Of which share of the known examples something is so, at each ν; both are (example, nu)."""
    return quotient((bad & known).sum(0).astype(float), known.sum(0))


def of_one(look: Look, level: str) -> str:
    """A note where there is a single example, of which a small or uneven effect is a trait and no fault."""
    return level if len(look.examples) > 1 else "note"


def graver(bad: NDArray[np.bool_], known: NDArray[np.bool_], level: str = "warning") -> str:
    """The level of what is so of more than `MOST` of the examples at any ν; a note where it is of fewer."""
    return level if np.nanmax(shares(bad, known), initial=0) > MOST else "note"


def _outer(values: xr.DataArray, dims: tuple[str, ...] = OUTER, inner: tuple[str, ...] = ()) -> Array:
    """As float64 with these dimensions first, of which some may have been selected away."""
    values = values.reset_coords(drop=True)
    values = values.expand_dims([dim for dim in dims if dim not in values.dims])
    # in one order in memory, whatever it was read from, so that sums round alike
    return np.array(values.transpose(*dims, *inner).values, float, order="C")


def _labels(coords: Any, dim: str, size: int) -> list[Any]:
    return np.atleast_1d(coords[dim].values).tolist() if dim in coords else list(range(size))


def _spread(values: Array) -> Array:
    """Over the draws, 0 where none is known."""
    known = ~np.isnan(values)
    high = np.where(known, values, -np.inf).max(-1)
    low = np.where(known, values, np.inf).min(-1)
    return np.where(known.any(-1), high - low, 0)


def _maps(name: str, node: xr.Dataset, given: xr.DataArray) -> list[Map]:
    cells = name == CELLS_NODE or "kind" not in node.coords  # where `kind` says what each cell is
    kinds = [""] if cells else np.atleast_1d(node["kind"].values).tolist()
    inner = [str(dim) for dim in node[PROBABILITY].dims if dim not in (*OUTER, "kind")]
    shape = [node.sizes[dim] for dim in inner]
    places = [dict(zip(inner, place, strict=True)) for place in np.ndindex(*shape)]
    columns = {dim: np.asarray(_labels(node.coords, dim, node.sizes[dim])) for dim in inner}
    effects = {variable: _outer(node[variable], (*OUTER, "kind"), tuple(inner)) for variable in VARIABLES}
    marked = _outer(given, ("example", "kind"), tuple(inner)).astype(bool)
    texts = _token_texts(node)
    found = []
    for number, kind in enumerate(kinds):
        flat = {key: one[:, :, :, number].reshape(*one.shape[:3], -1) for key, one in effects.items()}
        labels = [_label(name, str(kind), place, columns, texts) for place in places]
        layers, tokens = (
            np.array([columns[dim][place[dim]] if dim in place else -1 for place in places])
            for dim in ("layer", "token")
        )
        found.append(Map(name, str(kind), flat, marked[:, number].reshape(len(marked), -1), layers, tokens, labels))
    return found


def _token_texts(node: xr.Dataset) -> list[str]:
    """Of the tokens where all examples have the same."""
    if "token_text" not in node.coords or "token" not in node["token_text"].dims:
        return []
    rows = np.atleast_2d(node["token_text"].values)
    return [str(column[0]) if len({*map(str, column)}) == 1 else "" for column in rows.T]


def _label(name: str, kind: str, place: dict[str, int], columns: dict[str, NDArray[Any]], texts: Sequence[str]) -> str:
    said = {dim: columns[dim][at] for dim, at in place.items()}
    if name == CELLS_NODE:
        return str(said.get("cell", ""))
    parts = [name, kind, *(f"{dim} {value}" for dim, value in said.items())]
    if "token" in place and texts and texts[place["token"]]:
        parts.append(f"({texts[place['token']]})")
    return " ".join(parts)
