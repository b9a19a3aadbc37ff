"""Results of reading beside patching: arrays of each example become one labelled tree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from nnblip.blip.inputs import Encoded
from nnblip.examples import Example
from nnblip.model import BlipVQA
from nnblip.tracing.labels import example_coords, require_different


@dataclass(frozen=True)
class Node:
    """Of one example, the arrays of a node; texts become coordinates.

    Attributes:
        arrays: by name, dimensions without `example`, and values.
        shared: coordinates that are the same for all examples, likewise.
        attrs: of the node.
    """

    arrays: Mapping[str, tuple[tuple[str, ...], Any]]
    shared: Mapping[str, tuple[tuple[str, ...], Any]]
    attrs: Mapping[str, Any]


@dataclass(frozen=True)
class Reading:
    """All that a result says of one example.

    Attributes:
        id: its name in the result.
        coords: the coordinates on `example`.
        nodes: by path.
    """

    id: str
    coords: Mapping[str, str]
    nodes: Mapping[str, Node]

    @classmethod
    def of(
        cls, model: BlipVQA, example: Example, encoded: Encoded, answer_ids: Sequence[int], predicted: Sequence[int],
        nodes: Mapping[str, Node],
    ) -> Reading:  # fmt: skip
        coords = {"answer": model.text(answer_ids), "predicted": model.text(predicted), **example_coords(example)}
        return cls(example.id or encoded.key[:12], {"question": example.question, **coords}, nodes)


def tree_of(found: Sequence[Reading], attrs: Mapping[str, Any]) -> xr.DataTree:
    """The result of these examples. Raises `SettingError` if two have one id."""
    require_different(one.id for one in found)
    names = dict.fromkeys(name for one in found for name in one.coords)
    root = xr.Dataset(
        coords={
            "example": [one.id for one in found],
            **{name: ("example", [one.coords.get(name, "") for one in found]) for name in names},
        },
        attrs=dict(attrs),
    )
    nodes = {f"/{path}": _together([one.nodes[path] for one in found]) for path in found[0].nodes}
    return xr.DataTree.from_dict({"/": root, **nodes})


def _together(parts: Sequence[Node]) -> xr.Dataset:
    """Every dimension counts from 0; what an example has less of than others is NaN, or "" of texts."""
    numbers: dict[str, Any] = {}
    texts, sizes = dict(parts[0].shared), dict[str, int]()
    for name, (dims, first) in parts[0].arrays.items():
        values = [np.asarray(one.arrays[name][1]) for one in parts]
        is_text = np.asarray(first).dtype.kind == "U"
        shape = tuple(np.max([one.shape for one in values], axis=0))
        if all(one.shape == shape for one in values):
            out = np.stack(values)
        else:
            out = np.full((len(parts), *shape), "" if is_text else np.nan, np.result_type(*values))
            for number, one in enumerate(values):
                place: Any = (number, *map(slice, one.shape))
                out[place] = one
        (texts if is_text else numbers)[name] = (("example", *dims), out)
        sizes.update(zip(dims, shape, strict=True))
    axes = {dim: np.arange(size) for dim, size in sizes.items()}
    return xr.Dataset(numbers, {**axes, **texts}, attrs=dict(parts[0].attrs))
