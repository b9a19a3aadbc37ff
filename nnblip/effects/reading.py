"""Reading a result tree: its nodes, one of its examples or ν, the texts of its tokens.

What `effects` and `plot` share. Knows xarray, not torch.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from nnblip.errors import ResultError, SettingError, one_of, visible
from nnblip.results import NOISE_SETTING, VARIABLES
from nnblip.sites import KNOCK_OUTS_NODE

#: The dimensions of a run: what of it is not a cell. Of a result of one noise, there is no `noise`.
OUTER = ("noise", "example", "nu", "draw")


def restored(tree: xr.DataTree) -> dict[str, xr.Dataset]:
    """The restored nodes of a tree by name: every node other than clean, corrupted and knock-outs.

    Raises:
        NnblipError: if there is none, or one lacks a variable.
    """
    names = restored_names(tree)
    if not names:
        raise ResultError(
            f"the result has no restored node; expected at least one such as /question_encoder besides"
            f" /clean and /corrupted, and found {listed(tree)}. Trace at least one component."
        )
    return {name: node_of(tree, name) for name in names}


def choose(tree: xr.DataTree, dim: str, label: object = None) -> xr.DataTree:
    """The tree at one label of `example` or `nu`; without a label, at the only one there is.

    Raises:
        NnblipError: that lists the labels, if there are several and none is given, or none
            is the one given.
    """
    if dim not in root_of(tree).coords:
        raise ResultError(f"the result has no coordinate {dim!r} at its root, as every trace gives one.")
    have = np.atleast_1d(tree.coords[dim].values).tolist()
    listed = ", ".join(f"{value:g}" if isinstance(value, float) else repr(value) for value in have[:10])
    listed += f" and {len(have) - 10} more" if len(have) > 10 else ""
    if label is None:
        if len(have) != 1:
            raise SettingError(f"the result has {len(have)} values of {dim}: {listed}. Choose one with {dim}=.")
        at = 0
    else:
        matches = [i for i, value in enumerate(have) if _same(value, label)]
        if not matches:
            near = _nearest(label, have)
            hint = "." if near is None else f"; did you mean {near!r}?"
            raise SettingError(f"{dim} {label!r} is not in the result{hint} It has: {listed}.")
        at = matches[0]
    return tree.isel({dim: at}) if tree.coords[dim].ndim else tree


def _same(value: object, label: object) -> bool:
    if isinstance(value, float):
        return isinstance(label, (int, float, np.number)) and bool(np.isclose(value, float(label), rtol=1e-6, atol=0))
    return str(value) == str(label)


def _nearest(label: object, have: list[Any]) -> Any:
    if isinstance(have[0], float):
        return min(have, key=lambda value: abs(value - float(label))) if isinstance(label, (int, float)) else None
    near = difflib.get_close_matches(str(label), [str(value) for value in have], n=1, cutoff=0.5)
    return near[0] if near else None


def one_noise(tree: xr.DataTree) -> xr.DataTree:
    """The tree itself, if it is of one noise. Raises `ResultError` that lists them, if it is of several."""
    if isinstance(tree, xr.DataTree) and "noise" in tree.dims:
        names = tree.coords["noise"].values.tolist()
        several = ", ".join(map(repr, names))
        raise ResultError(f"the result has the noises {several}: choose one, result.sel(noise={names[0]!r}).")
    return tree


def noise_of(tree: xr.DataTree) -> str:
    """What a result says of its noise; of one that was chosen among several, of that one."""
    coord = tree.coords.get(NOISE_SETTING)
    return str(coord.item() if coord is not None and not coord.ndim else tree.attrs.get("noise", ""))


def root_of(tree: xr.DataTree) -> xr.Dataset:
    """The coordinates and attributes of the root, without variables."""
    if not isinstance(tree, xr.DataTree):
        raise ResultError(f"expected a result of causal_trace, an xarray.DataTree, not {type(tree).__name__}.")
    root = tree.to_dataset()
    return root.drop_vars(list(root.data_vars))


def with_nodes(source: xr.DataTree, nodes: Mapping[str, xr.Dataset]) -> xr.DataTree:
    """A tree of these nodes with the root of another one."""
    return xr.DataTree.from_dict({"/": root_of(source), **nodes}, name=source.name)


def restored_names(tree: xr.DataTree) -> list[str]:
    root_of(tree)
    return [name for name in tree.children if name not in ("clean", "corrupted", "check", KNOCK_OUTS_NODE)]


def node_of(tree: xr.DataTree, name: str) -> xr.Dataset:
    """A node as a Dataset, with the coordinates it inherits; checked to have the variables."""
    root_of(tree)
    if name not in tree.children:
        raise ResultError(
            f"the result has no node /{name}; expected /clean, /corrupted and one node per traced"
            f" component, and found {listed(tree)}. Give the result of causal_trace, not an effect."
        )
    node = tree.children[name].to_dataset()
    missing = [variable for variable in VARIABLES if variable not in node.data_vars]
    if missing:
        raise ResultError(
            f"node /{name} has no variable {', '.join(missing)}; expected {', '.join(VARIABLES)}, and found"
            f" {', '.join(map(str, node.data_vars)) or 'none'}."
        )
    return node


def maps(tree: xr.DataTree) -> dict[str, xr.Dataset]:
    """The restored nodes that have layers and tokens."""
    nodes = restored(tree)
    maps = {name: node for name, node in nodes.items() if {"kind", "layer", "token"} <= set(node.probability.dims)}
    if not maps:
        found = "; ".join(f"/{name} ({', '.join(map(str, node.probability.dims))})" for name, node in nodes.items())
        raise ResultError(f"no restored node has the dimensions kind, layer and token; found {found}.")
    return maps


def listed(tree: xr.DataTree, dims: bool = False) -> str:
    """The nodes that there are, for a message; with their dimensions where these matter."""
    if not dims:
        return ", ".join(f"/{name}" for name in tree.children) or "no nodes"
    nodes = (
        f"/{name} ({', '.join(map(str, node.to_dataset(inherit=False).dims)) or 'no dimensions'})"
        for name, node in tree.children.items()
    )
    return "; ".join(nodes) or "no nodes"


def spoken(name: str) -> str:
    return name.replace("_", " ")


def token_texts(node: xr.Dataset) -> list[str]:
    """Text of each token of one example, "" for padding and where the result has no texts."""
    if "token_text" not in node.coords:
        return [""] * node.sizes["token"]
    return [text if isinstance(text, str) else "" for text in node["token_text"].values.tolist()]


def most_said(said: xr.DataArray) -> str:
    """What a damaged model answers most often, and how often, of draws in which it was asked: "water (7 of 10)"."""
    every = [text for text in np.ravel(said.values).tolist() if text]
    if not every:
        return ""
    text = max(dict.fromkeys(every), key=every.count)
    return f"{visible(text)} ({every.count(text)} of {len(every)})"


def over_draws(values: xr.DataArray) -> xr.DataArray:
    """Mean over the draws of the noise, of those that are defined."""
    return values.mean("draw") if "draw" in values.dims else values


def without(data: xr.Dataset, *dims: str) -> xr.Dataset:
    """The same without what has one of these dimensions."""
    return data.drop_vars([name for name, values in data.variables.items() if {*dims} & {*values.dims}])


def sites_of(cells: xr.Dataset) -> list[list[tuple[str, str, int, int, int]]]:
    """The sites of each cell of `/cells`, from its `site_` coordinates."""
    parts = [f"site_{part}" for part in ("component", "kind", "layer", "token", "head")]
    if missing := [part for part in parts if part not in cells.coords]:
        raise ResultError(
            f"/cells of the result has no coordinate {missing[0]!r}, as results of schema_version 1; trace it again."
        )
    columns = [cells[part].transpose("cell", "site").values.tolist() for part in parts]
    return [[site for site in zip(*rows, strict=True) if site[0]] for rows in zip(*columns, strict=True)]


def groups_of(root: xr.Dataset, by: str) -> tuple[NDArray[np.intp], int, dict[str, Any]]:
    """Which group each example is in, by a coordinate on `example`; how many groups there are; their coordinates.

    Raises:
        NnblipError: if there is no such coordinate.
    """
    there = [str(name) for name, coord in root.coords.items() if coord.dims == ("example",)]
    if not there:
        raise ResultError("no coordinate on example: expected several examples, with what they are told apart by.")
    labels, group, count = _groups(root[one_of(by, there, "coordinate on example")].values)
    told = {"long_name": f"examples of the {spoken(by)}"}
    return group, len(labels), {by: (by, labels, root[by].attrs), "count": (by, count, told)}


def _groups(labels: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.intp], NDArray[np.intp]]:
    """The different labels, sorted, what is missing last; the number of each example's; how often each occurs."""
    if labels.dtype.kind not in "fiub":
        labels = np.array([label if isinstance(label, str) else _said(label) for label in labels.tolist()], str)
    names, group, count = np.unique(labels, return_inverse=True, return_counts=True)
    if names.dtype.kind == "U" and names[0] == "":
        names, count, group = np.roll(names, -1), np.roll(count, -1), (group - 1) % len(names)
    return names, group.astype(np.intp), count


def _said(label: Any) -> str:
    return "" if label is None or label != label else str(label)
