"""Where cross-attention looks: how widely, how much at the image's [CLS], and how much at the object asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from tqdm.auto import tqdm

from nnblip.examples import Example
from nnblip.experiments.pointing import Box, boxes_of, covered
from nnblip.roles import ROLES

if TYPE_CHECKING:
    from nnblip.model import BlipVQA

#: Attention of so many examples is held at a time: of the real size 3 MB each.
TOGETHER = 8


def gaze(model: BlipVQA, examples: Sequence[Example], progress: bool | None = None) -> xr.Dataset:
    """Read the question encoder's cross-attention of the clean run (`nnblip.attention`).

    Args:
        model: where.
        examples: each with an id of its own; those with a box have `object`.
        progress: a bar on the terminal; by default where there is one.

    Returns:
        (example, layer, head, role), means over a role's tokens; NaN where an example has none. `entropy`: of the
        weights, 1 if all sources weigh the same, 0 if there is one. `cls`: weight on the image's [CLS], which is no
        patch. `object`: share of the weight on patches that lies in its boxes; NaN without one. `area` (example): share
        of the patches that lies in them, which `object` is for a look everywhere alike.
    """
    parts = []
    disable = None if progress is None else not progress
    with tqdm(total=len(examples), unit="question", desc="attention", disable=disable) as bar:
        for one in _read(model, examples):
            parts.append(one)
            bar.update()
    data = xr.concat(parts, xr.Variable("example", [one.id or str(i) for i, one in enumerate(examples)]))
    return data.dropna("role", how="all", subset=["entropy"])


def _read(model: BlipVQA, examples: Sequence[Example]) -> Iterator[xr.Dataset]:
    from nnblip.tracing.attention import attention

    for start in range(0, len(examples), TOGETHER):
        some = list(examples[start : start + TOGETHER])
        tree = attention(
            model, some, components=["question_encoder"], kinds=["crossattention"], grad_cam=False, progress=False
        )
        node = tree["question_encoder/crossattention"].to_dataset()
        grid = tuple(node.attrs["grid"])
        weights, roles = node["attention"].values, node["role"].values
        for each in zip(weights, roles, map(boxes_of, some), strict=True):
            yield _one(*each, grid)


def _one(
    weights: NDArray[np.floating], roles: NDArray[np.str_], boxes: Sequence[Box], grid: tuple[int, int]
) -> xr.Dataset:
    """Of one example: weights (layer, head, token, source), NaN where it has fewer tokens than others."""
    there = roles != ""
    weights = weights[:, :, there].astype(np.float64)
    patches = weights[..., 1:]
    inside = covered(boxes, grid) if boxes else np.full(patches.shape[-1], np.nan)
    found = {
        "entropy": -(weights * np.log(np.maximum(weights, 1e-300))).sum(-1) / np.log(weights.shape[-1]),
        "cls": weights[..., 0],
        "object": (patches @ inside) / np.maximum(patches.sum(-1), 1e-300),
    }
    masks = np.array([roles[there] == role for role in ROLES], float)
    count = masks.sum(1)
    means = {name: (values @ masks.T) / np.where(count, count, np.nan) for name, values in found.items()}
    dims = ("layer", "head", "role")
    return xr.Dataset(
        {**{name: (dims, values) for name, values in means.items()}, "area": float(inside.mean())},
        {"layer": np.arange(weights.shape[0]), "head": np.arange(weights.shape[1]), "role": list(ROLES)},
    )
