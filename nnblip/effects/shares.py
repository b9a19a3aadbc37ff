"""Relevance and Γ(ν): the share of the total effect that a restored state brings back.

The one place where an effect is divided by another; tables, figures, averages and experiments ask here.

    relevance        Σ indirect effect / Σ total effect, over the draws of an example

A ratio of means, never a mean of ratios: the total effect of a single draw may be next to nothing, and a draw is
never left out because of its outcome. Relevance and Γ(ν) follow Palit et al. 2023 (arXiv:2308.14179), whose notebook
takes the mean over ten runs of single ratios; that is `estimator="mean_of_ratios"`.
"""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import xarray as xr

from nnblip.effects.differences import indirect_effect, total_effect
from nnblip.effects.numbers import group_intervals, mean_of_ratios, paired_means, ratio
from nnblip.effects.reading import OUTER, groups_of, maps, root_of, spoken, without
from nnblip.errors import SettingError, one_of
from nnblip.results import VARIABLES

#: The smallest mean total effect on the probability that is divided by. Of a smaller one the draws of the noise leave
#: little: a map of ten draws moves by a hundredth or two from one set of draws to the next.
THRESHOLD = 0.05
ESTIMATORS = ("ratio_of_means", "mean_of_ratios")


def thresholds(probability: float = THRESHOLD) -> dict[str, float]:
    """The smallest mean total effects that are divided by, each in its own unit.

    Those of the other variables follow from that of the probability, as the least that such a loss can be:

    - `log_probability`: −ln(1 − threshold) nats (0.051), which a sure answer loses when it falls from 1 to 0.95.
    - `logit_difference`: 4 · threshold logits (0.2), since between two answers a probability falls by at most a quarter
      of what their logits lose.

    So an effect that is large enough on the probability is so on the others, while a saturated probability, which
    hides its effect, keeps its relevance in nats and logits.

    Raises:
        NnblipError: if it does not lie between 0 and 1.
    """
    number = isinstance(probability, (int, float, np.number)) and not isinstance(probability, bool)
    if not (number and 0 < probability < 1):
        raise SettingError(f"threshold is {probability!r}: expected a positive number below 1, such as {THRESHOLD}.")
    limits = (probability, -math.log1p(-probability), 4 * probability)
    return dict(zip(VARIABLES, map(float, limits), strict=True))


def relevance(
    tree: xr.DataTree, threshold: float = THRESHOLD, estimator: str = ESTIMATORS[0], pooled: bool | str = False
) -> xr.DataTree:
    """Relevance: the share of the total effect that a restored state brings back, a ratio of means over the draws.

    0 is no effect and 1 the clean answer's full probability; nothing is clipped. It is NaN where the mean total
    effect is below the threshold (a negative one is below), since there is next to nothing to restore.

    Over examples there are two means. That of their ratios, `relevance(result).mean("example")`, counts every
    example the same. `pooled` averages effects first and divides last, so that each counts by its effect.

    Args:
        tree: a result with `/clean`, `/corrupted` and at least one restored node, or its averages by role.
        threshold: smallest mean total effect on the probability that is divided by; those of the other variables
            follow, see `thresholds`.
        estimator: "ratio_of_means", or for replication "mean_of_ratios", the mean over the draws of single ratios
            without any threshold, as in the notebook of Palit et al. 2023.
        pooled: over all examples, or by name of a coordinate on `example`, such as "question_type", over those of
            each type.

    Returns:
        A tree with the restored nodes of `tree`: the three variables, dimensions and coordinates as there, without
        `draw`. If pooled, also without `example`, in whose place stands the coordinate that was named. Each variable
        has the threshold and the estimator as attributes.

    Raises:
        NnblipError: if a node, variable or coordinate is missing, the nodes' labels differ, or a setting cannot be
            used.
    """
    shares = _Shares(tree, threshold, estimator, pooled)
    nodes = {}
    for name, node in indirect_effect(tree).children.items():
        effect = node.to_dataset()
        data = {variable: shares.of(effect[variable], variable) for variable in VARIABLES}
        nodes[name] = xr.Dataset(data, shares.coords(effect), effect.attrs)
    return xr.DataTree.from_dict({"/": shares.root, **nodes}, name=tree.name)


def gamma(
    tree: xr.DataTree, threshold: float = THRESHOLD, estimator: str = ESTIMATORS[0], pooled: bool | str = False
) -> xr.Dataset:
    """Γ(ν): the relevance of probability, averaged over a component's layers and tokens.

    Every (layer, token) counts the same; padding is left out. Nodes of heads are averaged over their heads as well.
    The effects are averaged first and divided last, so that pooled questions of different lengths count by what
    restoring them brings back.

    Args:
        tree, threshold, estimator, pooled: as for `relevance`.

    Returns:
        A Dataset with one variable per restored node that has layers and tokens, named as the node, on (example, nu,
        kind), or if pooled (nu, kind) or (type, nu, kind). A kind that a component does not have is NaN there.

    Raises:
        NnblipError: as `relevance`, and if no restored node has the dimensions kind, layer and token.
    """
    shares = _Shares(tree, threshold, estimator, pooled)
    means = {}
    for name, node in maps(indirect_effect(tree)).items():
        effect = node["probability"]
        inner = [dim for dim in effect.dims if dim not in (*OUTER, "kind")]
        # without the node's other coordinates, which may differ between components
        share = shares.of(effect.mean(inner, keep_attrs=True), "probability").reset_coords(drop=True)
        means[name] = share.assign_attrs(long_name=f"Γ(ν) of {spoken(name)}")
    kinds = list(dict.fromkeys(kind for mean in means.values() for kind in mean["kind"].values.tolist()))
    data = {name: mean.reindex(kind=kinds) for name, mean in means.items()}
    coords = {**shares.coords(tree["clean"]), **shares.root.coords}
    return xr.Dataset(data, attrs=shares.root.attrs).assign_coords(coords)


class _Shares:
    """What relevance is, of the effects of one tree.

    Attributes:
        root: coordinates and attributes of what comes out.
    """

    def __init__(self, tree: xr.DataTree, threshold: float, estimator: str, pooled: bool | str) -> None:
        self._limits, self._estimator = thresholds(threshold), one_of(estimator, ESTIMATORS, "estimator")
        if pooled and estimator != ESTIMATORS[0]:
            raise SettingError(
                f"pooled with estimator {estimator!r}: expected {ESTIMATORS[0]!r}, which averages before it divides"
            )
        self._total = total_effect(tree)["corrupted"]
        self._by, self.root = "", without(root_of(tree), "draw")
        self._gone: tuple[str, ...] = ("draw",)
        if pooled and "example" in self._total.dims:
            self._gone, new = ("draw", "example"), dict[str, Any]()
            self._group, self._groups = np.zeros(self._total.sizes["example"], np.intp), 1
            if isinstance(pooled, str):
                self._by = pooled
                self._group, self._groups, new = groups_of(self.root, pooled)
            self.root = without(self.root, *self._gone).assign_coords(new)

    def coords(self, node: xr.Dataset | Any) -> dict[Any, xr.DataArray]:
        """The coordinates of a node that are left."""
        return {name: coord for name, coord in node.coords.items() if not {*self._gone} & {*coord.dims}}

    def of(self, effect: xr.DataArray, variable: str) -> xr.DataArray:
        """Relevance by one variable, of its indirect effect."""
        total, limit = self._total[variable], self._limits[variable]
        if "draw" not in effect.dims:  # averaged by the user
            effect, total = (values.expand_dims("draw", axis=-1) for values in (effect, total))
        own = self._estimator == ESTIMATORS[0]
        found = xr.apply_ufunc(
            paired_means if own else mean_of_ratios,
            effect,
            total,
            input_core_dims=[["draw"], ["draw"]],
            output_core_dims=[[], []] if own else [[]],
        )
        if own:
            found = (self._pooled(mean) for mean in found) if "example" in self._gone else found
            found = xr.apply_ufunc(ratio, *found, kwargs={"threshold": limit})
        told: dict[str, Any] = {
            "long_name": f"relevance by {spoken(variable)}",
            "units": "1",
            "estimator": self._estimator,
        }
        told |= {"threshold": limit} if own else {}
        return cast(xr.DataArray, found).astype(effect.dtype).assign_attrs(effect.attrs | told)

    def _pooled(self, mean: xr.DataArray) -> xr.DataArray:
        inner = [dim for dim in mean.dims if dim != "example"]
        numbers = group_intervals(mean.transpose("example", *inner).values, self._group, self._groups)[0]
        dims = [dim if dim != "example" else self._by for dim in mean.dims if self._by or dim != "example"]
        coords = self.coords(mean)
        if not self._by:
            return xr.DataArray(numbers[0], coords, inner)
        return xr.DataArray(numbers, coords | {self._by: self.root[self._by]}, [self._by, *inner]).transpose(*dims)
