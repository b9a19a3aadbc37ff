"""Effects: what the probabilities of a result say about where an answer comes from.

Everything here takes the result tree of `causal_trace` (or one read with
`xarray.open_datatree`) and returns labelled arrays. Sign convention, for each of the
three variables `probability`, `log_probability` (nats) and `logit_difference` (logits):

    total effect     clean - corrupted       what the noise took away
    indirect effect  restored - corrupted    what one restored state brings back
    relevance        indirect / total        the share that it brings back

Nothing is clipped: a state that lowers the probability has a negative effect, and one
that raises it above the clean run has a relevance above 1.

The terms total and indirect effect are those of Meng et al. 2022 (ROME,
arXiv:2202.05262); relevance and Γ(ν) follow Palit et al. 2023 (arXiv:2308.14179), who
brought causal tracing to BLIP.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from nnblip.effects.numbers import ratio
from nnblip.effects.reading import (
    choose,
    maps,
    node_of,
    over_draws,
    restored,
    restored_names,
    root_of,
    spoken,
    token_texts,
    with_nodes,
)
from nnblip.errors import ResultError, SettingError
from nnblip.results import VARIABLES
from nnblip.sites import CELLS_NODE, HEADS_NODE

#: The smallest total effect by which an indirect effect is divided.
THRESHOLD = 0.01

# ---- labels ----------------------------------------------------------------------------------


def total_effect(tree: xr.DataTree) -> xr.DataTree:
    """Total effect, clean - corrupted: what the noise takes away from the answer.

    Args:
        tree: a result with the nodes `/clean` (example) and `/corrupted` (example, nu, draw).

    Returns:
        A tree with `/corrupted` and every restored node of `tree`. Each holds the same
        three variables on (example, nu, draw), so that an effect of a node can be divided
        by its total effect. The attributes and coordinates of the root are kept.

    Raises:
        NnblipError: if a node or variable is missing, or the nodes' labels differ.
    """
    clean, corrupted = node_of(tree, "clean"), node_of(tree, "corrupted")
    effect = _difference(clean, corrupted, "total effect", "/clean and /corrupted", attrs=corrupted.attrs)
    return with_nodes(tree, dict.fromkeys(("corrupted", *restored_names(tree)), effect))


def indirect_effect(tree: xr.DataTree) -> xr.DataTree:
    """Indirect effect, restored - corrupted: what restoring a state brings back.

    Of a result with `direction="noising"` it is clean - damaged: what is lost by giving a
    clean run the state's corrupted value. Either way 0 is no effect and the total effect
    is all of it.

    Args:
        tree: a result with `/corrupted` (example, nu, draw) and at least one restored node
            such as `/question_encoder` (example, nu, draw, kind, layer, token).

    Returns:
        A tree with the restored nodes of `tree`: the three variables, dimensions and
        coordinates as there. Padding stays NaN.

    Raises:
        NnblipError: if a node or variable is missing, or the nodes' labels differ.
    """
    noising = tree.attrs.get("direction") == "noising"
    reference = node_of(tree, "clean" if noising else "corrupted")
    effects = {}
    for name, node in restored(tree).items():
        nodes = f"/{name} and /{'clean' if noising else 'corrupted'}"
        pair = (reference, node) if noising else (node, reference)
        effect = _difference(*pair, "indirect effect", nodes, attrs=node.attrs)
        # subtracting may put the reference's dimensions first
        effects[name] = effect.transpose(*node[VARIABLES[0]].dims, ...)
    return with_nodes(tree, effects)


def interaction(tree: xr.DataTree) -> xr.Dataset:
    """Interaction of pairs: the effect of both sites together minus the sum of each alone.

    Above 0 the two need each other; below 0 either does what the other would.

    Args:
        tree: a result traced with `cells=nnblip.sites.pairs(...)`.

    Returns:
        The three variables on (example, nu, draw, cell) for every pair whose two sites were
        traced alone as well.

    Raises:
        NnblipError: if the result has no such pairs.
    """
    effect = indirect_effect(tree).children
    if CELLS_NODE not in effect:
        raise ResultError("the result has no node /cells; trace with cells=nnblip.sites.pairs(...).")
    cells = effect[CELLS_NODE].to_dataset()
    sites = _sites_of(cells)
    alone = {site: place for place, (site, *others) in enumerate(sites) if not others}
    found = [place for place, pair in enumerate(sites) if len(pair) == 2 and alone.keys() >= set(pair)]
    if not found:
        raise ResultError(
            "no pair of /cells has both of its sites traced alone; trace with cells=nnblip.sites.pairs(...)."
        )
    pairs = cells.isel(cell=found)
    for variable in VARIABLES:
        first, second = (cells[variable].isel(cell=[alone[sites[place][k]] for place in found]).values for k in (0, 1))
        pairs[variable] = pairs[variable] - first - second
        pairs[variable].attrs = {"long_name": f"interaction on {spoken(variable)}"}
    return pairs


def _sites_of(cells: xr.Dataset) -> list[list[tuple[str, str, int, int, int]]]:
    """The sites of each cell of `/cells`, from its `site_` coordinates."""
    parts = [f"site_{part}" for part in ("component", "kind", "layer", "token", "head")]
    if missing := [part for part in parts if part not in cells.coords]:
        raise ResultError(
            f"/cells of the result has no coordinate {missing[0]!r}, as results of schema_version 1; trace it again."
        )
    columns = [cells[part].transpose("cell", "site").values.tolist() for part in parts]
    return [[site for site in zip(*rows, strict=True) if site[0]] for rows in zip(*columns, strict=True)]


def relevance(tree: xr.DataTree, threshold: float = THRESHOLD) -> xr.DataTree:
    """Relevance, indirect effect / total effect: the share that a restored state brings back.

    0 is no effect and 1 the clean answer's full probability; nothing is clipped. It is NaN
    where the total effect on `probability` is below the threshold (a negative one is
    below), since the ratio would then be noise divided by noise. `log_probability` and
    `logit_difference` are also NaN where their own total effect is below the threshold.

    Args:
        tree: a result with `/clean`, `/corrupted` and at least one restored node.
        threshold: smallest total effect that is divided by, positive; a probability for
            `probability`, nats and logits for the other two.

    Returns:
        A tree with the restored nodes of `tree`, dimensions and coordinates as there.
        Each variable has the threshold as an attribute.

    Raises:
        NnblipError: if a node or variable is missing, the nodes' labels differ, or the
            threshold is not a positive number.
    """
    _positive(threshold)
    total = _difference(node_of(tree, "clean"), node_of(tree, "corrupted"), "", "/clean and /corrupted", attrs={})
    shares = {}
    for name, node in indirect_effect(tree).children.items():
        effect = node.to_dataset()
        share = effect.copy()
        for variable in VARIABLES:
            share[variable] = xr.apply_ufunc(
                ratio,
                effect[variable],
                total[variable],
                total["probability"],
                kwargs={"threshold": threshold},
                dask="parallelized",
                output_dtypes=[effect[variable].dtype],
            )
            share[variable].attrs = effect[variable].attrs | {
                "long_name": f"relevance by {spoken(variable)}",
                "units": "1",
                "threshold": threshold,
            }
        shares[name] = share
    return with_nodes(tree, shares)


def gamma(tree: xr.DataTree, threshold: float = THRESHOLD) -> xr.Dataset:
    """Γ(ν): the relevance of probability, averaged over a component's layers and tokens.

    Every (layer, token) counts the same; padding is left out. Nodes of heads are averaged
    over their heads as well.

    Args:
        tree: a result with `/clean`, `/corrupted` and restored nodes.
        threshold: as for `relevance`; Γ is NaN where the relevance is undefined.

    Returns:
        A Dataset with one variable per restored node that has layers and tokens, named as
        the node, on (example, nu, draw, kind). A kind that a component does not have is
        NaN there.

    Raises:
        NnblipError: as `relevance`, and if no restored node has the dimensions kind, layer
            and token.
    """
    means = {}
    for name, node in maps(relevance(tree, threshold)).items():
        share = node["probability"]
        inner = [dim for dim in share.dims if dim not in ("example", "nu", "draw", "kind")]
        # Without the node's other coordinates, which may differ between components.
        mean = share.mean(inner).reset_coords(drop=True)
        mean.attrs = share.attrs | {"long_name": f"Γ(ν) of {spoken(name)}"}
        means[name] = mean
    kinds = list(dict.fromkeys(kind for mean in means.values() for kind in mean["kind"].values.tolist()))
    root = root_of(tree)
    coords = {**node_of(tree, "clean").coords, **root.coords}
    result = {name: mean.reindex(kind=kinds) for name, mean in means.items()}
    return xr.Dataset(result, attrs=root.attrs).assign_coords(coords)


class SiteEffect(NamedTuple):
    """One site of a heatmap with its numbers, each the mean over the draws of the noise.

    Attributes:
        component: name of the component, such as `question_encoder`.
        kind: which state of the layer.
        layer: counted from 0.
        token: position, counted from 0.
        token_text: text of the token, "" if the result has none.
        probability: of the answer, with this site restored.
        indirect_effect: on the probability.
        relevance: over the draws in which it is defined; NaN if there are none.
        head: counted from 0, None where the site is a whole state.
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


def strongest(
    tree: xr.DataTree,
    n: int = 10,
    nu: float | None = None,
    example: str | None = None,
    threshold: float = THRESHOLD,
) -> list[SiteEffect]:
    """The `n` sites whose restoring raises the probability most, strongest first.

    Args:
        tree: a result.
        n: how many sites, at least 1; fewer come back if there are fewer.
        nu: noise factor; may be left out if the result has one.
        example: name of the example; may be left out if the result has one.
        threshold: as for `relevance`.

    Returns:
        Records sorted by the indirect effect on the probability (mean over draws), largest
        first; equal ones stand in the order of the result.

    Raises:
        NnblipError: as `relevance`; if `nu` or `example` is not in the result, or is left
            out where there are several; if `n` is not a whole number of at least 1.
    """
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
        raise SettingError(f"n is {n!r}: expected how many sites to list, a whole number of at least 1.")
    tree = choose(choose(tree, "nu", nu), "example", example)
    effects, shares = indirect_effect(tree), relevance(tree, threshold)
    sites = []
    for name, node in maps(tree).items():
        effect = over_draws(effects[name].to_dataset()["probability"])
        share = over_draws(shares[name].to_dataset()["probability"]).transpose(*effect.dims).values
        probability = over_draws(node["probability"]).transpose(*effect.dims).values
        labels = [effect[dim].values.tolist() for dim in effect.dims]
        texts = dict(zip(node["token"].values.tolist(), token_texts(node), strict=True))
        for index in map(tuple, np.argwhere(np.isfinite(effect.values))):
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
                )
            )
    return sorted(sites, key=lambda site: -site.indirect_effect)[:n]


def _positive(threshold: float) -> None:
    if not (isinstance(threshold, (int, float, np.number)) and math.isfinite(threshold) and threshold > 0):
        raise SettingError(f"threshold is {threshold!r}: expected a positive number such as {THRESHOLD}.")


def _difference(a: xr.Dataset, b: xr.Dataset, effect: str, nodes: str, attrs: Mapping[str, Any]) -> xr.Dataset:
    """`a - b` for each variable, with the coordinates of both, those of `a` first.

    Labels must agree exactly: xarray would silently drop those that do not.
    """
    variables = {}
    for name in VARIABLES:
        try:
            left, right = xr.align(a[name], b[name], join="exact")
        except xr.AlignmentError as error:
            raise ResultError(f"the labels of {nodes} differ, so they are not of one run: {error}") from error
        variables[name] = left - right
        variables[name].attrs = a[name].attrs | {"long_name": f"{effect} on {spoken(name)}"}
    coords = {**b.coords, **a.coords}
    return xr.Dataset(variables, attrs=dict(attrs)).assign_coords(coords)
