"""Later against earlier layers: what each layer restores, of each example, and what the difference is made of."""

from __future__ import annotations

import numpy as np
import xarray as xr

from nnblip import effects
from nnblip.experiments.maps import by_layer
from nnblip.sites import CELLS_NODE, EDGES_NODE, TEXT_COMPONENTS

QUESTION, ANSWER = TEXT_COMPONENTS
#: What is restored of a layer: one token after the other, of which the mean counts, or all tokens together.
TOGETHER = f"{QUESTION}, all tokens"
MEASURES = (TOGETHER, QUESTION, ANSWER)
#: What later minus earlier is divided into.
PARTS = ("construction", "reading again", "computation")


def profile(tree: xr.DataTree, measure: str, kind: str = "block", last: bool = False) -> xr.DataArray:
    """The indirect effect on P(answer) of each layer's states, (example, layer), means over draws and tokens.

    The last layer is left out unless it is asked for: its states together are all that is read of them.

    Args:
        tree: a result with one ν; of `TOGETHER` with `cells=nnblip.sites.all_tokens(kind=...)`.
        measure: one of `MEASURES`.
        kind: which states.
        last: whether the last layer is there, too.
    """
    node = CELLS_NODE if measure == TOGETHER else measure
    effect = effects.indirect_effect(tree)[node].probability.isel(nu=0).mean("draw")
    if measure == TOGETHER:
        found = _by_layer_of(effect.isel(cell=np.flatnonzero(effect.kind.values == kind)), "cell", "layer")
    else:
        found = by_layer(effect.sel(kind=kind).reset_coords(drop=True))
    return found if last else found.sel(layer=found.layer < int(tree.attrs["layers"]) - 1)


def profiles_of(tree: xr.DataTree, kind: str = "block") -> dict[str, xr.DataArray]:
    """Those of all measures that a result has."""
    there = {TOGETHER: CELLS_NODE}
    return {one: profile(tree, one, kind) for one in MEASURES if there.get(one, one) in tree.children}


def total_of(tree: xr.DataTree) -> xr.DataArray:
    """The total effect of each example of a result with one ν, (example)."""
    return effects.total_effect(tree)["corrupted"].probability.isel(nu=0).mean("draw").reset_coords(drop=True)


def parts_of(clean: xr.DataArray, frozen: xr.DataArray, random: xr.DataArray) -> dict[str, xr.DataArray]:
    """What later minus earlier is made of, each of each example; the parts add up to `clean`.

    Args:
        clean: later minus earlier of each example.
        frozen: the same with frozen cross-attention.
        random: the same with frozen cross-attention and random weights, as a share of the total effect, times the
            example's own total effect.
    """
    return dict(zip(PARTS, (random, clean - frozen, frozen - random), strict=True))


def by_receiver(tree: xr.DataTree, component: str) -> xr.DataArray:
    """Mean indirect effect of the edges into each layer of a component, (example, layer)."""
    effect = effects.indirect_effect(tree)[EDGES_NODE].probability.isel(nu=0).mean("draw")
    mine = effect.isel(edge=np.flatnonzero(effect.receiver_component.values == component))
    return _by_layer_of(mine, "edge", "receiver_layer")


def by_window(tree: xr.DataTree, edges: str, by: str, window: int) -> xr.DataArray:
    """What P(answer) loses when edges are cut in a window of layers, (example, layer), the first of the window."""
    cut = effects.knock_out_effect(tree).probability
    found = (cut.edges == edges) & (cut.by == by) & (cut.window == window)
    return _by_layer_of(cut.isel(knock_out=np.flatnonzero(found.values)), "knock_out", "layer")


def question_tokens(tree: xr.DataTree) -> dict[str, int]:
    """How many tokens each question has, by the name of the example."""
    there = tree[QUESTION].probability.isel(nu=0, draw=0, kind=0, layer=0).notnull().sum("token")
    return {str(name): int(count) for name, count in zip(there.example.values, there.values, strict=True)}


def _by_layer_of(values: xr.DataArray, dim: str, coordinate: str) -> xr.DataArray:
    """Means over the cells of a list that have one layer, (example, layer)."""
    layer = xr.DataArray(values[coordinate].values, dims=dim, name="layer")
    return values.reset_coords(drop=True).drop_vars(dim, errors="ignore").groupby(layer).mean(dim)
