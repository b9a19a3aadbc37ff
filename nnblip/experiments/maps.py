"""Maps of many examples without what restores by construction: by layer and role, and by layer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import xarray as xr

from nnblip import effects
from nnblip.effects.intervals import MIN_EXAMPLES
from nnblip.experiments.numbers import Mean, by_image, mean
from nnblip.results import VARIABLES
from nnblip.sites import TEXT_COMPONENTS


def restored(tree: xr.DataTree, value: Callable[[xr.DataTree], xr.DataTree] = effects.indirect_effect) -> xr.DataTree:
    """The effects of a result's text components, NaN where a cell restores by construction.

    Args:
        tree: a result.
        value: `effects.indirect_effect` or `effects.relevance`.
    """
    found, given = value(tree), effects.structural(tree)
    for component in TEXT_COMPONENTS:
        found[component].dataset = found[component].to_dataset().where(~given[component].structural)
    return found


def of_examples(tree: xr.DataTree, component: str, variable: str = VARIABLES[0]) -> xr.DataArray:
    """Of a tree of effects with one ν: what each example has, draws averaged; kind block, without other coordinates."""
    values = tree[component].to_dataset()[variable].sel(kind="block").reset_coords(drop=True)
    values = values.isel(nu=0, drop=True) if "nu" in values.dims else values
    return values.mean("draw") if "draw" in values.dims else values


def by_role(tree: xr.DataTree) -> dict[str, xr.DataArray]:
    """Of each text component the indirect effects of each example, (example, layer, role)."""
    found = effects.by_role(restored(tree))
    return {component: of_examples(found, component) for component in TEXT_COMPONENTS}


def by_layer(effect: xr.DataArray) -> xr.DataArray:
    """Of each example the mean over tokens or roles, (example, layer).

    Layers that only some examples have are left out, so that all means are of the same examples: the decoder's last
    restores by construction where the answer has one token.
    """
    inner = [dim for dim in effect.dims if dim not in ("example", "layer")]
    found = effect.mean(inner)
    counts = found.notnull().sum("example")
    return found.isel(layer=np.flatnonzero((counts == counts.max()) & (counts > 0)))


def later_minus_earlier(effect: xr.DataArray) -> xr.DataArray:
    """Of each example how much more the later half of the layers restores than the earlier one; (example).

    Of an odd number of layers the middle one is in neither half.
    """
    layers = by_layer(effect)
    half = layers.sizes["layer"] // 2
    later, earlier = (layers.isel(layer=part).mean("layer") for part in (slice(-half, None), slice(half)))
    return later - earlier


def strongest(
    effect: xr.DataArray, dims: tuple[str, ...], image: xr.DataArray | None = None
) -> tuple[str, Mean | None, xr.DataArray]:
    """Where the strongest cell is, in words, its mean on the examples that did not choose it, and their values.

    There is no mean where the two halves of the examples choose different cells: none is named then.

    Args:
        effect: (example, *dims).
        dims: of a cell, such as layer and role.
        image: what each example's image is, where several share one; else examples are the units.
    """
    cells, values = effects.picked(effect if image is None else by_image(effect, image), dims)
    if not cells:
        return f"not ranked: no cell of {MIN_EXAMPLES} examples", None, values
    names = [", ".join(f"{dim} {label}" if dim != "role" else str(label) for dim, label in zip(dims, cell, strict=True))
             for cell in cells]  # fmt: skip
    if len(names) > 1:
        return f"not established: the halves choose {' and '.join(names)}", None, values
    return names[0], mean(values), values


def of_type(effect: xr.DataArray, own: np.ndarray, kind: str) -> xr.DataArray:
    """The examples of one type; `own` is the type of each."""
    return effect.isel(example=np.flatnonzero(own == kind))


def enough(effect: xr.DataArray) -> xr.DataArray:
    """Without the cells of which fewer examples are known than are ranked."""
    return effect.where(effect.notnull().sum("example") >= MIN_EXAMPLES)
