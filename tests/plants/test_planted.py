"""Planted models: their truth tried out one state, one edge and one cut at a time, by plain hooks in float64."""

from __future__ import annotations

import numpy as np
import oracle
import oracle_edges
import pytest
from helpers.plants import Bare, parted

import nnblip
from nnblip import sites
from nnblip.edges import EDGES
from nnblip.errors import NnblipError
from nnblip.noise import corrupt, get_noise, unit_noise
from nnblip.plants.kinds import KINDS

CHAINS = ("layer", "head", "patch", "edge", "distractor")
#: Seeds with which "edge" is each of its four inputs.
INPUTS = {"key": 0, "value": 2, "mlp": 3, "query": 4}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_the_total_effect_is_large(kind, seed):
    plant = nnblip.planted(kind, seed, examples=2)
    for example in plant.examples:
        clean, other = (plant.model.answer(image, example.question) for image in (example.image, example.partner))
        assert (clean.text, other.text) == KINDS[kind].answers
        assert min(clean.probability, other.probability) > 0.85


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("seed", "direction"), [(0, "denoising"), (1, "noising")])
def test_every_state_alone(kind, seed, direction):
    bare = Bare(kind, seed)
    effects = bare.states(direction)
    assert parted(effects) == bare.plant.shown(direction).sites
    for site in bare.plant.sites:
        bare.extent.check(site)
    others = [site for site in effects if site.component == "image_encoder" and site not in bare.plant.sites]
    assert not all(map(bare.alike, others)), "other patches have other colours too"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "direction"),
    [
        ("layer", "denoising"), ("distractor", "noising"), ("and", "denoising"), ("and", "noising"),
        ("or", "denoising"), ("or", "noising"), ("backup", "denoising"), ("backup", "noising"),
    ],
)  # fmt: skip
def test_edges_alone(kind, direction):
    edges_of(Bare(kind, 0), direction)


@pytest.mark.slow
@pytest.mark.parametrize("seed", INPUTS.values(), ids=INPUTS)
def test_edges_alone_of_each_input(seed):
    edges_of(Bare("edge", seed), "denoising")


def edges_of(bare, direction):
    """Those of the plant, and some more of those that could do something; `test_maps.py` has all of them, together."""
    heads = ("attention_head", "crossattention_head", "mlp_out")
    rng = np.random.default_rng(0)
    more = [edge for edge in [*bare.every_edge(), *bare.every_edge(heads)] if not all(map(bare.alike, edge.sender))]
    some = [more[k] for k in rng.permutation(len(more))[:400]]
    every = dict.fromkeys([*bare.plant.edges, *some])
    assert parted(bare.edges(direction, every)) == bare.plant.shown(direction).edges
    for edge in bare.plant.edges:
        edge.check(bare.extent)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_cut_alone(kind):
    bare = Bare(kind, 1)
    planted = {site.token for site in bare.plant.sites if site.component == "image_encoder"}
    rest = [patch for patch in range(1, 17) if patch not in planted]
    patches = {"[CLS]": 0, "rest": rest, **{str(patch): patch for patch in planted}}
    every = [
        cell
        for edges in EDGES
        for cell in sites.knock_outs(edges, patches if edges == "image_to_question" else "each", "each")(bare.extent)
    ]
    assert parted(bare.cuts(every)) == bare.plant.shown("cutting").knock_outs


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in CHAINS if kind != "edge"])
def test_the_planted_cuts_cut_by_mean_too(kind):
    bare = Bare(kind, 2)
    assert max(bare.cuts(bare.plant.shown("cutting").knock_outs, "mean").values()) < -0.05


def test_and_needs_both_ways_and_or_needs_one():
    for kind, alone in (("and", False), ("or", True)):
        bare = Bare(kind, 4)
        first, second = ([s for s in bare.plant.legs[leg].sites if s.kind == "crossattention_out"]
                         for leg in ("first", "second"))  # fmt: skip
        assert len(first) == len(second) == 1
        effects = [
            oracle.restored(
                bare.module, bare.swapped.embeds, bare.ids, bare.answer, bare.rival, bare.clean.states, cell
            ).probability
            for cell in (first, second, first + second)
        ]
        assert [effect > 0.9 for effect in effects] == [alone, alone, True]
        assert effects[2] == pytest.approx(bare.outcome(bare.clean).probability, abs=1e-9)


def test_a_backup_is_heard_where_the_first_way_is_cut():
    bare = Bare("backup", 3)
    clean = bare.outcome(bare.clean).log_probability
    both = []
    for leg in ("main", "backup"):
        first, *_ = (cut for cut in bare.plant.legs[leg].knock_outs if cut.edges == "question_to_question")
        both.append(first)
        assert abs(bare.cuts([first])[first]) < 1e-9
    (one, other) = both
    assert (one.layers, one.target) == (other.layers, other.target)
    hook = oracle.cut(*EDGES[one.edges], one.layers[0], {*one.source, *other.source}, set(one.target))
    with oracle.without(bare.module, hook):
        logits = oracle.run(bare.module, bare.clean.embeds, bare.ids, bare.answer)
    assert oracle.outcome(logits, bare.answer, bare.rival).probability == pytest.approx(0.5, abs=1e-6)
    assert clean > -0.1


def test_a_distractor_is_looked_at_and_the_planted_patch_is_not():
    bare = Bare("distractor", 5)
    weights = []
    handles = [
        layer.crossattention.self.register_forward_hook(lambda module, args, output: weights.append(output[1][0]))
        for layer in bare.module.text_encoder.encoder.layer
    ]
    oracle.run(bare.module, bare.clean.embeds, bare.ids, bare.answer)
    for handle in handles:
        handle.remove()
    looked = sum(one.mean((0, 1)) for one in weights) / len(weights)
    patch = next(site.token for site in bare.plant.sites if site.component == "image_encoder")
    assert float(looked.max()) > 0.9 and int(looked.argmax()) != patch and float(looked[patch]) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("kind", CHAINS)
@pytest.mark.parametrize("noise", ["multiplicative", "additive", "mean"])
def test_with_other_noises_what_has_no_effect_still_has_none(kind, noise):
    bare = Bare(kind, 6)
    found = get_noise(noise)
    unit = unit_noise(found, tuple(bare.clean.embeds.shape), 0, "key", 0).double()
    noisy = corrupt(found, bare.clean.embeds, unit, 1.0)
    bare.swapped = oracle_edges.record(bare.module, noisy, bare.ids, bare.answer)
    start, seen = bare.outcome(bare.swapped).log_probability, bare.plant.shown("denoising").sites
    for component in sites.TEXT_COMPONENTS:
        for (site,) in sites.heatmap(bare.extent, component, sites.WHOLE_KINDS):
            if site in seen or bare.alike(site):
                continue
            put = oracle.restored(
                bare.module, noisy, bare.ids, bare.answer, bare.rival, bare.clean.states, [site]
            ).log_probability
            assert abs(put - start) < 1e-9, site


def test_a_seed_gives_the_same_plant_and_another_seed_another():
    one, same, other = (nnblip.planted("head", seed, examples=1) for seed in (7, 7, 8))
    assert one.edges == same.edges != other.edges
    states = [plant.model._module.state_dict() for plant in (one, same, other)]
    assert all((states[0][name] == states[1][name]).all() for name in states[0])
    assert any((states[0][name] != states[2][name]).any() for name in states[0])
    assert (one.examples[0].image == same.examples[0].image).all()


def test_places_vary_with_the_seed():
    plants = [nnblip.planted("layer", seed, examples=1) for seed in range(12)]
    cuts = [plant.legs["main"].knock_outs[0] for plant in plants]
    assert len({cut.layers for cut in cuts}) > 2 and len({cut.source for cut in cuts}) > 5
    assert len({cut.target for cut in cuts}) > 3


def test_a_plant_is_traced_like_any_model():
    plant = nnblip.planted("patch", 3, examples=1)
    result = nnblip.causal_trace(plant.model, plant.examples, noise="swap", nu=1, draws=1, kinds=["block"])
    found = nnblip.indirect_effect(result)["question_encoder"].probability.isel(example=0, nu=0, draw=0, kind=0)
    shown = plant.shown("denoising").sites
    blocks = {(s.layer, s.token) for s in shown if (s.component, s.kind) == ("question_encoder", "block")}
    for layer in range(4):
        for token in range(7):
            effect = float(found.sel(layer=layer, token=token))
            assert effect > 0.5 if (layer, token) in blocks else abs(effect) < 1e-5


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("layers",), "did you mean 'layer'"),
        (("head", -1), "seed -1: expected a whole number"),
        (("head", 0, 0), "examples 0: expected a whole number of at least 1"),
        (("head", 0, 1, "int8"), "dtype 'int8'"),
    ],
)
def test_plants_that_there_are_not_are_refused(arguments, says):
    with pytest.raises(NnblipError, match=says):
        nnblip.planted(*arguments)
    with pytest.raises(NnblipError, match="direction 'restoring' is unknown"):
        nnblip.planted("layer", examples=1).shown("restoring")
