"""Circuits against planted ones: the search and the pruning end on exactly what is planted."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import xarray as xr

import nnblip
from nnblip.experiments import index
from nnblip.plants.wiring import SIDE, TOKENS

index.load("mechanisms")
MECHANISMS = sys.modules["nnblip_experiment_mechanisms"]


@pytest.fixture
def coarse(monkeypatch):
    """Fewer sizes and steps: the weights of plants are exact."""
    monkeypatch.setattr(MECHANISMS, "SHARES", (100, 10, 1, 0.2))
    monkeypatch.setattr(MECHANISMS, "STEPS", 2)


def found_in(kind: str, seed: int = 1):
    """A plant, all edges between its whole sublayers and from every patch, the circuit that is found, and who asked."""
    plant = nnblip.planted(kind, seed, examples=1, dtype="float64")
    edges = MECHANISMS.universe(plant.model.extent(TOKENS, 1), SIDE)
    asker = MECHANISMS.Asker(plant.model, 1.0, 1, "swap", 0)
    nested = asker.search(plant.examples, edges, MECHANISMS.sizes_of(len(edges)))
    chosen = MECHANISMS.circuit_of(asker, plant.examples, edges, nested)
    return plant, edges, {edges[place] for place in chosen}, asker


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["head", "edge", "and"])
def test_the_circuit_is_exactly_the_planted_one(kind, coarse):
    plant, edges, circuit, _ = found_in(kind)
    assert circuit == set(edges) & set(plant.edges) and len(circuit) >= 2


@pytest.mark.slow
def test_of_two_ways_either_of_which_suffices_one_is_enough(coarse):
    plant, edges, circuit, asker = found_in("or")
    planted = set(edges) & set(plant.edges)
    assert circuit < planted
    other = [number for number, edge in enumerate(edges) if edge in planted - circuit]
    every = [number for number, edge in enumerate(edges) if edge in planted]
    kept = asker.faithfulness(plant.examples, edges, [[n for n in every if edges[n] in circuit], every, other])
    assert kept == pytest.approx([1, 1, 0], abs=1e-6)


@pytest.mark.slow
def test_without_the_planted_circuit_nothing_is_left(coarse):
    plant, edges, circuit, asker = found_in("head")
    chosen = [number for number, edge in enumerate(edges) if edge in circuit]
    found = asker.left(plant.examples, edges, [chosen], noising=True)
    assert float(found["all"].min()) > 1 and found["left"].values == pytest.approx(0, abs=1e-6)


def test_areas_are_those_of_the_curve(monkeypatch):
    monkeypatch.setattr(MECHANISMS, "SHARES", (100, 50, 10))
    cpr, cmd = MECHANISMS.areas(np.array([1.0, 1.2, 0.5]))
    assert cpr == pytest.approx(0.1 * 0.25 + 0.4 * 0.85 + 0.5 * 1.1)
    # MIB takes the size of the distance to 1 at the sizes, and trapezoids between them
    assert cmd == pytest.approx(0.1 * 0.75 + 0.4 * 0.35 + 0.5 * 0.1)


def test_why_there_is_no_small_circuit_is_said_by_numbers():
    rng = np.random.default_rng(0)
    whole = rng.uniform(4, 6, 12)
    curve = {100: 1.0, 60: 0.95, 40: 0.3, 5: 0.1, 2: 0.12, 1: 0.05}
    data = xr.Dataset(
        {
            "all": ("example", whole),
            "left": (("example", "share"), np.outer(whole, list(curve.values())) + rng.normal(0, 0.001, (12, 6))),
            "member": ("edge", np.arange(1000) < 150),
        },
        {"share": list(curve)},
    )
    told = MECHANISMS.lacking(data, 0.95)
    assert "The most that one of them brings back is +0.12" in told and "(of 2 %)" in told
    assert told.endswith("the smallest that is faithful has 60 % of the edges; pruning from there leaves 15.0 %.")
    data["left"] = data["left"].where(data.share != 5, data["all"])
    assert MECHANISMS.lacking(data, 0.95) == ""
