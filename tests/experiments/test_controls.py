"""Random weights and other states, against plain PyTorch hooks."""

from dataclasses import replace

import numpy as np
import oracle
import pytest
import torch
from helpers.scenes import VISIBLE, Truth, question_of

import nnblip
from nnblip.errors import SettingError
from nnblip.experiments import controls
from nnblip.experiments.numbers import share
from nnblip.sites import Site

NOISE = dict(nu=5.0, draws=2, seed=0)


@pytest.fixture(scope="module")
def two(model):
    """Two questions of as many tokens about different pictures, of which noise changes the answers."""
    found = []
    for index in range(40):
        asked = question_of(index, "color")
        if asked is None:
            continue
        truth = Truth(model, *asked)
        total = truth.clean.probability - oracle.restored(
            truth.module, truth.noisy(5.0), truth.ids, truth.answer, truth.rival, truth.states, []
        ).probability  # fmt: skip
        if total >= VISIBLE and all(truth.ids.shape == one[1].ids.shape for one in found):
            found.append((nnblip.Example(*asked, id=str(index)), truth))
        if len(found) == 2:
            return found
    raise AssertionError("no two questions of one length")


def effects_by_hand(truth, donor, draw):
    """Of each block of the question encoder the probability with the donor's state there."""
    layers, tokens = 6, truth.ids.shape[1]
    noisy, found = truth.noisy(5.0, 0, draw), np.empty((layers, tokens))
    states = {**truth.states, **donor}
    for layer in range(layers):
        for token in range(tokens):
            site = Site("question_encoder", "block", layer, token)
            put = oracle.restored(truth.module, noisy, truth.ids, truth.answer, truth.rival, states, [site])
            found[layer, token] = put.probability
    return found


@pytest.mark.slow
def test_states_of_another_example_are_put_in(model, two):
    (example, truth), (other, others) = two
    tree = controls.trace_with(model, example, "example", other, **NOISE)
    found = (
        tree["question_encoder"].probability.isel(example=0, nu=0, kind=0).transpose("draw", "layer", "token").values
    )
    donor = {key: state for key, state in others.states.items() if key[0] == "question_encoder"}
    expected = np.stack([effects_by_hand(truth, donor, draw) for draw in range(2)])
    corrupted = tree["corrupted"].probability.values.reshape(2, 1, 1)
    assert np.abs(expected - corrupted).max() > VISIBLE, "another example's states do something"
    np.testing.assert_allclose(found, expected, atol=1e-4)
    own = nnblip.causal_trace(model, [example], progress=False, **NOISE)
    np.testing.assert_allclose(tree["clean"].probability, own["clean"].probability, atol=1e-6)
    np.testing.assert_allclose(tree["corrupted"].probability, own["corrupted"].probability, atol=1e-5)
    assert np.abs(own["question_encoder"].probability.values - tree["question_encoder"].probability.values).max() > 0.1


@pytest.mark.slow
def test_states_of_another_word_are_the_same_question_s_turned(model, two):
    example, truth = two[0]
    tree = controls.trace_with(model, example, "token", **NOISE)
    found = tree["question_encoder"].probability.isel(example=0, nu=0, draw=0, kind=0).values
    tokens, fits = truth.ids.shape[1], []
    for turn in range(tokens):
        last = truth.states["question_encoder", "block", 5].roll(turn, 1)
        site = Site("question_encoder", "block", 5, tokens - 1)
        put = oracle.restored(
            truth.module, truth.noisy(5.0), truth.ids, truth.answer, truth.rival,
            {**truth.states, ("question_encoder", "block", 5): last}, [site],
        )  # fmt: skip
        fits.append(abs(put.probability - found[5, tokens - 1]) < 1e-4)
    assert any(fits[1:]), "one turn explains it, and not none"


def test_random_states_have_each_token_s_mean_and_spread():
    state = torch.randn(1, 5, 4096) * torch.arange(1.0, 6.0)[:, None] + torch.arange(5.0)[:, None]
    found = controls._like(state, np.random.default_rng(0))
    assert abs(found.mean(-1) - state.mean(-1)).max() < 0.3 and abs(found.std(-1) / state.std(-1) - 1).max() < 0.05
    assert abs(np.corrcoef(found[0, 0], state[0, 0])[0, 1]) < 0.05


@pytest.mark.slow
def test_random_weights_show_an_effect_and_are_drawn_anew(model, two):
    example, torch_state = two[0][0], torch.random.get_rng_state()
    before = {name: weight.clone() for name, weight in model._module.named_parameters()}
    made = controls.scrambled(model, example, 0, **NOISE)
    assert made is not None and torch.equal(torch.random.get_rng_state(), torch_state)
    other, chosen = made
    weights = dict(other._module.named_parameters())
    assert chosen["scale"] in controls.SCALES and chosen["tried"] >= 1
    assert all(torch.equal(before[name], weight) for name, weight in model._module.named_parameters())
    name = "text_encoder.encoder.layer.2.crossattention.self.key.weight"
    assert float(weights[name].detach().std()) == pytest.approx(chosen["scale"], rel=0.05)
    assert abs(np.corrcoef(weights[name].detach().ravel(), before[name].detach().ravel())[0, 1]) < 0.05
    assert torch.equal(weights[name.replace("self.key.weight", "output.LayerNorm.weight")], torch.ones(128))

    tree = nnblip.causal_trace(other, [replace(example, answer=None)], progress=False, **NOISE)
    assert float(nnblip.total_effect(tree)["corrupted"].probability.mean()) >= controls.LEAST
    encoded = other.encode(example)
    embeds = oracle.image_embeds(other._module, encoded.pixel_values)
    logits = oracle.run(other._module, embeds, encoded.input_ids, [0])[0, 0].clone()
    logits[other.config.text_config.sep_token_id] = -torch.inf
    assert other.own_answer(encoded, None) == [int(logits.argmax())]


def test_random_weights_that_show_nothing_are_none(model, two, monkeypatch):
    monkeypatch.setattr(controls, "SCALES", (1e-6,))
    monkeypatch.setattr(controls, "TRIES", 1)
    assert controls.scrambled(model, two[0][0], 0, **NOISE) is None


def test_a_partner_has_as_many_tokens_and_another_answer():
    every = [nnblip.Example("x.png", "q", answer, id=name) for name, answer in zip("abcd", "1121", strict=True)]
    tokens = {"a": 7, "b": 7, "c": 7, "d": 8}
    assert [getattr(controls.partner_of(one, every, tokens), "id", None) for one in every] == ["c", "c", "a", None]


def test_what_needs_weights_is_refused_on_a_server(there):
    with pytest.raises(SettingError, match="bypass_controls with --remote: its controls need"):
        controls.require_here(there, "bypass_controls")


def test_a_share_is_a_ratio_of_sums():
    import xarray as xr

    rng = np.random.default_rng(0)
    whole = xr.DataArray(rng.uniform(0.1, 0.5, 40), dims="example")
    part = 0.3 * whole + xr.DataArray(rng.normal(0, 0.01, 40), dims="example")
    found = share(part, whole)
    assert found.value == pytest.approx(float(part.sum() / whole.sum())) and found.units == 40
    assert found.low < 0.3 < found.high and found.high - found.low < 0.05
    assert share(part, whole, 0.999).high > found.high
    lacking = part.copy()
    lacking[3] = np.nan
    known = np.arange(40) != 3
    assert share(lacking, whole).value == pytest.approx(float(part[known].sum() / whole[known].sum()))
    assert np.isnan(share(part, -whole).value) and "whole below" in share(part, -whole).reason
    assert "too few" in share(part[:5], whole[:5]).reason
    assert str(share(part * np.nan, whole)) == "none (no numbers)"
