"""circuit_trace: how much of the answer a circuit carries on its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
import xarray as xr

from nnblip import results
from nnblip.errors import SettingError, told, whole
from nnblip.examples import Example, ExampleLike
from nnblip.model import BlipVQA, as_model
from nnblip.noise import NoiseLike, described
from nnblip.passes import engine
from nnblip.passes.circuit import run_circuits, score_edges
from nnblip.passes.measure import Asked, Ready, stack
from nnblip.passes.settings import AUTO, Settings
from nnblip.paths import Edge
from nnblip.sites import Extent
from nnblip.tracing import provenance
from nnblip.tracing.readings import Node, Reading, tree_of
from nnblip.tracing.requests import Request, each

#: A circuit: its edges, or what makes them of an example's sizes, as a family of `nnblip.sites` does.
CircuitLike = Iterable[Edge] | Callable[[Extent], Sequence[Edge]]
NODE = "circuits"
#: So many circuits run at once: each has its own keys for every reader.
AT_ONCE = 16


def circuit_trace(
    model: BlipVQA,
    examples: Iterable[ExampleLike] | Example,
    circuits: Mapping[str, CircuitLike],
    nu: float | Sequence[float] = Settings.nu,
    draws: int = 10,
    noise: NoiseLike = Settings.noise,
    *,
    seed: int = Settings.seed,
    direction: str = "denoising",
    rival: str | int | None = Settings.rival,
    progress: bool | None = None,
) -> xr.DataTree:
    """Run circuits: the edges of each as in the clean run, all other edges as in the corrupted run.

    Where `causal_trace(cells=edges(...))` asks what one edge does if all that follows goes on, this asks what a set
    of edges does if only they carry anything (`nnblip.passes.circuit` says how it is computed). The relevance of a
    circuit is its *faithfulness* (m(C) - m(none)) / (m(all) - m(none)): `nnblip.relevance(tree)["circuits"]`. Its
    edges lie between whole sublayers, and from patches or regions of the image.

    Args:
        model: a `BlipVQA` without edits, here and not on a server.
        examples: as for `causal_trace`.
        circuits: edges of each circuit by its name, for all examples; or a function of an example's `Extent`.
        nu, draws, noise, seed, rival, progress: as for `causal_trace`.
        direction: "denoising", or "noising": a circuit's edges as where the image is damaged, all others as
            in the clean run, which asks what is lost without the circuit.

    Returns:
        A tree with `/clean`, `/corrupted` and `/circuits` (example, nu, draw, circuit), with the three variables of
        every result, and `edges` (example, circuit), how many a circuit has.

    Raises:
        SiteError: for an edge that the model has not, or from or to a head.
        NnblipError: for another bad setting or example, with its number.
    """
    model = _with_weights(model)
    if not isinstance(circuits, Mapping) or not circuits:
        raise SettingError(f"circuits {told(circuits)}: expected edges by the name of each circuit")
    kept = {str(name): one if callable(one) else tuple(one) for name, one in circuits.items()}
    settings = Settings.of(nu=nu, draws=draws, noise=noise, seed=seed, direction=direction, rival=rival)
    if settings.draws == AUTO:
        raise SettingError(f"draws {AUTO!r}: circuits have no maps; expected how many, a whole number")
    found = each(examples, settings, partial(_request, model, settings, kept), progress, False)
    attrs = provenance.attributes(
        model, noise=described(settings.noise), seed=settings.seed, draws=settings.draws, direction=settings.direction
    )
    tree = tree_of(found, attrs)
    coords = {"nu": list(settings.nu), "draw": np.arange(settings.most_draws)}
    nodes = {
        "/" if path == "." else path: data.assign_coords({name: coords[name] for name in coords if name in data.dims})
        for path, data in ((path, node.to_dataset(inherit=False)) for path, node in tree.subtree_with_keys)
    }
    nodes["/"] = nodes["/"].assign_coords(coords)
    nodes[NODE] = nodes[NODE].assign_coords(circuit=list(kept))
    return xr.DataTree.from_dict(nodes)


def circuit_scores(
    model: BlipVQA,
    examples: Iterable[ExampleLike] | Example,
    edges: Sequence[Edge],
    nu: float = 5.0,
    draws: int = 10,
    noise: NoiseLike = Settings.noise,
    *,
    steps: int = 8,
    seed: int = Settings.seed,
    rival: str | int | None = Settings.rival,
    progress: bool | None = None,
) -> xr.DataArray:
    """How much of the logit difference each edge of a circuit brings, by integrated gradients over the edges.

    All edges of the circuit go together from as in the corrupted run to as in the clean run, so the scores add up to
    what the circuit brings back, as far as the integral is exact. To search with; check by `circuit_trace`.

    Args:
        model: a `BlipVQA` without edits, here and not on a server.
        examples, nu, draws, noise, seed, rival, progress: as for `causal_trace`, of one ν.
        edges: the circuit, as for `circuit_trace`, the same for all examples, whose tokens then are aligned.
        steps: gradients on the way.

    Returns:
        (example, edge): means over the draws, with the texts of the edges.

    Raises:
        SiteError: for an edge that an example has not, or from or to a head.
        NnblipError: for another bad setting or example, with its number.
    """
    model = _with_weights(model)
    settings = Settings.of(nu=nu, draws=draws, noise=noise, seed=seed, rival=rival)
    if settings.draws == AUTO or len(settings.nu) > 1:
        raise SettingError(f"nu {told(nu)}, draws {told(draws)}: expected one ν, and how many draws")
    steps, edges = whole(steps, "steps", 1), list(edges)
    if not edges:
        raise SettingError("edges []: expected the edges of a circuit")

    def begin(example: Example, tick: Callable[[], object]) -> Request[tuple[str, np.ndarray]]:
        asked = Asked.of(model, example, settings)

        def here() -> tuple[str, np.ndarray]:
            ready = Ready.of(model, asked, settings)
            for edge in edges:
                edge.check(ready.extent)

            def number(logits: Any) -> Any:
                return logits[:, 0, ready.answer_ids[0]] - logits[:, 0, ready.rival]

            found = []
            for draw in range(settings.most_draws):
                damaged, _ = engine.run_alone(model, ready.noisy(model, settings, [(draw, settings.nu[0])]))
                found.append(score_edges(model, edges, damaged, ready.clean, number, steps).cpu().numpy())
                tick()
            return example.id or asked.encoded.key[:12], np.mean(found, axis=0)

        return Request(here, lambda got: got)

    every = each(examples, settings, begin, progress, False)
    coords = {"example": [name for name, _ in every], "edge": [str(edge) for edge in edges]}
    return xr.DataArray(np.stack([one for _, one in every]), coords, ("example", "edge"), "score")


def _request(
    model: BlipVQA, settings: Settings, circuits: Mapping[str, Any], example: Example, tick: Callable[[], object]
) -> Request[Reading]:
    asked = Asked.of(model, example, settings)

    def here() -> Reading:
        ready = Ready.of(model, asked, settings)
        every = {name: list(one(ready.extent)) if callable(one) else list(one) for name, one in circuits.items()}
        edges = list(dict.fromkeys(edge for one in every.values() for edge in one))
        for edge in edges:
            edge.check(ready.extent)
        number = {edge: place for place, edge in enumerate(edges)}
        member = torch.zeros(len(every), len(edges), dtype=torch.bool, device=model._module.device)
        for row, one in enumerate(every.values()):
            member[row, [number[edge] for edge in one]] = True
        clean = stack(ready.clean_outcome)[:, 0]
        corrupted = np.empty((3, len(settings.nu), settings.most_draws), clean.dtype)
        kept = np.empty((*corrupted.shape, len(every)), clean.dtype)
        for draw, (level, nu) in product(range(settings.most_draws), enumerate(settings.nu)):
            damaged, logits = engine.run_alone(model, ready.noisy(model, settings, [(draw, nu)]))
            corrupted[:, level, draw] = _numbers(model, ready, logits)[:, 0]
            base, donor = (damaged, ready.clean) if settings.direction == "denoising" else (ready.clean, damaged)
            for first in range(0, len(member), AT_ONCE):
                some = slice(first, first + AT_ONCE)
                with torch.no_grad():
                    logits = run_circuits(model, edges, member[some], base, donor)
                kept[:, level, draw, some] = _numbers(model, ready, logits)
            tick()
        nodes = {
            "clean": _node(clean, ()),
            "corrupted": _node(corrupted, ("nu", "draw")),
            NODE: _node(kept, ("nu", "draw", "circuit"), edges=(("circuit",), [len(one) for one in every.values()])),
        }
        return Reading.of(model, example, asked.encoded, ready.answer_ids, ready.predicted, nodes)

    return Request(here, lambda found: found)


def _with_weights(model: Any) -> BlipVQA:
    model = as_model(model)
    if model.remote:
        raise SettingError("circuits run here only: expected a model with its weights, remote=False")
    return model


def _numbers(model: BlipVQA, ready: Ready, logits: Any) -> np.ndarray:
    return stack(model.task.outcome(logits, ready.answer_ids, ready.rival))


def _node(numbers: np.ndarray, dims: tuple[str, ...], **more: tuple[tuple[str, ...], Any]) -> Node:
    return Node({**{name: (dims, numbers[k]) for k, name in enumerate(results.VARIABLES)}, **more}, {}, {})
