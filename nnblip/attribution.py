"""attribution_trace: the effect of every cell estimated from gradients, to search with.

Attribution patching (Nanda 2023; Syed et al. 2310.10348): the effect of restoring a state
is estimated as (clean − corrupted) · gradient of the outcome with respect to the state in
the corrupted run. With m steps the gradient is averaged over m runs whose image embeddings
lie evenly between corrupted and clean (integrated gradients, as in EAP-IG, Hanna et al.
2403.17806). It has false negatives (Kramár et al. 2403.00745), so its rank correlation with
exact cells is always measured beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from scipy.stats import spearmanr
from torch import Tensor

from nnblip import engine, provenance, results
from nnblip.engine import Forward
from nnblip.errors import whole
from nnblip.inputs import Example
from nnblip.interventions import States, skip_vision
from nnblip.measure import Asked, Measured, Ready, stack
from nnblip.noise import Noise
from nnblip.outcome import outcome_of
from nnblip.plan import make_plans
from nnblip.request import each, labelled
from nnblip.settings import Settings
from nnblip.sites import HEAD_KINDS, KINDS, TEXT_COMPONENTS, Cell

if TYPE_CHECKING:
    from nnblip.model import BlipVQA


def attribution_trace(
    model: BlipVQA,
    examples: Iterable[Any],
    nu: float | Sequence[float] = 5.0,
    draws: int = 10,
    noise: str | Noise = "multiplicative",
    *,
    steps: int = 1,
    sample: int = 30,
    seed: int = 0,
    kinds: Sequence[str] | None = None,
    components: Sequence[str] = TEXT_COMPONENTS,
    cells: Any = None,
    regions: int | tuple[int, int] | None = None,
    progress: bool | None = None,
) -> xr.DataTree:
    """Estimate the effect of restoring every cell from `steps` forward and backward passes.

    Args:
        model, examples, nu, draws, noise, seed, kinds, components, cells, regions, progress: as for
            `causal_trace`. Cells of several sites get the sum over their sites.
        steps: 1 for attribution patching, more for integrated gradients.
        sample: how many random cells of each (example, ν, draw) are also traced exactly.

    Returns:
        The tree of `causal_trace`, of which `/clean` and `/corrupted` are exact and the
        restored nodes hold the corrupted value plus the estimated effect, with a coordinate
        `method`; probabilities are not clipped to [0, 1]. A node `/check` has
        `rank_correlation` (example, nu, draw), Spearman's between estimated and exact effects
        on probability of the sampled cells, NaN where either is constant.

    Raises:
        NnblipError: for a bad setting or example, with its number.
    """
    model.require_weights("attribution_trace")
    steps, sample = whole(steps, "steps", 1), whole(sample, "sample", 2)
    settings = Settings.of(nu, draws, noise, seed, kinds, components, cells, "denoising", (), None, regions=regions)
    correlations: list[np.ndarray] = []

    def one(example: Example, tick: Any) -> results.Traced:
        traced, correlation = _example(model, example, settings, steps, sample, tick)
        correlations.append(correlation)
        return traced

    traced = each(examples, settings, one, progress)
    method = "attribution" if steps == 1 else f"integrated gradients, {steps} steps"
    attrs = provenance.attributes(
        model, noise=repr(settings.noise), seed=settings.seed, draws=settings.draws, roles=repr(settings.roles)
    )
    tree = results.build(traced, settings.nu, settings.draws, settings.kinds, attrs | {"method": method})
    check = xr.Dataset({"rank_correlation": (("example", "nu", "draw"), np.stack(correlations))})
    check.rank_correlation.attrs["long_name"] = f"Spearman's correlation with {sample} exact cells"
    nodes = {path: node.to_dataset(inherit=False) for path, node in tree.subtree_with_keys}
    for name in nodes.keys() - {".", "clean", "corrupted"}:
        nodes[name] = nodes[name].assign_coords(method=method)
    return xr.DataTree.from_dict(
        {"/" if path == "." else path: node for path, node in nodes.items()} | {"/check": check}
    )


def _example(
    model: BlipVQA, example: Example, settings: Settings, steps: int, sample: int, tick: Any
) -> tuple[results.Traced, np.ndarray]:
    asked = Asked.of(model, example, settings)
    ready = Ready.of(model, asked, settings)
    shape = (len(settings.nu), settings.draws)
    corrupted, restored = np.empty((3, *shape), np.float32), np.empty((3, *shape, len(ready.cells)), np.float32)
    correlation = np.empty(shape)
    for draw in range(settings.draws):
        for level, nu in enumerate(settings.nu):
            noisy = ready.noisy(model, settings, nu, draw)
            states, logits = engine.run_alone(model, noisy)
            corrupted[:, level, draw] = stack(outcome_of(logits, ready.answer_ids, ready.rival))[:, 0]
            towards = ready.forward.image - noisy.image
            gradients = [
                _gradients(model, replace(noisy, image=noisy.image + k / steps * towards), ready.rival)
                for k in range(steps)
            ]
            change = {key: ready.clean[key] - states[key] for key in states}
            change["image_encoder", "block", ready.extent.image_layers - 1] = towards
            effect = np.array(
                [[_sum(cell, change, g, model) for cell in ready.cells] for g in zip(*gradients, strict=True)]
            )
            restored[:, level, draw] = corrupted[:, level, draw, None] + effect
            # a generator of its own for each, so that the sample does not depend on what came before
            rng = np.random.default_rng([settings.seed, int(ready.encoded.key[:8], 16), draw, level])
            chosen = rng.permutation(len(ready.cells))[:sample]
            exact = _exact(model, ready, noisy, [ready.cells[i] for i in chosen])
            pair = exact - corrupted[0, level, draw], effect[0, chosen]
            known = all(len(x) > 1 and np.ptp(x) > 0 for x in pair)
            correlation[level, draw] = spearmanr(*pair).statistic if known else np.nan
            tick()
    found = Measured(
        ready.answer_ids, ready.predicted, ready.rival, stack(ready.clean_outcome)[:, 0], corrupted, restored
    )
    return labelled(model, example, settings, asked.encoded, found), correlation


def _exact(model: BlipVQA, ready: Ready, noisy: Forward, cells: Sequence[Cell]) -> np.ndarray:
    """The probability with each cell restored."""
    (plan,) = make_plans(cells, ready.extent.layers, least=engine.least_rows(ready.extent))
    rows = engine.run_plan(model, noisy, ready.rival, ready.clean, plan).probability
    exact = np.empty(len(cells))
    for row, cell in enumerate(plan.cells):
        if cell is not None:
            exact[cell] = rows[row]
    return exact


def _gradients(model: BlipVQA, forward: Forward, rival: int) -> list[dict[tuple[str, str, int], Tensor]]:
    """Gradients of the three numbers (in the order of `results.VARIABLES`) with respect to every state."""
    states, answer_ids = States(), forward.answer_ids
    embeds = forward.image.detach().requires_grad_()
    with torch.enable_grad(), model.trace(**model.forward_inputs(forward.encoded, answer_ids), use_cache=False):
        skip_vision(model, embeds)
        for component in TEXT_COMPONENTS:
            for layer in range(model.config.text_config.num_hidden_layers):
                for kind in KINDS:
                    states[component, kind, layer] = model.read_state(component, kind, layer)
        logits = model.text_decoder.output.logits.save()
    states["image_encoder", "block", model.config.vision_config.num_hidden_layers - 1] = embeds
    with torch.enable_grad():
        first = logits.float()
        chosen = first[0].gather(1, torch.tensor(list(answer_ids), device=logits.device)[:, None])[:, 0]
        log_probability = (chosen - first[0].logsumexp(-1)).sum()
        numbers = (log_probability.exp(), log_probability, chosen[0] - first[0, 0, rival])
        keys = list(states)
        return [
            dict(zip(keys, torch.autograd.grad(number, [states[key] for key in keys], retain_graph=True), strict=True))
            for number in numbers
        ]


def _sum(
    cell: Cell,
    change: dict[tuple[str, str, int], Tensor],
    gradients: Sequence[dict[tuple[str, str, int], Tensor]],
    model: BlipVQA,
) -> float:
    """(clean − corrupted) · gradient, averaged over the steps and summed over the sites of a cell."""
    heads, total = model.config.text_config.num_attention_heads, 0.0
    for site in cell:
        key = (site.component, site.kind, site.layer)
        parts = [change[key][0, site.token], *(g[key][0, site.token] for g in gradients)]
        if site.kind in HEAD_KINDS:
            parts = [part.unflatten(-1, (heads, -1))[site.head] for part in parts]
        moved, *slopes = (part.double() for part in parts)
        total += float(moved @ sum(slopes) / len(slopes))
    return total
