"""Maps of planted models, made by the engine: they show exactly the plant, and 0 everywhere else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from helpers.plants import parted

import nnblip
from nnblip import effects, sites
from nnblip.edges import EDGES
from nnblip.plants import Plant
from nnblip.plants.wiring import SIDE, TOKENS

WHOLE, HEADS = ("attention_out", "crossattention_out", "mlp_out"), ("attention_head", "crossattention_head", "mlp_out")
#: Kind and seeds; "edge" is a value, a query, a key and an MLP with these.
PLANTS = [
    *((kind, 1) for kind in ("layer", "head", "and", "or")),
    *(("edge", seed) for seed in (0, 2, 3, 4)),
]  # fmt: skip


def extent_of(plant: Plant) -> sites.Extent:
    return plant.model.extent(TOKENS, 1, "pixels")


def shown(plant: Plant, cells: Iterable[Any], direction: str = "denoising", number: int = 0) -> set[Any]:
    """The cells that have an effect in one trace of all of them; between that and none nothing may lie."""
    cells = list(cells)
    tree = nnblip.causal_trace(
        plant.model, plant.examples[number : number + 1], nu=1, draws=1, noise="swap", noise_at="pixels", cells=cells,
        direction=direction,
    )  # fmt: skip
    assert effects.total_effect(tree)["corrupted"].log_probability.item() > 1
    found = effects.knock_out_effect(tree) if "knock_outs" in tree.children else effects.indirect_effect(tree)
    nodes = [node for node in getattr(found, "children", {"": found}).values() if "log_probability" in node]
    (numbers,) = (node["log_probability"].values.reshape(len(cells)) for node in nodes)
    return parted({_plain(cell): float(effect) for cell, effect in zip(cells, numbers, strict=True)})


def _plain(cell: Any) -> Any:
    return cell[0] if isinstance(cell, tuple) else cell


def every_state(plant: Plant) -> list[Any]:
    extent = extent_of(plant)
    return [cell for name in sites.COMPONENTS for cell in sites.heatmap(extent, name, _kinds(name))]


def _kinds(component: str) -> tuple[str, ...]:
    return sites.IMAGE_KINDS if component == "image_encoder" else sites.KINDS


def every_edge(plant: Plant, kinds: tuple[str, ...]) -> list[sites.Edge]:
    """All edges between these kinds, and from every patch and every token's last block."""
    families = [sites.edges(kinds, name, (*kinds, "block"), regions=SIDE) for name in sites.TEXT_COMPONENTS]
    return [edge for family in families for edge in family(extent_of(plant))]


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize(("kind", "seed"), PLANTS)
def test_maps_of_states_and_edges_are_the_plant(kind, seed, direction):
    plant = nnblip.planted(kind, seed, examples=1, dtype="float64")
    expected = plant.shown(direction)
    assert shown(plant, every_state(plant), direction) == expected.sites
    heads = every_edge(plant, HEADS)
    some = [heads[number] for number in np.random.default_rng(seed).permutation(len(heads))[:500]]
    every = dict.fromkeys([*every_edge(plant, WHOLE), *plant.edges, *some])
    assert shown(plant, every, direction) == expected.edges


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "seed"), PLANTS)
def test_knock_out_maps_are_the_plant(kind, seed):
    plant = nnblip.planted(kind, seed, examples=1, dtype="float64")
    patches = {str(patch): [patch] for patch in range(1 + SIDE**2)}
    for edges in EDGES:
        sources = patches if edges == "image_to_question" else "each"
        cells = sites.knock_outs(edges, sources, "each")(extent_of(plant))
        assert shown(plant, cells) == {cut for cut in plant.shown("cutting").knock_outs if cut.edges == edges}


@pytest.mark.slow
def test_one_head_feeds_one_head():
    """Of all edges into all heads of the decoder's cross-attention none has an effect but from the planted head."""
    plant = nnblip.planted("head", 3, examples=1, dtype="float64")
    every = sites.edges("crossattention_head", senders=(*HEADS, "block"))(extent_of(plant))
    assert len(every) > 3_000
    expected = plant.shown("denoising").edges & set(every)
    assert len(expected) == 2  # the head, and the block that hands it over
    assert shown(plant, every) == expected


@pytest.mark.slow
def test_an_and_needs_both_edges_and_an_or_either():
    """What one edge of each leg does: noising shows an AND, denoising an OR; a cut shows an AND alone."""
    for kind, seen, unseen in (("and", "noising", "denoising"), ("or", "denoising", "noising")):
        plant = nnblip.planted(kind, 6, examples=2, dtype="float64")
        legs = [plant.legs[leg] for leg in ("first", "second")]
        edges = [edge for leg in legs for edge in leg.edges]
        cuts = [cut for leg in legs for cut in leg.knock_outs]
        for number in range(2):
            assert shown(plant, edges, seen, number) == set(edges)
            assert shown(plant, edges, unseen, number) == set()
            assert shown(plant, cuts, number=number) == (set(cuts) if kind == "and" else set())


@pytest.mark.slow
def test_a_token_reads_the_image_at_one_layer_and_wider_windows_hold_it():
    """float32, as users have it: the map has one source, target and layer; windows show it where they reach."""
    plant = nnblip.planted("layer", 2, examples=1)
    (cut,) = (one for one in plant.shown("cutting").knock_outs if one.edges == "image_to_question")
    source, target, (layer,) = str(cut.source[0]), str(cut.target[0]), cut.layers
    patches = {str(patch): [patch] for patch in range(1 + SIDE**2)}
    family = sites.knock_outs("image_to_question", patches, "each", (1, 2))
    tree = nnblip.causal_trace(plant.model, plant.examples[:1], nu=1, draws=1, noise="swap", cells=family)
    effect = effects.knock_out_effect(tree).probability.isel(example=0)
    there = (effect.source == source) & (effect.target == target)
    reach = (effect.layer <= layer) & (layer < effect.layer + effect.window)
    assert bool((effect.window == 1).any()) and bool((effect.window == 2).any())
    assert float(effect.where(there & reach, drop=True).min()) > 0.4
    assert float(abs(effect.where(~(there & reach), 0)).max()) < 1e-5
