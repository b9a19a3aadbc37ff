"""What the page shows of a result, as plain arrays: every number and every interval comes from `nnblip.effects`.

A *sheet* is one thing to look at: an example, whose numbers are means over its draws, or all examples together, whose
numbers are means over the examples by the role of a word. The draws, or the examples, are its *units*.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from nnblip import effects
from nnblip.effects import reading
from nnblip.effects.numbers import mean_known
from nnblip.errors import ResultError
from nnblip.results import VARIABLES
from nnblip.sites import COMPONENTS, HEADS_NODE, LISTS

IMAGE = "image_encoder"
#: Dimensions that a result must have, and what to do where one is missing.
_NEEDED = {
    "example": "select with a list, result.isel(example=[0])",
    "nu": "select with a list, result.sel(nu=[5])",
    "draw": "give the result itself, not its mean over the draws",
}
_MAP = ("kind", "head", "layer", "token")


@dataclass(frozen=True)
class Sure:
    """Means with the bounds of their intervals, and why there are none ("" where there are): each of one shape."""

    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    reason: NDArray[Any]

    def __getitem__(self, place: Any) -> Sure:
        return Sure(self.value[place], self.low[place], self.high[place], self.reason[place])


@dataclass(frozen=True)
class Map:
    """The states of one node, without the padding of an example.

    Attributes:
        kinds: what can be chosen; of heads kind and head, such as "attention_head 3".
        layers: their numbers, counted from 0.
        rows: text of each token, or each role.
        roles: the role of each token.
        grid: rows and columns of the regions of the picture, which follow the row of [CLS]; None of other maps.
        structural: (kind, layer, row), which restore by construction.
        effect: for each variable the indirect effect, (nu, kind, layer, row).
        relevance: likewise.
        restored: for each variable the mean of the restored runs, (nu, kind, layer, row).
        effects: for each variable the indirect effect of each unit, (unit, nu, kind, layer, row).
        runs: likewise the restored runs.
        gamma: Γ of the probability, (nu, kind).
    """

    kinds: list[str]
    layers: list[int]
    rows: list[str]
    roles: list[str]
    grid: tuple[int, int] | None
    structural: NDArray[np.bool_]
    effect: dict[str, Sure]
    relevance: dict[str, Sure]
    restored: dict[str, NDArray[np.float64]]
    effects: dict[str, NDArray[np.float64]]
    runs: dict[str, NDArray[np.float64]]
    gamma: Sure


@dataclass(frozen=True)
class Sheet:
    """One example, or all of them together.

    Attributes:
        example: its place in the result; None of all examples.
        units: the draws or examples by name.
        clean: for each variable, of each unit (unit); the clean run of an example has no draws: all alike.
        corrupted: for each variable, (unit, nu).
        total: for each variable the total effect, (nu).
        maps: by the name of the node.
    """

    example: int | None
    units: list[str]
    clean: dict[str, NDArray[np.float64]]
    corrupted: dict[str, NDArray[np.float64]]
    total: dict[str, Sure]
    maps: dict[str, Map]


def prepared(tree: xr.DataTree) -> tuple[xr.DataTree, list[str], list[str]]:
    """What the page shows of a result, read into memory; and what it does not show.

    Returns:
        The result without its lists of cells and without examples that have no numbers (they failed, or a sweep has not
        come to them); the names of these lists; the names of these examples.

    Raises:
        NnblipError: if it is no result of `causal_trace` or `sweep`, has no map, or no dimension example, nu or draw.
    """
    for name in ("clean", "corrupted"):
        reading.node_of(tree, name)
    lists = [name for name in LISTS if name in tree.children]
    tree = tree.drop_nodes(lists)
    if not reading.restored_names(tree):
        have = ", ".join(f"/{name}" for name in lists) or "nothing else"
        raise ResultError(f"the result has no map, only {have}; the page shows maps. Trace at least one component.")
    dims = {str(dim) for node in reading.maps(tree).values() for dim in node["probability"].dims}
    if unknown := dims - {*_NEEDED, *_MAP}:
        name = min(unknown)
        raise ResultError(f"the result has a dimension {name!r}: choose one of its labels, result.sel({name}=...).")
    for dim, remedy in _NEEDED.items():
        if dim not in dims:
            raise ResultError(f"the result has no dimension {dim!r}: {remedy}.")
    known = reading.node_of(tree, "clean")["probability"].notnull().values
    if not known.any():
        raise ResultError("no example of the result has numbers: trace it again, or go on with the sweep.")
    left_out = [str(name) for name in tree.coords["example"].values[~known].tolist()]
    return (tree.isel(example=known) if left_out else tree).load(), lists, left_out


def sheets(tree: xr.DataTree) -> Iterator[Sheet]:
    """All examples together, if there are several with roles, then each; of a tree as `prepared` returns it."""
    if tree.sizes["example"] > 1 and all("role" in node.coords for node in reading.maps(tree).values()):
        yield _Numbers(by_role(tree), "examples").sheet(None)
    numbers = _Numbers(tree, "draws")
    for example in range(tree.sizes["example"]):
        yield numbers.sheet(example)


def by_role(tree: xr.DataTree) -> xr.DataTree:
    """Roles in the place of tokens, so that questions compare; regions stay where all pictures have the same."""
    roles = effects.by_role(tree)
    nodes = {}
    for name, node in tree.children.items():
        nodes[name] = node.to_dataset(inherit=False)
        if "token" in node.dims and name != IMAGE:
            named = roles[name].to_dataset()["role"].values.astype(str)
            texts = ("example", "token"), np.tile(named, (tree.sizes["example"], 1))
            nodes[name] = roles.children[name].to_dataset(inherit=False).rename(role="token")
            nodes[name] = nodes[name].assign_coords(token=np.arange(len(named)), token_text=texts)
    return reading.with_nodes(tree, nodes)


class _Numbers:
    """All numbers of a tree: means over the draws of each example, or over the examples."""

    def __init__(self, tree: xr.DataTree, over: str) -> None:
        self.tree, self.over = tree, over
        self.indirect, self.given = effects.indirect_effect(tree), effects.structural(tree)
        wanted = [(value, name) for value in ("indirect_effect", "relevance", "total_effect") for name in VARIABLES]
        wanted.append(("gamma", VARIABLES[0]))

        def interval(value: str, variable: str) -> Any:
            return effects.interval(tree, value, variable=variable, over=over)

        with ThreadPoolExecutor(os.cpu_count()) as pool:  # the work is NumPy's, which lets other threads run
            self.intervals = dict(zip(wanted, pool.map(interval, *zip(*wanted, strict=True)), strict=True))

    def sheet(self, example: int | None) -> Sheet:
        nodes = {name: self._chosen(self.tree[name], example) for name in ("clean", "corrupted")}
        units = self.tree.coords["example" if example is None else "draw"]
        corrupted = {v: _by_unit(nodes["corrupted"][v], "nu") for v in VARIABLES}
        names = _in_order(reading.maps(self.tree))
        return Sheet(
            example=example,
            units=[str(name) for name in units.values.tolist()],
            clean={v: np.broadcast_to(nodes["clean"][v].values, units.shape) for v in VARIABLES},
            corrupted=corrupted,
            total={v: self._sure("total_effect", v, "corrupted", example, "nu") for v in VARIABLES},
            maps={name: map_ for name in names if (map_ := self._map(name, example)).rows},
        )

    def _map(self, name: str, example: int | None) -> Map:
        node, effect = (self._chosen(tree[name], example) for tree in (self.tree, self.indirect))
        known = node[VARIABLES[0]].notnull()
        there: NDArray[np.bool_] = known.any([dim for dim in known.dims if dim != "token"]).values
        given = self._chosen(self.given[name], example)["structural"]
        runs = {v: _by_unit(node[v], "nu", *_MAP)[..., there] for v in VARIABLES}
        heads = node["head"].values.tolist() if "head" in node.dims else []
        kinds = node["kind"].values.tolist()
        gamma = self._sure("gamma", VARIABLES[0], name, example, "nu", "kind")
        grid = np.ravel(node.attrs.get("grid", ())).astype(int).tolist()
        return Map(
            kinds=[f"{kind} {head}" for kind in kinds for head in heads] or kinds,
            layers=node["layer"].values.tolist(),
            rows=_texts(node, "token_text", there),
            roles=_texts(node, "role", there),
            grid=(grid[0], grid[1]) if len(grid) == 2 and there.sum() == 1 + grid[0] * grid[1] else None,
            structural=_flat(given.any("example") if example is None else given, *_MAP)[..., there],
            effect={v: self._sure("indirect_effect", v, name, example, "nu", *_MAP)[..., there] for v in VARIABLES},
            relevance={v: self._sure("relevance", v, name, example, "nu", *_MAP)[..., there] for v in VARIABLES},
            restored={v: mean_known(numbers, 0) for v, numbers in runs.items()},
            effects={v: _by_unit(effect[v], "nu", *_MAP)[..., there] for v in VARIABLES},
            runs=runs,
            gamma=gamma[:, np.repeat(np.arange(len(kinds)), max(1, len(heads)))],
        )

    def _chosen(self, node: Any, example: int | None) -> xr.Dataset:
        found: xr.Dataset = node.to_dataset()
        return found if example is None else found.isel(example=example)

    def _sure(self, value: str, variable: str, name: str, example: int | None, *dims: str) -> Sure:
        node = self._chosen(self.intervals[value, variable][name], example)
        return Sure(*(_flat(node[part], *dims) for part in ("value", "low", "high", "reason")))


def _in_order(names: Iterable[str]) -> list[str]:
    """As the model runs; heads after all states."""
    known = [name + of for of in ("", HEADS_NODE) for name in COMPONENTS]
    return sorted(names, key=lambda name: known.index(name) if name in known else len(known))


def _by_unit(values: xr.DataArray, *dims: str) -> NDArray[np.float64]:
    """With the unit first: the draws of an example, or the examples, each the mean over its draws."""
    if "example" in values.dims:
        return _flat(reading.over_draws(values), "example", *dims)
    return _flat(values, "draw", *dims)


def _flat(values: xr.DataArray, *dims: str) -> NDArray[Any]:
    """Numbers in the order of these dimensions, heads and kinds as one."""
    there = [dim for dim in dims if dim in values.dims]
    numbers: NDArray[Any] = values.transpose(*there).values
    if "head" in there:
        at = there.index("kind")
        numbers = numbers.reshape(*numbers.shape[:at], -1, *numbers.shape[at + 2 :])
    return numbers


def _texts(node: xr.Dataset, name: str, there: NDArray[np.bool_]) -> list[str]:
    """A text of each token that is there, "" where the result says none. All examples have the same roles as tokens."""
    if name not in node.coords:
        return [""] * int(there.sum())
    found = node[name].isel(example=0) if "example" in node[name].dims else node[name]
    return [str(text) if isinstance(text, str) else "" for text in found.values[there].tolist()]
