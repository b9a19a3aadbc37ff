"""The strongest sites, and which cells restore by construction."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import xarray as xr

from nnblip.effects.differences import indirect_effect
from nnblip.effects.reading import (
    choose,
    maps,
    node_of,
    one_noise,
    over_draws,
    restored,
    sites_of,
    token_texts,
    with_nodes,
)
from nnblip.effects.shares import THRESHOLD, relevance
from nnblip.errors import SettingError
from nnblip.results import VARIABLES
from nnblip.sites import CELLS_NODE, COMPONENTS, HEADS_NODE

#: A cell of which the tree does not say how many tokens there are restores by construction if the clean probability
#: comes back to so much in every run: rounding in float32 batches, and far below any effect that is looked at.
ROUNDING = 1e-3
#: The states of a token from which its layer's output follows: after cross-attention the MLP reads that token alone.
WHOLE = ("block", "crossattention")


class SiteEffect(NamedTuple):
    """One site of a heatmap with its numbers.

    Attributes:
        component: name of the component, such as `question_encoder`.
        kind: which state of the layer.
        layer: counted from 0.
        token: position, counted from 0.
        token_text: text of the token, "" if the result has none.
        probability: of the answer, with this site restored; mean over the draws of the noise.
        indirect_effect: on the probability; mean over the draws.
        relevance: Σ indirect effect / Σ total effect over the draws; NaN if it is undefined.
        head: counted from 0, None where the site is a whole state.
        structural: whether it restores by construction, see `structural`.
    """

    component: str
    kind: str
    layer: int
    token: int
    token_text: str
    probability: float
    indirect_effect: float
    relevance: float
    head: int | None = None
    structural: bool = False


def strongest(
    tree: xr.DataTree,
    n: int = 10,
    nu: float | None = None,
    example: str | None = None,
    threshold: float = THRESHOLD,
    with_structural: bool = False,
) -> list[SiteEffect]:
    """The `n` sites whose restoring raises the probability most, strongest first.

    The best of many are rather too large: the more sites there are, the more of their lead is chance.

    Args:
        tree: a result.
        n: how many sites, at least 1; fewer come back if there are fewer.
        nu: noise factor; may be left out if the result has one.
        example: name of the example; may be left out if the result has one.
        threshold: as for `relevance`.
        with_structural: rank sites too that restore by construction; they are no finding.

    Returns:
        Records sorted by the indirect effect on the probability (mean over draws), largest
        first; equal ones stand in the order of the result.

    Raises:
        NnblipError: as `relevance`; if `nu` or `example` is not in the result, or is left
            out where there are several; if `n` is not a whole number of at least 1.
    """
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
        raise SettingError(f"n is {n!r}: expected how many sites to list, a whole number of at least 1.")
    tree = choose(choose(one_noise(tree), "nu", nu), "example", example)
    effects, shares, given = indirect_effect(tree), relevance(tree, threshold), structural(tree)
    sites = []
    for name, node in maps(tree).items():
        effect = over_draws(effects[name].to_dataset()["probability"])
        share, probability, by_construction = (
            values.broadcast_like(effect).transpose(*effect.dims).values
            for values in (shares[name]["probability"], over_draws(node["probability"]), given[name]["structural"])
        )
        labels = [effect[dim].values.tolist() for dim in effect.dims]
        texts = dict(zip(node["token"].values.tolist(), token_texts(node), strict=True))
        for index in map(tuple, np.argwhere(np.isfinite(effect.values))):
            if by_construction[index] and not with_structural:
                continue
            label = {dim: values[i] for dim, values, i in zip(effect.dims, labels, index, strict=True)}
            sites.append(
                SiteEffect(
                    component=name.removesuffix(HEADS_NODE),
                    kind=str(label["kind"]),
                    layer=label["layer"],
                    token=label["token"],
                    token_text=texts[label["token"]],
                    probability=float(probability[index]),
                    indirect_effect=float(effect.values[index]),
                    relevance=float(share[index]),
                    head=label.get("head"),
                    structural=bool(by_construction[index]),
                )
            )
    return sorted(sites, key=lambda site: -site.indirect_effect)[:n]


# ---- by construction -------------------------------------------------------------------------


def structural(tree: xr.DataTree) -> xr.DataTree:
    """Which cells restore by construction: they say how BLIP is built and not where an answer comes from.

    - The answer decoder's last layer is the answer, where that has one token.
    - All tokens of the question encoder's last layer together are all that the decoder sees; so are all tokens of any
      layer of the image encoder, and of the decoder's last layer.
    - `crossattention` of a token is its `block`, because the MLP between them reads that token alone. Where both are
      traced, `crossattention` is marked; traced alone it stands for `block`.

    Args:
        tree: a result.

    Returns:
        A tree of its restored nodes with the variable `structural` (true or false), on the dimensions of a map
        without `nu` and `draw`: (example, kind, layer, token), with `head` before `token`; or (example, cell).

    Raises:
        NnblipError: if a node or variable is missing.
    """
    layers = int(tree.attrs.get("layers", 0))
    nodes = {}
    for name, node in restored(tree).items():
        there = (
            node[VARIABLES[0]].notnull().any([dim for dim in ("noise", "nu", "draw") if dim in node[VARIABLES[0]].dims])
        )
        if name == CELLS_NODE and "site_layer" in node.coords:
            found = _whole_cells(tree, node, there, layers)
        elif {"kind", "layer", "token"} <= {*there.dims}:
            found = _whole_states(tree, name, node, there, layers)
        else:
            found = xr.zeros_like(there)
        nodes[name] = xr.Dataset({"structural": found.astype(bool)}).drop_vars(["noise", "nu", "draw"], errors="ignore")
    return with_nodes(tree, nodes)


def _whole_states(tree: xr.DataTree, name: str, node: xr.Dataset, there: xr.DataArray, layers: int) -> xr.DataArray:
    kinds, found = node["kind"], xr.zeros_like(there)
    if name == "answer_decoder":
        last = (layers or int(node["layer"].max()) + 1) - 1
        tokens = there.any([dim for dim in there.dims if dim not in ("example", "token")]).sum("token")
        found = there & kinds.isin(WHOLE) & (node["layer"] == last) & (tokens == 1)
    if "block" in kinds.values and "mlp_out" not in str(tree.attrs.get("freeze", "")):
        found = found | (there & (kinds == "crossattention"))
    return found.transpose(*there.dims)


def _whole_cells(tree: xr.DataTree, node: xr.Dataset, there: xr.DataArray, layers: int) -> xr.DataArray:
    cells = sites_of(node)
    text_layers = [site[2] for cell in cells for site in cell if site[0] != "image_encoder"]
    last = layers - 1 if layers else max(text_layers, default=0)
    whole_run = node_of(tree, "corrupted" if tree.attrs.get("direction") == "noising" else "clean")
    back = (abs(node["probability"] - whole_run["probability"]) < ROUNDING) | node["probability"].isnull()
    back = back.all([dim for dim in back.dims if dim not in there.dims]).transpose(*there.dims)
    found = np.zeros(there.shape, bool)
    for component in COMPONENTS:
        covered = np.array([_covered(cell, component, last) for cell in cells])
        count = _tokens(tree, component)
        if count is None:  # as many as any cell reaches
            count = np.where(there, [_reach(cell, component) for cell in cells], 0).max(-1)
            found |= (covered == count[..., None]) & (count[..., None] > 0) & back.values
        else:
            found |= covered == count[..., None]
    return there & xr.DataArray(found, dims=there.dims)


def _covered(cell: list[tuple[str, str, int, int, int]], component: str, last: int) -> int:
    """Of how many tokens, from the first on, a cell restores all that comes after; -1 if of none."""
    layers: dict[int, set[int]] = {}
    for part, kind, layer, token, _ in cell:
        if part == component and kind in WHOLE and (layer == last or component == "image_encoder"):
            layers.setdefault(layer, set()).add(token)
    return max((len(tokens) for tokens in layers.values() if tokens == {*range(len(tokens))}), default=-1)


def _reach(cell: list[tuple[str, str, int, int, int]], component: str) -> int:
    return max((token + 1 for part, _, _, token, _ in cell if part == component), default=0)


def _tokens(tree: xr.DataTree, component: str) -> np.ndarray | None:
    """How many tokens each example has, if a map of the result says so. Of the image a map may have regions instead."""
    if component not in tree.children or component == "image_encoder":
        return None
    there = tree[component]["probability"].notnull()
    return there.any([dim for dim in there.dims if dim not in ("example", "token")]).sum("token").values
