"""Total and indirect effect, and the interaction of pairs: differences of the probabilities of a result.

Everything here takes the result tree of `causal_trace` (or one read with
`xarray.open_datatree`) and returns labelled arrays. Sign convention, for each of the
three variables `probability`, `log_probability` (nats) and `logit_difference` (logits):

    total effect     clean - corrupted       what the noise took away
    indirect effect  restored - corrupted    what one restored state brings back

Nothing is clipped: a state that lowers the probability has a negative effect. The terms
are those of Meng et al. 2022 (ROME, arXiv:2202.05262). What is divided is in shares.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import xarray as xr

from nnblip.effects.reading import node_of, restored, restored_names, root_of, sites_of, spoken, with_nodes
from nnblip.errors import ResultError
from nnblip.results import VARIABLES
from nnblip.sites import CELLS_NODE, KNOCK_OUTS_NODE


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
    effect = effect.transpose(*corrupted[VARIABLES[0]].dims, ...)  # of several noises, these first
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


def knock_out_effect(tree: xr.DataTree) -> xr.Dataset:
    """What the answer needs of connections: clean − knocked out, each alone in the clean run (Geva et al. 2023).

    Args:
        tree: a result traced with `cells=nnblip.sites.knock_outs(...)`.

    Returns:
        The three variables on (example, knock_out). 0 is no effect; above 0, the answer gets less probable without.

    Raises:
        NnblipError: if the result has no knock-outs.
    """
    root_of(tree)
    if KNOCK_OUTS_NODE not in tree.children:
        raise ResultError("the result has no node /knock_outs; trace with cells=nnblip.sites.knock_outs(...).")
    cut = node_of(tree, KNOCK_OUTS_NODE)
    return _difference(node_of(tree, "clean"), cut, "effect of a knock-out", "/clean and /knock_outs", attrs=cut.attrs)


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
    sites = sites_of(cells)
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
        _of_the_same(a, b, name, nodes)
        variables[name] = left - right
        variables[name].attrs = a[name].attrs | {"long_name": f"{effect} on {spoken(name)}"}
    coords = {**b.coords, **a.coords}
    return xr.Dataset(variables, attrs=dict(attrs)).assign_coords(coords)


def _of_the_same(a: xr.Dataset, b: xr.Dataset, name: str, nodes: str) -> None:
    """Raise if `a` and `b` are means over examples of which some are known in one of them only."""
    count = f"{name}_count"
    if count in a and count in b and ((a[count] != b[count]) & a[name].notnull() & b[name].notnull()).any():
        raise ResultError(
            f"{nodes} are means over different examples, since some questions lack a token or role: take effects first"
            " and average last, by_type(indirect_effect(result)), or relevance(result, pooled='question_type')."
        )
