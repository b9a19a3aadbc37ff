"""Gradients of an example's numbers: what `attribution_trace` runs where the model is, here or on a server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nnblip.blip.network import Blip
from nnblip.blip.outcome import wide
from nnblip.errors import SettingError
from nnblip.passes import engine
from nnblip.passes.engine import Forward
from nnblip.passes.measure import Asked, Measured, Ready, check_room, stack
from nnblip.passes.plan import make_plans
from nnblip.passes.room import least_rows
from nnblip.passes.sending import send
from nnblip.passes.settings import Settings
from nnblip.passes.sharing import Seen
from nnblip.passes.states import States, skip_vision
from nnblip.paths import Edge
from nnblip.sites import HEAD_KINDS, KINDS, KNOCK_OUTS_NODE, Cell

#: So many edges are sent along at a time.
AT_A_TIME = 1000
#: By (component, kind, layer), as `States`.
Gradient = dict[tuple[str, str, int], Tensor]


@dataclass(frozen=True)
class Estimated:
    """The numbers of an example, the restored ones estimated.

    Attributes:
        measured: as of a trace; its `restored` are the corrupted values plus estimated effects.
        pairs: (nu, draw, 2, sample): exact and estimated effects on the probability of the sampled cells.
        summed: (3, nu, draw): estimated effects of all image embeddings together, which exact integrals make the
            total effect.
    """

    measured: Measured
    pairs: np.ndarray
    summed: np.ndarray


def estimate(
    model: Blip,
    settings: Settings,
    asked: Asked,
    steps: int,
    sample: int,
    tick: Callable[[], object] = lambda: None,
) -> Estimated:
    """All numbers of one example; `tick` is called for each (draw, ν). Raises `NnblipError` for what cannot be traced.

    Args:
        steps: runs over which the gradient is averaged.
        sample: how many random cells of each (ν, draw) are also traced exactly.
    """
    ready = Ready.of(model, asked, settings)
    if KNOCK_OUTS_NODE in ready.nodes:
        raise SettingError("estimates are of states and edges: trace knock-outs with nnblip.causal_trace, in one pass")
    cells, shape = [*ready.cells, *ready.edges], (len(settings.nu), settings.most_draws)
    check_room(settings, len(cells))
    clean = stack(ready.clean_outcome)[:, 0]
    corrupted, restored = np.empty((3, *shape), clean.dtype), np.empty((3, *shape, len(cells)), clean.dtype)
    damage = np.empty((2, *shape), np.float32)
    summed, (places, weights) = np.empty((3, *shape)), quadrature(steps)
    pairs = np.empty((*shape, 2, min(sample, len(cells))))
    for draw in range(settings.most_draws):
        for level, nu in enumerate(settings.nu):
            noisy = ready.noisy(model, settings, [(draw, nu)])
            seen = Seen()
            states, logits = engine.run_alone(model, noisy, seen)
            damage[:, level, draw] = ready.damage(seen)[:, 0]
            corrupted[:, level, draw] = stack(model.task.outcome(logits, ready.answer_ids, ready.rival))[:, 0]
            towards = ready.forward.image - noisy.image
            gradients = [
                _gradients(model, replace(noisy, image=noisy.image + float(place) * towards), ready.rival)
                for place in places
            ]
            image = "image_encoder", "block", ready.extent.image_layers - 1
            change = {key: ready.clean[key] - states[key] for key in states} | {image: towards}
            slopes = [_mean(each, weights) for each in zip(*gradients, strict=True)]
            effect = np.array([[_sum(cell, change, slope, model) for cell in ready.cells] for slope in slopes])
            effect = np.concatenate([effect, _along(model, ready, states, slopes)], 1)
            summed[:, level, draw] = [float((towards.double() * slope[image]).sum()) for slope in slopes]
            restored[:, level, draw] = corrupted[:, level, draw, None] + effect
            # a generator of its own for each, so that the sample does not depend on what came before
            rng = np.random.default_rng([settings.seed, int(ready.encoded.key[:8], 16), draw, level])
            chosen = rng.permutation(len(cells))[:sample].tolist()
            exact = _exact(model, ready, noisy, chosen, states)
            pairs[level, draw] = exact - corrupted[0, level, draw], effect[0, chosen]
            tick()
    measured = Measured(
        ready.answer_ids, ready.predicted, ready.rival, clean, corrupted, restored, damage, np.empty((3, 0))
    )
    return Estimated(measured, pairs, summed)


def gauss(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Places from 0 to 1 and their weights, for a mean along the way: Gauss and Legendre's rule."""
    places, weights = np.polynomial.legendre.leggauss(steps)
    return (1 + places) / 2, weights / 2


def quadrature(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Where on the way from corrupted (0) to clean (1) the gradient is taken, and with which weights it is averaged.

    One step is attribution patching, which takes it in the corrupted run. Several are Gauss and Legendre's rule, which
    is exact for the integral of any polynomial of degree 2 · steps − 1.
    """
    return (np.zeros(1), np.ones(1)) if steps == 1 else gauss(steps)


def _along(
    model: Blip, ready: Ready, states: States, slopes: Sequence[Gradient]
) -> Float[np.ndarray, "number edge"]:  # fmt: skip
    """(sent − corrupted) · gradient of what each edge's receiver adds."""
    found = np.empty((len(slopes), len(ready.edges)))
    for start in range(0, len(ready.edges), AT_A_TIME):
        edges = dict(enumerate(ready.edges[start : start + AT_A_TIME], start))
        for number, added in send(model, edges, states, ready.clean).items():
            site = edges[number].lands
            key = site.component, site.kind, site.layer
            change = (added[0] - states[key][0, site.token]).double()
            found[:, number] = [float(change @ slope[key][0, site.token].double()) for slope in slopes]
    return found


def _exact(model: Blip, ready: Ready, noisy: Forward, chosen: Sequence[int], states: States) -> np.ndarray:
    """The probability with each of the chosen cells restored, or edge made clean; edges are counted after the cells."""
    every: list[Cell | Edge] = [*ready.cells, *ready.edges]
    count, exact = len(ready.cells), np.empty(len(chosen))
    for of_edges in (False, True):
        places = [place for place, one in enumerate(chosen) if (one >= count) is of_edges]
        if not places:
            continue
        cells = [every[chosen[place]] for place in places]
        edges = {number: cell for number, cell in enumerate(cells) if isinstance(cell, Edge)}
        donor = send(model, edges, states, ready.clean) if of_edges else ready.clean
        (plan,) = make_plans(cells, ready.extent.layers, least=least_rows(ready.extent))
        rows = engine.run_plan(model, noisy, ready.rival, donor, plan).probability
        for row, cell in enumerate(plan.cells):
            if cell is not None:
                exact[places[cell]] = rows[row]
    return exact


def _gradients(model: Blip, forward: Forward, rival: int) -> list[Gradient]:
    """Gradients of the three numbers (in the order of `results.VARIABLES`) with respect to every state."""
    states, answer_ids = States(), forward.answer_ids
    embeds = forward.image.detach().requires_grad_()
    with torch.enable_grad(), model.trace(**model.forward_inputs(forward.encoded, answer_ids), use_cache=False):
        skip_vision(model, embeds)
        for component in model.task.text_components:
            # before the first cross-attention no state depends on the image, and a server's weights need no gradient
            first = getattr(model, component).layer[0]
            first.input = first.input.detach().requires_grad_()
            for layer in range(model.config.text_config.num_hidden_layers):
                for kind in KINDS:
                    states[component, kind, layer] = model.read_state(component, kind, layer)
        logits = model.task.logits(model).save()
    states["image_encoder", "block", model.config.vision_config.num_hidden_layers - 1] = embeds
    with torch.enable_grad():
        first = wide(logits)
        chosen = first[0].gather(1, torch.tensor(list(answer_ids), device=logits.device)[:, None])[:, 0]
        log_probability = (chosen - first[0].logsumexp(-1)).sum()
        numbers = (log_probability.exp(), log_probability, chosen[0] - first[0, 0, rival])
        keys = list(states)
        return [
            dict(zip(keys, torch.autograd.grad(number, [states[key] for key in keys], retain_graph=True), strict=True))
            for number in numbers
        ]


def _mean(gradients: Sequence[Gradient], weights: np.ndarray) -> Gradient:
    """Their weighted mean, in float64."""
    pairs = list(zip(gradients, map(float, weights), strict=True))
    return {key: torch.stack([weight * one[key].double() for one, weight in pairs]).sum(0) for key in gradients[0]}


def _sum(cell: Cell, change: Gradient, slope: Gradient, model: Blip) -> float:
    """(clean − corrupted) · gradient, summed over the sites of a cell."""
    heads, total = model.config.text_config.num_attention_heads, 0.0
    for site in cell:
        key = (site.component, site.kind, site.layer)
        parts = [values[key][0, site.token].double() for values in (change, slope)]
        if site.kind in HEAD_KINDS:
            parts = [part.unflatten(-1, (heads, -1))[site.head] for part in parts]
        total += float(parts[0] @ parts[1])
    return total
