"""The result schema: building a tree, storing it, opening and checking it.

One `xarray.DataTree`; in every node the same three variables. Knows xarray, not torch.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from nnblip.errors import NnblipError, ResultError

VARIABLES = ("probability", "log_probability", "logit_difference")
#: Dimensions of the nodes that are always there, and of a component's node.
DIMS = {"clean": ("example",), "corrupted": ("example", "nu", "draw")}
COMPONENT_DIMS = ("example", "nu", "draw", "kind", "layer", "token")
EXAMPLE_COORDS = ("question", "answer", "predicted", "question_type", "image")


@dataclass(frozen=True)
class Traced:
    """All numbers of one example.

    Attributes:
        id: its name in the result.
        coords: the coordinates on `example` (`EXAMPLE_COORDS`).
        tokens: for each component's node, the text of each token.
        roles: likewise the role of each token.
        clean: (3), in the order of `VARIABLES`.
        corrupted: (3, nu, draw).
        restored: for each component's node, (3, nu, draw, kind, layer, token).
    """

    id: str
    coords: Mapping[str, str]
    tokens: Mapping[str, tuple[str, ...]]
    roles: Mapping[str, tuple[str, ...]]
    clean: np.ndarray
    corrupted: np.ndarray
    restored: Mapping[str, np.ndarray]


def build(
    traced: Sequence[Traced], nu: Sequence[float], draws: int, kinds: Sequence[str], attrs: dict[str, Any]
) -> xr.DataTree:
    """The tree of the design from the numbers of each example; short questions are padded with NaN."""
    ids = [one.id for one in traced]
    root = xr.Dataset(
        coords={
            "example": ids,
            "nu": np.asarray(nu, float),
            "draw": np.arange(draws),
            **{name: ("example", [one.coords[name] for one in traced]) for name in EXAMPLE_COORDS},
        },
        attrs=attrs,
    )
    nodes = {
        "/": root,
        "/clean": _dataset(np.stack([one.clean for one in traced], 1), DIMS["clean"]),
        "/corrupted": _dataset(np.stack([one.corrupted for one in traced], 1), DIMS["corrupted"]),
    }
    for name in traced[0].restored:
        width = max(len(one.tokens[name]) for one in traced)
        numbers = np.stack([_pad(one.restored[name], width) for one in traced], 1)
        texts = {
            label: (("example", "token"), [list(of[name]) + [""] * (width - len(of[name])) for of in given])
            for label, given in (("token_text", [t.tokens for t in traced]), ("role", [t.roles for t in traced]))
        }
        axes = {"kind": list(kinds), "layer": np.arange(numbers.shape[-2]), "token": np.arange(width)}
        nodes[f"/{name}"] = _dataset(numbers, COMPONENT_DIMS).assign_coords(axes | texts)
    return xr.DataTree.from_dict(nodes)


def _dataset(numbers: np.ndarray, dims: tuple[str, ...]) -> xr.Dataset:
    return xr.Dataset({name: (dims, numbers[k]) for k, name in enumerate(VARIABLES)})


def _pad(numbers: np.ndarray, width: int) -> np.ndarray:
    out = np.full((*numbers.shape[:-1], width), np.nan, numbers.dtype)
    out[..., : numbers.shape[-1]] = numbers
    return out


def check(tree: xr.DataTree) -> xr.DataTree:
    """The tree itself, if it follows the schema.

    Raises:
        ResultError: naming the node, variable or dimension that is missing.
    """
    components = {node: COMPONENT_DIMS for node in tree.children if node in ("question_encoder", "answer_decoder")}
    for node, dims in (DIMS | components).items():
        if node not in tree.children:
            raise ResultError(f"result has no node /{node}; it has: {', '.join(tree.children) or 'none'}")
        for name in VARIABLES:
            if name not in tree[node].data_vars:
                raise ResultError(f"/{node} of the result has no variable {name!r}")
            if tree[node][name].dims != dims:
                raise ResultError(f"/{node}/{name} has dimensions {tree[node][name].dims}, expected {dims}")
    return tree


def save(tree: xr.DataTree, path: str | Path, overwrite: bool = False) -> Path:
    """Store a result as one zarr folder; `xarray.open_datatree(path)` opens it.

    Raises:
        ResultError: if something is there already and `overwrite` is not set, or the
            folder cannot be written.
    """
    path = Path(path)
    if path.suffix != ".zarr":
        raise ResultError(f"result {str(path)!r}: expected a name that ends in .zarr")
    try:
        if path.exists() and not overwrite:
            raise ResultError(f"{str(path)!r} exists already: choose another name, or say overwrite")
        path.parent.mkdir(parents=True, exist_ok=True)
        # complete beside it first: the old result may be what `tree` still reads from
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem[:20]}-") as fresh:
            # version 2 of the format: version 3 has no stable texts and no consolidated metadata yet
            tree.to_zarr(Path(fresh, "new.zarr"), zarr_format=2)
            if path.exists():
                path.rename(Path(fresh, "old.zarr"))
            Path(fresh, "new.zarr").rename(path)
    except OSError as error:
        raise ResultError(f"{str(path)!r} cannot be written: {error}") from error
    return path


def open_result(path: str | Path) -> xr.DataTree:
    """A stored result, checked.

    Raises:
        ResultError: if there is none, or it does not follow the schema.
    """
    try:
        there = Path(path).exists()
    except OSError:  # a name longer than names can be
        there = False
    if not there:
        raise ResultError(f"result {str(path)!r}: there is nothing there")
    try:
        return check(xr.open_datatree(path))
    except NnblipError as error:
        raise ResultError(f"result {str(path)!r}: {error}") from error
    except Exception as error:
        raise ResultError(f"result {str(path)!r} cannot be opened: {error}") from error
