"""Gradients of an example's numbers: what `attribution_trace` runs where the model is, here or on a server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from nnblip.blip.network import Blip
from nnblip.passes import engine
from nnblip.passes.engine import Forward
from nnblip.passes.measure import Asked, Measured, Ready, check_room, stack
from nnblip.passes.plan import make_plans
from nnblip.passes.settings import Settings
from nnblip.passes.states import States, skip_vision
from nnblip.sites import HEAD_KINDS, KINDS, Cell


@dataclass(frozen=True)
class Estimated:
    """The numbers of an example, the restored ones estimated.

    Attributes:
        measured: as of a trace; its `restored` are the corrupted values plus estimated effects.
        pairs: (nu, draw, 2, sample): exact and estimated effects on the probability of the sampled cells.
    """

    measured: Measured
    pairs: np.ndarray


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
    check_room(settings, len(ready.cells))
    cells, shape = ready.cells, (len(settings.nu), settings.draws)
    corrupted, restored = np.empty((3, *shape), np.float32), np.empty((3, *shape, len(cells)), np.float32)
    pairs = np.empty((*shape, 2, min(sample, len(cells))))
    for draw in range(settings.draws):
        for level, nu in enumerate(settings.nu):
            noisy = ready.noisy(model, settings, nu, draw)
            states, logits = engine.run_alone(model, noisy)
            corrupted[:, level, draw] = stack(model.task.outcome(logits, ready.answer_ids, ready.rival))[:, 0]
            towards = ready.forward.image - noisy.image
            gradients = [
                _gradients(model, replace(noisy, image=noisy.image + k / steps * towards), ready.rival)
                for k in range(steps)
            ]
            change = {key: ready.clean[key] - states[key] for key in states}
            change["image_encoder", "block", ready.extent.image_layers - 1] = towards
            effect = np.array([[_sum(cell, change, g, model) for cell in cells] for g in zip(*gradients, strict=True)])
            restored[:, level, draw] = corrupted[:, level, draw, None] + effect
            # a generator of its own for each, so that the sample does not depend on what came before
            rng = np.random.default_rng([settings.seed, int(ready.encoded.key[:8], 16), draw, level])
            chosen = rng.permutation(len(cells))[:sample]
            exact = _exact(model, ready, noisy, [cells[i] for i in chosen])
            pairs[level, draw] = exact - corrupted[0, level, draw], effect[0, chosen]
            tick()
    clean = stack(ready.clean_outcome)[:, 0]
    return Estimated(Measured(ready.answer_ids, ready.predicted, ready.rival, clean, corrupted, restored), pairs)


def _exact(model: Blip, ready: Ready, noisy: Forward, cells: Sequence[Cell]) -> np.ndarray:
    """The probability with each cell restored."""
    (plan,) = make_plans(cells, ready.extent.layers, least=engine.least_rows(ready.extent))
    rows = engine.run_plan(model, noisy, ready.rival, ready.clean, plan).probability
    exact = np.empty(len(cells))
    for row, cell in enumerate(plan.cells):
        if cell is not None:
            exact[cell] = rows[row]
    return exact


def _gradients(model: Blip, forward: Forward, rival: int) -> list[dict[tuple[str, str, int], Tensor]]:
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
    model: Blip,
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
