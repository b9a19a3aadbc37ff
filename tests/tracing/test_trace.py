"""causal_trace against the oracle and against exact identities."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from importlib.metadata import version

import numpy as np
import pytest
import torch
import xarray as xr
from helpers.cells import agree, numbers
from helpers.scenes import VISIBLE, Truth, question_of, visible
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import nnblip
from nnblip.results import VARIABLES
from nnblip.sites import TEXT_COMPONENTS, WHOLE_KINDS, Site

TYPES = ("color", "object", "number", "location")


@pytest.mark.slow
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    index=st.integers(0, 300),
    kind=st.sampled_from(TYPES),
    nu=st.sampled_from([2.0, 5.0]),  # at 10, float32 itself is no better than 1e-4
    seed=st.integers(0, 3),
    cells=st.lists(
        st.tuples(st.sampled_from(TEXT_COMPONENTS), st.sampled_from(WHOLE_KINDS), st.integers(0, 5), st.integers(0, 8)),
        min_size=6,
        max_size=6,
    ),
)
def test_random_cells_of_random_scenes_agree_with_the_oracle(model, index, kind, nu, seed, cells):
    pair = question_of(index, kind)
    assume(pair is not None)
    truth = Truth(model, *pair)
    noisy = truth.noisy(nu, seed, draw=1)
    corrupted = truth.restored(noisy)
    assume(truth.clean.probability - corrupted.probability >= VISIBLE)
    tree = nnblip.causal_trace(model, [pair], nu=nu, draws=2, seed=seed, kinds=WHOLE_KINDS, max_rows=200)
    agree(numbers(tree, "clean"), truth.clean)
    agree(numbers(tree, "corrupted", nu=nu, draw=1), corrupted)
    for component, state, layer, token in cells:
        token = token % tree[component].sizes["token"]
        expected = truth.restored(noisy, Site(component, state, layer=layer, token=token))
        agree(numbers(tree, component, nu=nu, draw=1, kind=state, layer=layer, token=token), expected)


def test_an_answer_of_two_words_counts_as_their_joint_probability(model):
    for start in range(0, 400, 10):
        image, question, truth = visible(model, start=start)
        if len(truth.answer) == 2:
            break
    assert len(truth.answer) == 2, "the bundled model has two-word colors"
    tree = nnblip.causal_trace(model, [(image, question)], draws=1)
    assert tree["answer_decoder"].sizes["token"] == 2
    assert list(tree["answer_decoder"].token_text.values[0]) == ["[DEC]", tree.answer.item().split()[0]]
    for name, label in (("question_encoder", "question_tokens"), ("answer_decoder", "answer_tokens")):
        assert tree[label].item().split(" ") == tree[name].token_text.values[0].tolist()
    noisy = truth.noisy(5.0)
    for layer in range(6):
        for token in range(2):
            expected = truth.restored(noisy, Site("answer_decoder", layer=layer, token=token))
            agree(numbers(tree, "answer_decoder", nu=5, draw=0, kind="block", layer=layer, token=token), expected)


def test_the_last_layer_of_the_decoder_gives_the_clean_answer_back(model):
    image, question, truth = visible(model, kind="location")
    assert len(truth.answer) == 1
    tree = nnblip.causal_trace(model, [(image, question)], draws=2)
    last = tree["answer_decoder"].probability.isel(layer=-1, token=0, kind=0).values
    assert last == pytest.approx(np.full(last.shape, truth.clean.probability), abs=1e-6)


def test_the_numbers_of_a_float64_model_are_float64(model):
    image, question, _ = visible(model)
    wide = nnblip.BlipVQA(dtype="float64")
    truth = Truth(wide, image, question)
    cells = [[Site("question_encoder", layer=2, token=1), Site("answer_decoder", layer=3)]]
    tree = nnblip.causal_trace(wide, [(image, question)], nu=[0, 5], draws=2, kinds=["block"], cells=cells)
    for node in tree.children.values():
        for name in VARIABLES:
            assert node[name].dtype == np.float64
    unit = nnblip.noise.unit_noise(nnblip.noise.Multiplicative(), tuple(truth.embeds.shape), 0, truth.encoded.key, 1)
    noisy = truth.embeds * (1 + 5.0 * unit.double())
    expected = {"clean": truth.clean, "corrupted": truth.restored(noisy), "cells": truth.restored(noisy, *cells[0])}
    assert expected["clean"].probability - expected["corrupted"].probability >= VISIBLE
    for node, outcome in expected.items():
        at = tree[node].to_dataset() if node == "clean" else tree[node].to_dataset().sel(nu=5, draw=1)
        found = [at[name].item() for name in VARIABLES]
        assert found == pytest.approx(list(outcome), abs=1e-10), "float32 would differ by 1e-6"
    assert (abs(tree["corrupted"].probability.sel(nu=0) - tree["clean"].probability) < 1e-13).all()
    guess = nnblip.attribution_trace(wide, [(image, question)], draws=1, sample=2)
    assert guess["corrupted"].probability.dtype == np.float64


def test_without_noise_every_cell_is_clean(model):
    image, question, truth = visible(model)
    tree = nnblip.causal_trace(model, [(image, question)], nu=0, draws=1, kinds=WHOLE_KINDS)
    for node in ("corrupted", *TEXT_COMPONENTS):
        assert (tree[node].probability == tree["clean"].probability).all()
    assert float(tree["clean"].probability[0]) == pytest.approx(truth.clean.probability, abs=1e-6)


@pytest.fixture
def altered(model):
    """A model of its own to change, loaded once more."""
    return nnblip.BlipVQA()


def test_with_cross_attention_off_below_a_layer_every_effect_below_it_is_zero(altered):
    first = 3
    for layer in altered._module.text_encoder.encoder.layer[:first]:
        torch.nn.init.zeros_(layer.crossattention.output.dense.weight)
        torch.nn.init.zeros_(layer.crossattention.output.dense.bias)
    image, question, _ = visible(altered)
    tree = nnblip.causal_trace(altered, [(image, question)], draws=3)
    effect = abs(nnblip.indirect_effect(tree)["question_encoder"].probability)
    assert effect.sel(layer=slice(first, None)).max() > 0.01
    assert effect.sel(layer=slice(0, first - 1)).max() == 0


def test_states_that_never_saw_the_image_are_restored_to_what_they_were(altered):
    """The exact side of the identity above: as a single row, the difference is 0.0."""
    for layer in altered._module.text_encoder.encoder.layer[:3]:
        torch.nn.init.zeros_(layer.crossattention.output.dense.weight)
    image, question, _ = visible(altered)
    with altered.clean(image, question) as clean:
        pass
    with altered.corrupt(clean, nu=5.0) as corrupted:
        pass
    with altered.corrupt(clean, nu=5.0, restore=Site("question_encoder", layer=2, token=4)) as run:
        pass
    assert clean.probability - corrupted.probability > VISIBLE
    assert run.probability == corrupted.probability


@pytest.mark.slow
def test_where_one_token_alone_reads_the_image_only_that_token_is_relevant(altered):
    reader, at = 7, 2

    def only_the_reader(layer):
        def hook(_module, _inputs, output):
            output = output.clone()
            output[:, [t for t in range(output.shape[1]) if layer != at or t != reader]] = 0
            return output

        return hook

    for number, layer in enumerate(altered._module.text_encoder.encoder.layer):
        layer.crossattention.output.dense.register_forward_hook(only_the_reader(number))
    shown = 0
    for index in range(20):
        if (pair := question_of(index, "color")) is None:
            continue
        tree = nnblip.causal_trace(altered, [pair], draws=2)
        effect = abs(nnblip.indirect_effect(tree)["question_encoder"].probability.sel(layer=at))
        others = effect.drop_sel(token=reader).max()
        assert others == 0
        shown = max(shown, float(effect.sel(token=reader).max()))
    assert shown > 0.05


@pytest.mark.slow
def test_examples_of_different_lengths_are_each_as_if_alone(model):
    pairs = [visible(model, kind=kind)[:2] for kind in TYPES]
    together = nnblip.causal_trace(model, pairs, draws=2)
    lengths = set()
    for number, pair in enumerate(pairs):
        alone = nnblip.causal_trace(model, [pair], draws=2)
        for node in ("clean", "corrupted", *TEXT_COMPONENTS):
            for name in VARIABLES:
                one = alone[node][name].isel(example=0)
                same = together[node][name].isel(example=number)
                if "token" in one.dims:
                    padding = same.isel(token=slice(one.sizes["token"], None))
                    assert np.isnan(padding.values).all()
                    same = same.isel(token=slice(0, one.sizes["token"]))
                np.testing.assert_array_equal(one.values, same.values)
        lengths.add(alone["question_encoder"].sizes["token"])
    assert len(lengths) > 1


@pytest.mark.slow
def test_the_same_settings_give_the_same_bits_in_any_order(model):
    pairs = [visible(model, kind=kind)[:2] for kind in ("color", "location")]
    first = nnblip.causal_trace(model, pairs, nu=[1, 5], draws=2, seed=4)
    again = nnblip.causal_trace(model, pairs[::-1], nu=[1, 5], draws=2, seed=4)
    for node in ("clean", "corrupted", *TEXT_COMPONENTS):
        xr.testing.assert_identical(
            first[node].to_dataset().sel(example=first.example).drop_attrs(),
            again[node].to_dataset().sel(example=first.example).drop_attrs(),
        )
    other = nnblip.causal_trace(model, pairs, nu=[1, 5], draws=2, seed=5)
    assert (other["corrupted"].probability != first["corrupted"].probability).any()


@pytest.mark.slow
@pytest.mark.parametrize(("max_rows", "kinds"), [(2, ("block",)), (7, ("block", "mlp_out")), (50, WHOLE_KINDS)])
def test_fewer_rows_in_a_pass_change_nothing(model, max_rows, kinds):
    image, question, _ = visible(model)
    whole = nnblip.causal_trace(model, [(image, question)], draws=1, kinds=kinds, max_rows=None)
    parts = nnblip.causal_trace(model, [(image, question)], draws=1, kinds=kinds, max_rows=max_rows)
    for component in TEXT_COMPONENTS:
        difference = abs(whole[component].probability - parts[component].probability)
        assert difference.max() <= 1e-6


@pytest.mark.parametrize("noise", ["additive", "uniform", "scale"])
def test_other_noises_agree_with_the_oracle(model, noise):
    image, question, _ = visible(model)
    truth = Truth(model, image, question)
    kind = nnblip.noise.get_noise(noise)
    nu = 8.0
    tree = nnblip.causal_trace(model, [(image, question)], nu=nu, draws=1, noise=noise)
    unit = nnblip.noise.unit_noise(kind, tuple(truth.embeds.shape), 0, truth.encoded.key, 0)
    noisy = truth.embeds * 0.7691**nu if noise == "scale" else truth.embeds + nu * truth.embeds.std() * unit
    expected = truth.restored(noisy, Site("question_encoder", layer=4, token=2))
    agree(numbers(tree, "question_encoder", layer=4, token=2, nu=nu, draw=0, kind="block"), expected)


def test_an_answer_that_is_given_is_traced_instead_of_the_models_own(model):
    image, question, truth = visible(model)
    own = model.text(truth.answer)
    given_answer = next(color for color in ("red", "purple", "white") if color != own)
    tree = nnblip.causal_trace(model, [(image, question, given_answer)], draws=1)
    assert (tree.answer.item(), tree.predicted.item()) == (given_answer, own)
    with model.clean(image, question, answer=given_answer) as clean:
        pass
    assert float(tree["clean"].probability[0]) == pytest.approx(clean.probability, abs=1e-6)
    assert clean.probability < truth.clean.probability


def test_where_the_numbers_come_from_is_in_the_attributes(model):
    image, question, _ = visible(model)
    attrs = nnblip.causal_trace(model, [(image, question)], draws=1, seed=9).attrs
    assert attrs["model"] == "nnblip-demo" and attrs["seed"] == 9 and attrs["dtype"] == "float32"
    assert attrs["version_transformers"] == version("transformers") and "Multiplicative" in attrs["noise"]
    assert datetime.fromisoformat(attrs["created"]) <= datetime.now(UTC)


GOOD = {"nu": 5.0, "draws": 1}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"nu": -1}, "nu -1"),
        ({"nu": float("nan")}, "nu nan"),
        ({"nu": "five"}, "nu 'five'"),
        ({"nu": []}, "nu"),
        ({"nu": [5, 5]}, "different"),
        ({"draws": 0}, "draws 0"),
        ({"draws": 1.5}, "draws 1.5"),
        ({"seed": -1}, "seed -1"),
        ({"noise": "multiplicativ"}, "did you mean 'multiplicative'"),
        ({"kinds": ["blok"]}, "did you mean 'block'"),
        ({"components": ["question_encodr"]}, "did you mean 'question_encoder'"),
        ({"max_rows": 1}, "max_rows 1"),
    ],
)
def test_bad_settings_are_refused_with_what_would_be_right(model, wrong, says):
    pair = question_of(0, "number")
    with pytest.raises(nnblip.NnblipError) as caught:
        nnblip.causal_trace(model, [pair], **(GOOD | wrong))
    assert says in str(caught.value)


@pytest.mark.parametrize("examples", [[], "scene.png", 3, [("only one",)], [(1, 2, 3, 4)]])
def test_bad_examples_are_refused(model, examples):
    with pytest.raises(nnblip.NnblipError):
        nnblip.causal_trace(model, examples, **GOOD)


def test_a_bad_example_is_named_by_its_number(model, tmp_path):
    good = question_of(0, "number")
    with pytest.raises(nnblip.NnblipError, match=r"example 1: image .*missing\.png"):
        nnblip.causal_trace(model, [good, (tmp_path / "missing.png", "what is this")], **GOOD)


def test_the_model_is_left_as_it_was(model):
    pair = question_of(0, "number")
    before = copy.deepcopy(model._module.state_dict())
    hooks = sum(len(m._forward_hooks) for m in model._module.modules())
    nnblip.causal_trace(model, [pair], **GOOD)
    assert all(torch.equal(before[name], value) for name, value in model._module.state_dict().items())
    assert sum(len(m._forward_hooks) for m in model._module.modules()) == hooks
