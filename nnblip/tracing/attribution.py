"""attribution_trace: the effect of every cell estimated from gradients, to search with.

Attribution patching (Nanda 2023; Syed et al. 2310.10348): the effect of restoring a state
is estimated as (clean − corrupted) · gradient of the outcome with respect to the state in
the corrupted run. With m steps the gradient is averaged over m runs whose image embeddings
lie between corrupted and clean (integrated gradients, as in EAP-IG, Hanna et al. 2403.17806),
at the places and with the weights of Gauss and Legendre. It has false negatives (Kramár et
al. 2403.00745), so its rank correlation with exact cells is always measured beside it. What
runs where the model is: `nnblip.passes.gradients`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np
import xarray as xr
from scipy.stats import spearmanr

from nnblip import results
from nnblip.errors import SettingError, whole
from nnblip.examples import Example, ExampleLike
from nnblip.model import BlipVQA, as_model
from nnblip.noise import NoiseLike, described
from nnblip.passes.gradients import Estimated, estimate
from nnblip.passes.measure import Asked
from nnblip.passes.settings import AUTO, Settings
from nnblip.remote import errand
from nnblip.sites import CellsLike
from nnblip.tracing import provenance
from nnblip.tracing.labels import labelled, result_of
from nnblip.tracing.requests import Request, each, sending


def attribution_trace(
    model: BlipVQA,
    examples: Iterable[ExampleLike] | Example,
    nu: float | Sequence[float] = Settings.nu,
    draws: int | str = Settings.draws,
    noise: NoiseLike = Settings.noise,
    *,
    steps: int = 1,
    sample: int = 30,
    seed: int = Settings.seed,
    kinds: Sequence[str] | None = None,
    components: Sequence[str] = Settings.components,
    cells: CellsLike | None = Settings.cells,
    regions: int | tuple[int, int] | None = Settings.regions,
    rival: str | int | None = Settings.rival,
    progress: bool | None = None,
    remote: bool | None = None,
    timeout: float | None = None,
) -> xr.DataTree:
    """Estimate the effect of restoring every cell from `steps` forward and backward passes.

    Args:
        model, examples, nu, draws, noise, seed, kinds, components, cells, regions, rival, progress, remote,
        timeout:
            as for `causal_trace`. Cells of several sites get the sum over their sites; an edge the gradient times the
            change of what its receiver adds, which is computed exactly.
        steps: 1 for attribution patching, more for integrated gradients.
        sample: how many random cells of each (example, ν, draw) are also traced exactly.

    Returns:
        The tree of `causal_trace`, of which `/clean` and `/corrupted` are exact and the
        restored nodes hold the corrupted value plus the estimated effect, with a coordinate
        `method`; probabilities are not clipped to [0, 1]. A node `/check` has
        `rank_correlation` (example, nu, draw), Spearman's between estimated and exact effects
        on probability of the sampled cells, NaN where either is constant; and `summed_effect`
        beside `total_effect` (example, nu, draw, variable): what is estimated for all image
        embeddings together, and what that is exactly (completeness, Sundararajan et al.
        1703.01365). Where they differ much, take more steps.

    Raises:
        NnblipError: for a bad setting or example, with its number.
        RemoteError: for any fault of the server.
    """
    model = as_model(model).at(remote)
    steps, sample = whole(steps, "steps", 1), whole(sample, "sample", 2)
    settings = Settings.of(
        nu=nu, draws=draws, noise=noise, seed=seed, kinds=kinds, components=components, cells=cells, regions=regions,
        rival=rival, max_rows=None,
    )  # fmt: skip
    if settings.draws == AUTO:
        raise SettingError(f"draws {AUTO!r}: estimates are to search with; expected how many, a whole number")
    begin = partial(_request, model, settings, steps, sample, timeout)
    found = each(examples, settings, begin, progress, model.remote)
    traced, correlations, summed = zip(*found, strict=True)
    method = "attribution" if steps == 1 else f"integrated gradients, {steps} steps"
    attrs = provenance.attributes(
        model, noise=described(settings.noise), seed=settings.seed, draws=settings.draws, roles=repr(settings.roles)
    )
    tree = result_of(model, settings, traced, attrs | {"method": method})
    dims = ("example", "nu", "draw")
    exact = np.stack([one.clean[:, None, None] - one.corrupted for one in traced])
    check = xr.Dataset(
        {
            "rank_correlation": (dims, np.stack(correlations)),
            "summed_effect": ((dims[0], "variable", *dims[1:]), np.stack(summed)),
            "total_effect": ((dims[0], "variable", *dims[1:]), exact),
        },
        {"variable": list(results.VARIABLES)},
    ).transpose(*dims, "variable")
    check.rank_correlation.attrs["long_name"] = f"Spearman's correlation with {sample} exact cells"
    check.summed_effect.attrs["long_name"] = "estimated effect of all image embeddings"
    nodes = {path: node.to_dataset(inherit=False) for path, node in tree.subtree_with_keys}
    for name in nodes.keys() - {".", "clean", "corrupted"}:
        nodes[name] = nodes[name].assign_coords(method=method)
    return xr.DataTree.from_dict(
        {"/" if path == "." else path: node for path, node in nodes.items()} | {"/check": check}
    )


def _request(
    model: BlipVQA, settings: Settings, steps: int, sample: int, timeout: float | None,
    example: Example, tick: Callable[[], object],
) -> Request[tuple[results.Traced, np.ndarray, np.ndarray]]:  # fmt: skip
    """What gives the numbers of an example, (nu, draw) rank correlations, and (3, nu, draw) summed effects."""
    asked = Asked.of(model, example, settings)

    def result(found: Estimated) -> tuple[results.Traced, np.ndarray, np.ndarray]:
        correlation = np.array([[_correlation(*pair) for pair in draws] for draws in found.pairs])
        return labelled(model, example, settings, asked.encoded, found.measured), correlation, found.summed

    if not model.remote:
        return Request(partial(estimate, model, settings, asked, steps, sample, tick), result)
    ask = sending(model, "estimates", settings.sent(), [asked], steps, sample, timeout=timeout)
    return Request(ask, lambda answers: result(errand.estimated(answers[0])))


def _correlation(exact: np.ndarray, estimate: np.ndarray) -> float:
    """Spearman's; NaN where either is constant."""
    known = all(len(x) > 1 and np.ptp(x) > 0 for x in (exact, estimate))
    return float(spearmanr(exact, estimate).statistic) if known else np.nan
