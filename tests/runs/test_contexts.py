"""clean and corrupt: the two context managers."""

from __future__ import annotations

import re
from dataclasses import replace

import oracle
import pytest
import torch
from helpers.scenes import VISIBLE, Truth, question_of, visible

import nnblip
from nnblip.blip.description import parts
from nnblip.errors import SiteError
from nnblip.shown import number
from nnblip.sites import KINDS, TEXT_COMPONENTS, WHOLE_KINDS, Site


@pytest.fixture(scope="module")
def traced(model):
    image, question, truth = visible(model)
    with model.clean(image, question) as clean:
        pass
    return image, question, truth, clean


def test_clean_gives_the_answer_and_every_state(model, traced):
    _, question, truth, clean = traced
    assert clean.answer_ids == truth.answer and clean.answer == model.text(truth.answer)
    assert clean.tokens[1:-1] == tuple(question.split()) and clean.input_ids.shape == (1, len(clean.tokens))
    assert torch.equal(clean.image_embeds, truth.embeds)
    assert clean.probability == pytest.approx(truth.clean.probability, abs=1e-6)
    assert clean.log_probability == pytest.approx(truth.clean.log_probability, abs=1e-5)
    assert clean.logit_difference == pytest.approx(truth.clean.logit_difference, abs=1e-5)
    for component in TEXT_COMPONENTS:
        for kind in KINDS:
            for layer in range(6):
                torch.testing.assert_close(
                    clean.states[component, kind, layer], truth.states[component, kind, layer], atol=1e-6, rtol=0
                )


def test_the_body_reads_edits_and_saves(model, traced):
    image, question, _, clean = traced
    with model.clean(image, question) as again:
        patches = model.image_encoder.output.last_hidden_state.save()
        attention = model.question_encoder.layer[5].crossattention.output[0].save()
        model.answer_decoder.layer[5].output[:] = 0
    assert torch.equal(patches, clean.image_embeds)
    assert torch.equal(attention, clean.states["question_encoder", "crossattention", 5])
    assert again.probability != clean.probability
    assert not again.states["answer_decoder", "block", 5].any(), "states are those that the model went on with"


def test_corrupt_sees_the_noise_of_the_map(model, traced):
    image, question, truth, clean = traced
    tree = nnblip.causal_trace(model, [(image, question)], nu=[1, 5], draws=3, seed=2)
    for nu in (1, 5):
        for draw in range(3):
            with model.corrupt(clean, nu=nu, seed=2, draw=draw) as run:
                pass
            assert torch.equal(run.image_embeds, truth.noisy(nu, 2, draw))
            expected = tree["corrupted"].sel(nu=nu, draw=draw).isel(example=0)
            assert run.probability == pytest.approx(float(expected.probability), abs=1e-4)
            assert run.logit_difference == pytest.approx(float(expected.logit_difference), abs=1e-3)


@pytest.mark.parametrize("kind", WHOLE_KINDS)
@pytest.mark.parametrize("component", TEXT_COMPONENTS)
def test_a_named_site_is_the_hand_written_one_and_the_oracles(model, traced, component, kind):
    _, _, truth, clean = traced
    site = Site(component, kind, layer=3, token=0)
    with model.corrupt(clean, nu=5.0, restore=site) as named:
        pass
    with model.corrupt(clean, nu=5.0) as by_hand:
        state = model.read_state(component, kind, 3).clone()
        state[:, 0] = clean.states[component, kind, 3][:, 0]
        model.write_state(component, kind, 3, state)
    assert named.probability == by_hand.probability
    expected = truth.restored(truth.noisy(5.0), site)
    assert named.probability == pytest.approx(expected.probability, abs=1e-5)


def test_the_designs_own_example(model, traced):
    _, _, truth, clean = traced
    with model.corrupt(clean, nu=5.0, seed=0) as run:
        model.question_encoder.layer[3].output[:, 4] = clean.states["question_encoder", "block", 3][:, 4]
    expected = truth.restored(truth.noisy(5.0), Site("question_encoder", layer=3, token=4))
    assert run.probability == pytest.approx(expected.probability, abs=1e-5)


def test_all_tokens_of_the_last_question_layer_give_the_clean_answer_exactly(model, traced):
    _, _, _, clean = traced
    last = [Site("question_encoder", layer=5, token=t) for t in range(len(clean.tokens))]
    with model.corrupt(clean, nu=5.0) as corrupted:
        pass
    with model.corrupt(clean, nu=5.0, restore=last) as run:
        pass
    assert clean.probability - corrupted.probability >= VISIBLE
    assert run.probability == clean.probability and run.answer == clean.answer


def test_the_decoders_last_layer_gives_the_clean_answer_exactly(model, traced):
    _, _, _, clean = traced
    last = [Site("answer_decoder", layer=5, token=t) for t in range(len(clean.answer_ids))]
    with model.corrupt(clean, nu=5.0, restore=last) as run:
        pass
    assert run.probability == clean.probability


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["color", "number", "location"])
def test_a_corrupted_runs_answer_is_what_greedy_decoding_says(model, kind):
    differs = 0
    for index in range(25):
        if (pair := question_of(index, kind)) is None:
            continue
        truth = Truth(model, *pair)
        with model.clean(*pair) as clean:
            pass
        with model.corrupt(clean, nu=5.0) as run:
            pass
        expected = oracle.greedy_answer(model._module, truth.noisy(5.0), truth.ids)
        assert run.answer == model.text(expected)
        differs += run.answer != clean.answer
    assert differs, "noise changes some answers"


def test_numbers_are_refused_before_the_model_has_run(model, traced):
    image, question, _, _ = traced
    early = model.clean(image, question)
    with pytest.raises(nnblip.NnblipError, match="after its `with` block"):
        _ = early.probability
    with pytest.raises(nnblip.NnblipError, match="after its `with` block"):
        model.corrupt(early, nu=5.0)


def test_clean_of_another_model_is_refused(traced):
    *_, clean = traced
    with pytest.raises(nnblip.NnblipError, match="another model"):
        nnblip.BlipVQA().corrupt(clean, nu=5.0)


@pytest.mark.parametrize(
    ("site", "says"),
    [
        (Site("question_encoder", layer=6, token=0), "layer 6 of question_encoder: there are 6, 0 to 5"),
        (Site("question_encoder", layer=0, token=9), "token 9 of question_encoder: there are 9, 0 to 8"),
        (Site("answer_decoder", layer=0, token=4), "token 4 of answer_decoder"),
        (Site("image_encoder", layer=0, token=0), "image encoder"),
        ([], "empty"),
        ("block", "not a site"),
    ],
)
def test_sites_that_are_not_there_are_refused(model, traced, site, says):
    *_, clean = traced
    with pytest.raises(SiteError, match=says):
        model.corrupt(clean, nu=5.0, restore=site)


def test_states_name_what_there_is(traced):
    *_, clean = traced
    with pytest.raises(SiteError, match="did you mean 'question_encoder'"):
        clean.states["question_encode", "block", 0]
    with pytest.raises(SiteError, match="there are 6, 0 to 5"):
        clean.states["question_encoder", "block", 6]


@pytest.mark.parametrize("wrong", [{"nu": -1}, {"nu": "x"}, {"nu": 5, "noise": "white"}])
def test_bad_noise_is_refused(model, traced, wrong):
    *_, clean = traced
    with pytest.raises(nnblip.NnblipError):
        model.corrupt(clean, **wrong)


# --- words, and layers from the end -----------------------------------------------------------


def test_a_word_is_restored_as_its_position_is(model, traced):
    image, question, _, clean = traced
    word = next(token for token in clean.tokens[1:-1] if clean.tokens.count(token) == 1)
    place = clean.tokens.index(word)
    named = Site("question_encoder", "attention", -1, word)
    assert clean.resolve(named) == Site("question_encoder", "attention", 5, place)
    numbers = []
    for site in (named, Site("question_encoder", "attention", 5, place), None):
        with model.corrupt(clean, nu=5.0, restore=site) as run:
            pass
        numbers.append(run.log_probability)
    assert numbers[0] == numbers[1] != numbers[2]
    asked = dict(nu=5, draws=1, kinds=[], components=["question_encoder"])
    tree = nnblip.causal_trace(model, [(image, question)], cells=[named], **asked)
    same = nnblip.causal_trace(model, [(image, question)], cells=[clean.resolve(named)], **asked)
    assert tree["cells"].identical(same["cells"]) and tree["cells"].log_probability.item() == pytest.approx(
        numbers[0], abs=1e-4
    )


def test_a_word_of_several_pieces_is_all_of_them_here_and_one_site_nowhere(model, traced):
    _, _, _, clean = traced
    encoded = replace(clean.encoded, tokens=(*clean.tokens[:3], "giz", "##mo", *clean.tokens[5:]))
    with model.clean(encoded) as pieces:
        pass
    numbers = []
    for restore in (
        Site("question_encoder", layer=3, token="gizmo"),
        [Site("question_encoder", layer=3, token=k) for k in (3, 4)],
    ):
        with model.corrupt(pieces, nu=5.0, restore=restore) as run:
            pass
        numbers.append(run.log_probability)
    assert numbers[0] == numbers[1]
    with pytest.raises(SiteError, match="the word has 2 pieces, 3 'giz', 4 '##mo'"):
        pieces.resolve(Site("question_encoder", token="gizmo"))


def test_a_word_or_layer_that_is_not_there_is_refused_before_the_run(model, traced):
    _, _, _, clean = traced
    for site, said in (
        (Site("question_encoder", token="zebra"), f"token 'zebra' is not in the question '\\[CLS\\] {clean.tokens[1]}"),
        (Site("question_encoder", layer=-7), "layer -7 of question_encoder: there are 6, 0 to 5 or -6 to -1"),
    ):
        with pytest.raises(SiteError, match=said):
            model.corrupt(clean, nu=5.0, restore=site)
        with pytest.raises(SiteError, match=said):
            clean.resolve(site)


# --- what they say of themselves --------------------------------------------------------------


def test_runs_and_states_show_themselves(model, traced):
    image, question, _, clean = traced
    assert (
        repr(model.clean(image, question)) == f"<CleanRun>\n  question: {question}\n  numbers: after its `with` block"
    )
    site = Site("question_encoder", layer=-1, token=2)
    with model.corrupt(clean, nu=5.0, seed=3, draw=1, restore=site, freeze=["crossattention"]) as run:
        pass
    for shown in (repr(run), run._repr_html_()):
        for text in (
            question, clean.answer, number(run.probability), number(clean.probability), "Multiplicative()",
            "image_embeds", "seed", "3, draw 1", "question_encoder block layer 5 token 2",
            "question_encoder crossattention_out",
        ):  # fmt: skip
            assert text in shown, text
    for shown in (repr(clean), clean._repr_html_()):
        assert number(clean.probability) in shown and f"2:{clean.tokens[2]}" in shown
    for shown in (repr(clean.states), clean.states._repr_html_()):
        assert "0-5" in shown and f"(1, {len(clean.tokens)}, 512)" in shown and "mlp_activation" in shown
    encoded = replace(clean.encoded, question="<script>alert(1)</script>")
    assert "<script>" not in model.clean(encoded)._repr_html_()


def test_a_model_names_its_parts_as_they_are_typed(model, there):
    for shown in (repr(model), model._repr_html_()):
        for text in (
            "nnblip-demo",
            "4,043,328 parameters",
            "float32",
            "cpu",
            "question_encoder.layer[0..5].crossattention",
        ):
            assert text in shown
    assert "NDIF server" in repr(there) and "4,043,328 parameters" in there._repr_html_()
    read = set()
    for name, kinds in parts(model):
        component = name.partition(".")[0]
        for kind in kinds:
            part = eval("model." + re.sub(r"\[0\.\.\d\]", "[2]", name))
            assert part is model._state_module(component, kind, 2), (name, kind)
            read.add(kind)
    assert read == {*KINDS} - {"block_input"}, "which is no output"
