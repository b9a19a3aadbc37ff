"""The result schema: building a tree, storing it, opening and checking it.

One `xarray.DataTree`; in every node the same three variables. Knows xarray, not torch.
"""

from __future__ import annotations

import itertools
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

from nnblip.edges import KnockOut, describe_knock_out
from nnblip.errors import STUMBLES, NnblipError, ResultError, reason, visible
from nnblip.paths import Connection, Edge, describe_edge
from nnblip.sites import (
    CELLS_NODE,
    COMPONENTS,
    EDGES_NODE,
    HEAD_KINDS,
    HEADS_NODE,
    IMAGE_KINDS,
    KNOCK_OUTS_NODE,
    LISTS,
    Cell,
    describe,
)
from nnblip.storage import checksums, stored
from nnblip.storage.folders import made

VARIABLES = ("probability", "log_probability", "logit_difference")  # `nnblip.blip.outcome.NAMES`, without torch
#: Coordinates of `/corrupted`: `nnblip.passes.measure.DAMAGE`, without torch.
DAMAGE = ("norm_ratio", "entropy_change")
#: Coordinates of maps, with the bounds of an interval: see `nnblip.passes.reliability`.
RELIABILITY = ("reliability", "reliability_low", "reliability_high")
#: Dimensions of the nodes that are always there, and of a component's node.
DIMS = {"clean": ("example",), "corrupted": ("example", "nu", "draw")}
COMPONENT_DIMS = ("example", "nu", "draw", "kind", "layer", "token")
HEADS_DIMS = ("example", "nu", "draw", "kind", "layer", "head", "token")
LISTS_DIMS = {
    CELLS_NODE: ("example", "nu", "draw", "cell"),
    EDGES_NODE: ("example", "nu", "draw", "edge"),
    KNOCK_OUTS_NODE: ("example", "knock_out"),
}
#: Nodes that are the same whatever the noise: in a result of several, all others have the dimension `noise` first.
WITHOUT_NOISE = ("clean", KNOCK_OUTS_NODE)
#: The coordinate beside it: what each noise is, where `noise` has its name.
NOISE_SETTING = "noise_setting"
#: Of a result's form, in its attribute `schema_version`. Results without one are of version 1, whose `/cells` have no
#: `site_` coordinates. A result of a later version is refused, see `check`.
SCHEMA_VERSION = 2
EXAMPLE_COORDS = (
    "question", "answer", "predicted", "rival", "question_type", "image", "question_tokens", "answer_tokens",
)  # fmt: skip
#: What a result has itself, so that no field of a data set can be called so: labels, variables, dimensions, nodes, and
#: the file that makes a folder a store of zarr's version 3.
OWN_NAMES = {
    *EXAMPLE_COORDS, "draws", "status", "error", "token_text", "role", *VARIABLES, *HEADS_DIMS, *LISTS.values(), "site",
    "noise", NOISE_SETTING,
    *DIMS, *DAMAGE, *RELIABILITY, "check", *LISTS, *COMPONENTS, *(name + HEADS_NODE for name in COMPONENTS),
    "decoder_lens", "logit_lens", "said", "zarr.json",
}  # fmt: skip
#: Letters of the longest name of a field: file systems take 255 bytes, and a letter may have 4.
LONGEST_NAME = 60


def coordinate_names(fields: Iterable[object]) -> dict[Any, str]:
    """What the fields of a data set are called as coordinates of a result, by their own names.

    Most keep their name. Letters, digits, "_", "-" and "." can stand in one however it is stored, anything
    else becomes "_" ("a/b" is "a_b"). A name that is none ("", ".") or that a result has itself ("clean")
    begins with "extra". Of names that would then be the same, which they also are if they differ in nothing
    but upper and lower case, the later ones get a number.
    """
    fields = list(dict.fromkeys(fields))
    found: dict[Any, str] = {}
    for kept in (True, False):  # a name that can stay is not taken by one that cannot
        for given in fields:
            name = _coordinate_name(given)
            if (name == given) is kept:
                taken = {one.casefold() for one in found.values()}
                numbered = (f"{name}_{number}" for number in itertools.count(2))
                found[given] = next(one for one in itertools.chain([name], numbered) if one.casefold() not in taken)
    return found


def _coordinate_name(field: object) -> str:
    name = re.sub(r"[^\w.-]+", "_", visible(field)).lstrip(".")[:LONGEST_NAME]
    own = name.casefold() in OWN_NAMES or not re.search(r"\w", name.replace("_", ""))
    return f"extra_{name}".rstrip("_.-") if own else name


@dataclass(frozen=True)
class Traced:
    """All numbers of one example.

    Attributes:
        id: its name in the result.
        coords: the coordinates on `example`: `EXAMPLE_COORDS` and what its data set says besides.
        tokens: for each component, the text of each token.
        roles: likewise the role of each token.
        clean: (3), in the order of `VARIABLES`.
        corrupted: (3, nu, draw).
        restored: for each node, (3, nu, draw, kind, layer, token), with head before token
            in nodes of heads; for `/cells` and `/edges`, (3, nu, draw, cell), for `/knock_outs`, (3, cell).
        lists: of those three nodes, each of their cells as coordinates, see `list_coords`.
        depths: for each node, which layers it has; counted from 0 where none are named.
        reliability: for the node of each map, (3, nu, kind): how far it would come out again, and the bounds of that.
        damage: (2, nu, draw), in the order of `DAMAGE`.
        grid: rows and columns of the map of the image encoder, whose tokens after [CLS] are
            in reading order.
    """

    id: str
    coords: Mapping[str, str]
    tokens: Mapping[str, tuple[str, ...]]
    roles: Mapping[str, tuple[str, ...]]
    clean: np.ndarray
    corrupted: np.ndarray
    restored: Mapping[str, np.ndarray]
    lists: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    depths: Mapping[str, Sequence[int]] = field(default_factory=dict)
    reliability: Mapping[str, np.ndarray] = field(default_factory=dict)
    damage: np.ndarray | None = None
    grid: tuple[int, int] | None = None


def build(traced: Sequence[Traced], nu: Sequence[float], kinds: Sequence[str], attrs: Mapping[str, Any]) -> xr.DataTree:
    """The tree of the design from the numbers of each example; short questions and fewer draws are padded with NaN."""
    ids = [one.id for one in traced]
    counts = [one.corrupted.shape[-1] for one in traced]
    draws = max(counts)
    traced = [_with_draws(one, draws) for one in traced]
    labels = dict.fromkeys(name for one in traced for name in one.coords)
    root = xr.Dataset(
        coords={
            "example": ids,
            "nu": np.asarray(nu, float),
            "draw": np.arange(draws),
            **{name: ("example", [one.coords.get(name, "") for one in traced]) for name in labels},
            **({"draws": ("example", counts)} if attrs.get("draws") == "auto" else {}),
        },
        attrs={"schema_version": SCHEMA_VERSION, **attrs},
    )
    nodes = {
        "/": root,
        "/clean": _dataset(np.stack([one.clean for one in traced], 1), DIMS["clean"]),
        "/corrupted": _dataset(np.stack([one.corrupted for one in traced], 1), DIMS["corrupted"]),
    }
    if (damage := [one.damage for one in traced if one.damage is not None]) and len(damage) == len(traced):
        said = {name: (DIMS["corrupted"], np.stack(damage, 1)[place]) for place, name in enumerate(DAMAGE)}
        nodes["/corrupted"] = nodes["/corrupted"].assign_coords(said)
    for name in traced[0].restored:
        nodes[f"/{name}"] = _list(traced, name) if name in LISTS else _map(traced, name, kinds)
    return xr.DataTree.from_dict(nodes)


def _with_draws(one: Traced, draws: int) -> Traced:
    """The same with NaN for the draws that others have and it has not."""
    lacking = draws - one.corrupted.shape[-1]
    if not lacking:
        return one

    def padded(numbers: np.ndarray) -> np.ndarray:
        widths = [(0, lacking if axis == 2 else 0) for axis in range(numbers.ndim)]
        return np.pad(numbers, widths, constant_values=np.nan)

    restored = {name: padded(numbers) for name, numbers in one.restored.items()}
    damage = None if one.damage is None else padded(one.damage)
    return replace(one, corrupted=padded(one.corrupted), restored=restored, damage=damage)


def _map(traced: Sequence[Traced], name: str, kinds: Sequence[str]) -> xr.Dataset:
    """The node of a component, or of its heads."""
    component, of_heads = name.removesuffix(HEADS_NODE), name.endswith(HEADS_NODE)
    width = max(len(one.tokens[component]) for one in traced)
    numbers = np.stack([_pad(one.restored[name], width) for one in traced], 1)
    dims = HEADS_DIMS if of_heads else COMPONENT_DIMS
    axes = {dim: np.arange(size) for dim, size in zip(dims, numbers.shape[1:], strict=True)}
    axes["layer"] = np.asarray(traced[0].depths.get(name, axes["layer"]))
    own = IMAGE_KINDS if component == "image_encoder" else kinds
    coords: dict[str, Any] = {
        "kind": [kind for kind in own if (kind in HEAD_KINDS) == of_heads],
        **{dim: axes[dim] for dim in ("layer", "head", "token") if dim in axes},
        **{
            label: (("example", "token"), [list(of[component]) + [""] * (width - len(of[component])) for of in given])
            for label, given in (("token_text", [t.tokens for t in traced]), ("role", [t.roles for t in traced]))
        },
    }
    if name in traced[0].reliability:
        found = np.stack([one.reliability[name] for one in traced])
        for place, label in enumerate(RELIABILITY):
            coords[label] = ("example", "nu", "kind"), found[:, place]
    attrs = {"grid": list(traced[0].grid or ())} if component == "image_encoder" else {}
    return _dataset(numbers, dims).assign_coords(coords).assign_attrs(attrs)


def _list(traced: Sequence[Traced], node: str) -> xr.Dataset:
    """A node whose cells are a list; an example that lacks one (its question is shorter) has NaN there."""
    dim = LISTS[node]
    every = {cell[dim]: cell for one in traced for cell in one.lists[node]}
    place = {name: number for number, name in enumerate(every)}
    first = traced[0].restored[node]
    numbers = np.full((len(first), len(traced), *first.shape[1:-1], len(every)), np.nan, first.dtype)
    for number, one in enumerate(traced):
        numbers[:, number][..., [place[cell[dim]] for cell in one.lists[node]]] = one.restored[node]
    return _dataset(numbers, LISTS_DIMS[node]).assign_coords(list_coords(node, list(every.values())))


def listed(cell: Cell | Connection, layers: int) -> dict[str, Any]:
    """What a cell of a list is, as coordinates: its name first; of `/cells`, `sites` are its sites.

    Args:
        cell: sites, an edge or a knock-out.
        layers: how many a text component has.
    """
    if isinstance(cell, KnockOut):
        return describe_knock_out(cell, layers)
    return describe_edge(cell) if isinstance(cell, Edge) else {**describe(cell), "sites": cell}


def list_coords(node: str, cells: Sequence[Mapping[str, Any]]) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """What the cells of a list are, as coordinates: dimensions and values.

    Returns:
        On the list's dimension what `listed` says. In `/cells`, on (cell, site) each site of a cell in their order too:
        `site_component`, `site_kind`, `site_layer`, `site_token`, `site_head`; "" and -1 where a cell has fewer sites
        than another, and a `site_head` of -1 for whole states.
    """
    dim = LISTS[node]
    coords: dict[str, tuple[tuple[str, ...], np.ndarray]] = {
        name: ((dim,), np.array([cell[name] for cell in cells])) for name in cells[0] if name != "sites"
    }
    if node != CELLS_NODE:
        return coords
    most = max(len(cell["sites"]) for cell in cells)
    for part, none in (("component", ""), ("kind", ""), ("layer", -1), ("token", -1), ("head", -1)):
        rows = [
            [getattr(site, part) for site in cell["sites"]] + [None] * (most - len(cell["sites"])) for cell in cells
        ]
        values = [[none if value is None else value for value in row] for row in rows]
        coords[f"site_{part}"] = (dim, "site"), np.array(values)
    return coords | {"site": (("site",), np.arange(most))}


def _dataset(numbers: np.ndarray, dims: tuple[str, ...]) -> xr.Dataset:
    return xr.Dataset({name: (dims, numbers[k]) for k, name in enumerate(VARIABLES)})


def _pad(numbers: np.ndarray, width: int) -> np.ndarray:
    out = np.full((*numbers.shape[:-1], width), np.nan, numbers.dtype)
    out[..., : numbers.shape[-1]] = numbers
    return out


def check(tree: xr.DataTree) -> xr.DataTree:
    """The tree itself, if it follows the schema.

    Raises:
        ResultError: naming the node, variable or dimension that is missing, or the version if it is a later one.
    """
    version = tree.attrs.get("schema_version", 1)
    if version not in range(1, SCHEMA_VERSION + 1):
        raise ResultError(
            f"schema_version is {version!r}, this nnblip knows 1 to {SCHEMA_VERSION}: open it with a later nnblip"
        )
    if "reading" in tree.attrs:
        return _check_reading(tree)
    shapes: dict[str, tuple[str, ...]] = dict(LISTS_DIMS)
    for component in COMPONENTS:
        shapes |= {component: COMPONENT_DIMS, component + HEADS_NODE: HEADS_DIMS}
    components = {node: shapes[node] for node in tree.children if node in shapes}
    several = "noise" in tree.dims
    for node, dims in (DIMS | components).items():
        dims = ("noise", *dims) if several and node not in WITHOUT_NOISE else dims
        if node not in tree.children:
            raise ResultError(f"result has no node /{node}; it has: {', '.join(tree.children) or 'none'}")
        for name in VARIABLES:
            if name not in tree[node].data_vars:
                raise ResultError(f"/{node} of the result has no variable {name!r}")
            if tree[node][name].dims != dims:
                raise ResultError(f"/{node}/{name} has dimensions {tree[node][name].dims}, expected {dims}")
    return tree


#: What results of reading beside patching have in every node with numbers: `nnblip.attention`, `nnblip.lens`.
READINGS = {"attention": "attention", "lens": "probability"}


def _check_reading(tree: xr.DataTree) -> xr.DataTree:
    """A result of reading has no clean and corrupted run, but the attribute `reading` that says what was read."""
    variable = READINGS.get(tree.attrs["reading"])
    nodes = [node for node in tree.subtree if node.data_vars]
    if variable is None or not nodes:
        raise ResultError(f"reading is {tree.attrs['reading']!r}: expected one of {', '.join(READINGS)}, with numbers")
    for node in nodes:
        if variable not in node.data_vars:
            raise ResultError(f"{node.path} of the result has no variable {variable!r}")
    return tree


def require_name(path: object) -> None:
    """Raise `ResultError` for what cannot be the name of a stored result."""
    if not isinstance(path, str | Path) or "\0" in str(path) or Path(path).suffix != ".zarr":
        given = str(path) if isinstance(path, str | Path) else path
        raise ResultError(f"result {given!r:.200}: expected a name that ends in .zarr")


def save(tree: xr.DataTree, path: str | Path, overwrite: bool = False) -> Path:
    """Store a result as one zarr folder; `xarray.open_datatree(path)` opens it.

    Raises:
        ResultError: if something is there already and `overwrite` is not set, or the
            folder cannot be written.
    """
    require_name(path)
    if not isinstance(tree, xr.DataTree):
        raise ResultError(f"expected a result of causal_trace, an xarray.DataTree, not {type(tree).__name__}.")
    path = Path(path)
    try:
        if path.exists() and not overwrite:
            raise ResultError(f"{str(path)!r} exists already: choose another name, or say overwrite")
        # complete beside it first: the old result may be what `tree` still reads from
        with made(path.parent), tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem[:20]}-") as fresh:
            # version 2 of the format: version 3 has no stable texts and no consolidated metadata yet
            # how the tree was stored where it comes from (a sweep's chunks and texts) does not bind here
            plain = tree.map_over_datasets(lambda node: node.drop_encoding())
            # in memory: when a disk is full, zarr writes on in its threads while it says so
            files: dict[str, Any] = {}
            plain.to_zarr(zarr.storage.MemoryStore(files), zarr_format=2)
            for name, data in files.items():
                file = Path(fresh, "new.zarr", name)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(data.to_bytes())
            checksums.seal(Path(fresh, "new.zarr"))
            if path.exists():
                path.rename(Path(fresh, "old.zarr"))
            Path(fresh, "new.zarr").rename(path)
    except OSError as error:
        raise ResultError(f"{str(path)!r} cannot be written: {reason(error)}") from error
    return path


def open_result(path: str | Path) -> xr.DataTree:
    """A stored result, checked.

    Raises:
        ResultError: if there is none, or it does not follow the schema, or a coordinate, label or attribute that its
            examples share is not as it was written, or it names codecs that nnblip does not write with.
    """
    path = Path(path)
    try:
        there = path.exists()
    except OSError:  # a name longer than names can be
        there = False
    if not there:
        raise ResultError(f"result {str(path)!r}: there is nothing there")
    try:
        stored.require_codecs(path)
        stored.require_shared(path)
        # what was looked at is what is read
        options: dict[str, Any] = dict(zarr_format=2, consolidated=True) if stored.consolidated(path) else {}
        return check(xr.open_datatree(path, engine="zarr", **options))
    except NnblipError as error:
        raise ResultError(f"result {str(path)!r}: {error}") from error
    except STUMBLES as error:
        said = " ".join(visible(error).split())
        raise ResultError(f"result {str(path)!r} cannot be opened: {said}") from error
