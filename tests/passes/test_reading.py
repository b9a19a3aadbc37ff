"""Attention, Grad-CAM and lenses against transformers' own attention, autograd, finite differences, plain torch."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import torch
from helpers.reading import SHAPES, gradients, hooked, lenses, moved, random_model
from helpers.scenes import visible
from transformers import BlipForQuestionAnswering

import nnblip
from nnblip import demo
from nnblip.errors import InputError, ModelError, NnblipWarning, SettingError
from nnblip.passes.measure import Asked
from nnblip.passes.reading import ATTENTIONS, attend, lens
from nnblip.sites import COMPONENTS

QUESTION = "what is the color of the circle"


@pytest.fixture(scope="module")
def seen(model):
    return visible(model)


def asked(model, image, question, answer=None):
    return Asked(model.encode(image, question), None if answer is None else model.encode_answer(answer))


def read(model, image, question, answer=None, components=COMPONENTS, kinds=ATTENTIONS, grad_cam=True):
    return attend(model, components, kinds, grad_cam, asked(model, image, question, answer))


def endless():
    """Random weights never end what they say."""
    return pytest.warns(NnblipWarning, match="did not end within 20 tokens")


def given(model, image, question):
    """What the torch module is given: image embeddings and question."""
    encoded = model.encode(image, question)
    embeds = oracle.image_embeds(model._module, encoded.pixel_values.to(model._module.dtype))
    return embeds, encoded.input_ids


# --- attention -------------------------------------------------------------------------------


def own_attentions(module, pixels, ids, answer):
    """What transformers gives for output_attentions=True, by (component, kind), each (layer, head, token, source)."""
    start = module.config.text_config.bos_token_id
    with torch.no_grad():
        image = module.vision_model(pixel_values=pixels, output_attentions=True)
        question = module.text_encoder(
            input_ids=ids, encoder_hidden_states=image.last_hidden_state, output_attentions=True
        )
        answered = module.text_decoder.bert(
            input_ids=torch.tensor([[start, *answer[:-1]]]),
            encoder_hidden_states=question.last_hidden_state,
            is_decoder=True,
            output_attentions=True,
        )
    return {
        ("image_encoder", "attention"): torch.cat(image.attentions),
        ("question_encoder", "attention"): torch.cat(question.attentions),
        ("question_encoder", "crossattention"): torch.cat(question.cross_attentions),
        ("answer_decoder", "attention"): torch.cat(answered.attentions),
        ("answer_decoder", "crossattention"): torch.cat(answered.cross_attentions),
    }


def check_own(found, own):
    assert found.weights.keys() == own.keys()
    for key, weights in own.items():
        assert found.weights[key].shape == weights.shape, key
        np.testing.assert_allclose(found.weights[key], weights.numpy(), atol=2e-6, err_msg=str(key))
        assert key[0] == "answer_decoder" or np.ptp(found.weights[key]) > 0.1, "alike everywhere would prove nothing"


@pytest.mark.parametrize(
    "answer", [None, "dark blue circle"], ids=["its own answer, of two tokens", "an answer of three"]
)
def test_attention_is_that_of_transformers(seen, model, answer):
    image, question, _ = seen
    eager = BlipForQuestionAnswering.from_pretrained(demo.MODEL, attn_implementation="eager").eval()
    found, encoded = read(model, image, question, answer), model.encode(image, question)
    assert len(found.answer_ids) == (2 if answer is None else 3)
    check_own(found, own_attentions(eager, encoded.pixel_values, encoded.input_ids, found.answer_ids))
    causal = found.weights["answer_decoder", "attention"]
    assert (causal[..., np.triu(np.ones(causal.shape[-2:]), 1) > 0] == 0).all(), "no answer token reads later ones"


@pytest.mark.parametrize("shape", SHAPES)
def test_attention_and_grad_cam_of_other_shapes(model, pixels, shape):
    other = random_model(model, shape)
    with endless():
        found, encoded = read(other, pixels, QUESTION, "red circle"), other.encode(pixels, QUESTION)
    check_own(found, own_attentions(other._module, encoded.pixel_values, encoded.input_ids, found.answer_ids))
    check_grad_cam(found, other._module, *given(other, pixels, QUESTION))


def test_only_what_is_asked_for_is_read(model, seen):
    image, question, _ = seen
    every = read(model, image, question)
    for components, kinds, names in (
        (["question_encoder"], ["crossattention"], [("question_encoder", "crossattention")]),
        (["image_encoder"], ["attention"], [("image_encoder", "attention")]),
    ):
        found = read(model, image, question, components=components, kinds=kinds)
        assert list(found.weights) == names
        np.testing.assert_allclose(found.weights[names[0]], every.weights[names[0]], atol=1e-6)
        assert list(found.grad_cam) == [name for name in names if name[1] == "crossattention"]
    plain = read(model, image, question, grad_cam=False)
    assert plain.grad_cam == {} and plain.weights.keys() == every.weights.keys()
    for key, weights in plain.weights.items():
        np.testing.assert_allclose(weights, every.weights[key], atol=1e-6)


def test_in_bfloat16_it_is_what_the_module_computes(seen):
    image, question, _ = seen
    half = nnblip.BlipVQA(dtype="bfloat16")
    found = read(half, image, question)
    embeds, ids = given(half, image, question)
    for (component, kind, layer), (weights, slope) in gradients(half._module, embeds, ids, found.answer_ids).items():
        got = found.weights[component, kind]
        assert weights.dtype == torch.bfloat16 and got.dtype == np.float32
        np.testing.assert_allclose(got[layer], weights[0].float().numpy(), atol=0.01)
        if kind == "crossattention":
            wanted = (weights[0].float() * slope[0].float()).clamp(min=0).numpy()
            np.testing.assert_allclose(found.grad_cam[component, kind][layer], wanted, atol=0.05 * wanted.max() + 1e-9)
    assert max(float(cam.max()) for cam in found.grad_cam.values()) > 1e-6


def test_rows_that_do_not_sum_to_1_are_no_attention(model, seen):
    image, question, _ = seen
    with model.edit() as (_tracer, scaled):
        output = scaled.question_encoder.layer[3].crossattention.self.output
        scaled.question_encoder.layer[3].crossattention.self.output = (output[0], output[1] * 0.9)
    with pytest.raises(ModelError, match=r"crossattention weights of question_encoder, layer 3: a row's sum is 0\.1"):
        read(scaled, image, question)
    with model.edit() as (_tracer, blurred):
        output = blurred.answer_decoder.layer[0].attention.self.output
        blurred.answer_decoder.layer[0].attention.self.output = (output[0], output[1] * float("nan"))
    with pytest.raises(ModelError, match="NaN"):
        read(blurred, image, question, "red", grad_cam=False)
    with model.edit() as (_tracer, lost):
        lost.question_encoder.layer[2].output = lost.question_encoder.layer[2].output * float("nan")
    with pytest.raises(ModelError, match="NaN"):
        read(lost, image, question, "red")


# --- Grad-CAM ----------------------------------------------------------------------------------


def check_grad_cam(found, module, embeds, ids):
    grads = gradients(module, embeds, ids, found.answer_ids)
    assert set(found.grad_cam) == {(name, "crossattention") for name in ("question_encoder", "answer_decoder")}
    for key, cams in found.grad_cam.items():
        layers = range(module.config.text_config.num_hidden_layers)
        wanted = torch.cat([(weights * slope).clamp(min=0) for weights, slope in (grads[(*key, n)] for n in layers)])
        assert float(wanted.max()) > 0, "nothing that helps the answer would prove nothing"
        np.testing.assert_allclose(cams, wanted.numpy(), atol=1e-3 * float(wanted.max()), err_msg=str(key))


@pytest.mark.parametrize("answer", [None, "water", "dark blue circle"])
def test_grad_cam_is_weights_times_the_positive_gradient_of_autograd(model, seen, answer):
    image, question, truth = seen
    check_grad_cam(read(model, image, question, answer), model._module, truth.embeds, truth.ids)


def test_grad_cam_leaves_no_gradients_and_needs_none_of_the_weights(model, seen):
    image, question, _ = seen
    wanted = read(model, image, question).grad_cam
    frozen = nnblip.BlipVQA()
    frozen._module.requires_grad_(False)
    with torch.no_grad():
        found = read(frozen, image, question).grad_cam
    for key, cams in wanted.items():
        np.testing.assert_allclose(found[key], cams, rtol=1e-5)
    assert all(one.grad is None for one in model._module.parameters())


@pytest.mark.slow
def test_grad_cam_is_the_slope_of_finite_differences(seen):
    image, question, _ = seen
    exact = nnblip.BlipVQA(dtype="float64")
    found = read(exact, image, question, "water")
    embeds, ids = given(exact, image, question)
    step, compared = 1e-5, 0
    for (component, kind), cams in found.grad_cam.items():
        weights = found.weights[component, kind]
        assert cams.dtype == np.float64
        for layer in (0, 2, 5):
            strongest = np.unravel_index(cams[layer].argmax(), cams[layer].shape)
            for head, token, source in (strongest, (1, 0, 3)):
                site = (component, kind, layer, head, token, source)
                up, down = (moved(exact._module, embeds, ids, found.answer_ids, site, by) for by in (step, -step))
                slope = (up - down) / (2 * step)
                cam = max(0.0, slope * weights[layer, head, token, source])
                assert cams[layer, head, token, source] == pytest.approx(cam, rel=1e-4, abs=1e-8)
                compared += cam > 1e-4
    assert compared > 4, "slopes of 0 would prove nothing"


# --- lenses --------------------------------------------------------------------------------------


def check_lenses(found, module, embeds, ids):
    by_question, by_answer = lenses(module, embeds, ids, found.answer_ids)
    for layer, logits in enumerate(by_question):
        wanted = oracle.outcome(logits[None], found.answer_ids, found.rivals[0])
        assert found.decoder_lens[:, layer] == pytest.approx(wanted, abs=1e-4, rel=1e-4)
        assert found.decoder_said[layer] == logits[0].argmax()
        assert found.decoder_sure[layer] == pytest.approx(float(logits[0].softmax(-1).max()), abs=1e-4)
    for layer, logits in enumerate(by_answer):
        for place, (token, rival) in enumerate(zip(found.answer_ids, found.rivals, strict=True)):
            wanted = oracle.outcome(logits[None, place : place + 1], [token], rival)
            assert found.logit_lens[:, layer, place] == pytest.approx(wanted, abs=1e-4, rel=1e-4)
            assert found.logit_said[layer, place] == logits[place].argmax()
            assert found.logit_sure[layer, place] == pytest.approx(float(logits[place].softmax(-1).max()), abs=1e-4)
    for place, rival in enumerate(found.rivals):
        assert rival == oracle.rival(by_question[-1:, place:], found.answer_ids[place:])


@pytest.mark.parametrize("answer", [None, "water", "dark blue circle"])
def test_the_lenses_are_decoder_and_head_run_by_hand(model, seen, answer):
    image, question, truth = seen
    found = lens(model, asked(model, image, question, answer))
    assert found.predicted == truth.answer
    check_lenses(found, model._module, truth.embeds, truth.ids)
    if answer is None:
        assert np.ptp(found.decoder_lens[1]) > 0.5 and np.ptp(found.logit_lens[1]) > 0.5, "layers say different things"


@pytest.mark.parametrize("answer", [None, "dark blue circle"])
def test_the_last_layer_of_both_lenses_is_the_clean_run(model, seen, answer):
    image, question, _ = seen
    found = lens(model, asked(model, image, question, answer))
    with model.clean(image, question, answer) as clean:
        pass
    wanted = clean.probability, clean.log_probability, clean.logit_difference
    assert found.decoder_lens[:, -1] == pytest.approx(wanted, abs=1e-4)
    assert found.logit_lens[1, -1].sum() == pytest.approx(clean.log_probability, abs=1e-4)
    assert found.logit_lens[2, -1, 0] == pytest.approx(clean.logit_difference, abs=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_lenses_of_other_shapes_and_of_an_answer_of_its_own_without_an_end(model, pixels, shape):
    other = random_model(model, shape)
    with endless():
        found = lens(other, asked(other, pixels, QUESTION))
    embeds, ids = given(other, pixels, QUESTION)
    assert found.answer_ids == found.predicted == oracle.greedy_answer(other._module, embeds, ids)
    assert len(found.answer_ids) == 20
    check_lenses(found, other._module, embeds, ids)
    with endless():
        looked = read(other, pixels, QUESTION)
    assert looked.answer_ids == looked.predicted == found.answer_ids
    check_grad_cam(looked, other._module, embeds, ids)


def test_in_bfloat16_the_lenses_are_near_those_in_float32(model, seen):
    image, question, _ = seen
    found = lens(nnblip.BlipVQA(dtype="bfloat16"), asked(model, image, question))
    exact = lens(model, asked(model, image, question))
    assert found.decoder_lens.dtype == found.logit_lens.dtype == np.float32
    assert found.answer_ids == exact.answer_ids
    assert found.decoder_lens[0] == pytest.approx(exact.decoder_lens[0], abs=0.05)
    assert found.logit_lens[0] == pytest.approx(exact.logit_lens[0], abs=0.05)


# --- answers and edits -----------------------------------------------------------------------------


def test_what_the_model_says_is_said_whatever_answer_is_given(model, seen):
    image, question, truth = seen
    for answer in (None, model.text(truth.answer), "water", f"{model.text(truth.answer)} circle"):
        found = read(model, image, question, answer)
        assert found.predicted == truth.answer
        assert found.answer_ids == (truth.answer if answer is None else model.encode_answer(answer))


def test_a_model_that_answers_nothing_needs_an_answer(seen):
    image, question, _ = seen
    silent = nnblip.BlipVQA()
    with torch.no_grad():
        silent._module.text_decoder.cls.predictions.decoder.bias[silent.config.text_config.sep_token_id] = 100.0
    for reading in (read, lambda *args: lens(silent, asked(*args))):
        with pytest.raises(InputError, match=r"answers nothing .* give an answer"):
            reading(silent, image, question)
        assert reading(silent, image, question, "red").predicted == []


def edits(model):
    """Each component edited, with the same as hooks on the torch module."""
    module = model._module
    with model.edit() as (_tracer, image):
        image.image_encoder.layer[2].output = image.image_encoder.layer[2].output * 0.5
    with model.edit() as (_tracer, question):
        question.question_encoder.layer[1].output[:, 0] = 0
    with model.edit() as (_tracer, decoder):
        decoder.answer_decoder.layer[2].output = decoder.answer_decoder.layer[2].output * 0.3

    def first_zero(state):
        return torch.cat([state[:, :1] * 0, state[:, 1:]], 1)

    return {
        "image_encoder": (image, module.vision_model.encoder.layers[2], lambda x: x * 0.5),
        "question_encoder": (question, module.text_encoder.encoder.layer[1], first_zero),
        "answer_decoder": (decoder, module.text_decoder.bert.encoder.layer[2], lambda x: x * 0.3),
    }


@pytest.mark.parametrize("component", COMPONENTS)
def test_an_edited_model_is_read_with_its_edits(model, seen, component):
    image, question, truth = seen
    edited, place, change = edits(model)[component]
    found, through = read(edited, image, question), lens(edited, asked(edited, image, question))
    without = read(model, image, question, model.text(found.answer_ids))
    with hooked((place, lambda submodule, args, output: change(output))):
        encoded = model.encode(image, question)
        own = own_attentions(model._module, encoded.pixel_values, encoded.input_ids, found.answer_ids)
        embeds = oracle.image_embeds(model._module, encoded.pixel_values)
        assert found.answer_ids == through.answer_ids == oracle.greedy_answer(model._module, embeds, truth.ids)
        check_own(found, own)
        check_grad_cam(found, model._module, embeds, truth.ids)
        if component == "answer_decoder":  # a hook acts on every run of the decoder, as the edit does
            check_lenses(through, model._module, embeds, truth.ids)
    gap = max(float(abs(found.grad_cam[key] - without.grad_cam[key]).max()) for key in found.grad_cam)
    assert gap > 1e-6, "an edit without an effect would prove nothing"


def test_an_edit_of_the_head_is_in_both_lenses(model, seen):
    image, question, truth = seen
    with model.edit() as (_tracer, edited):
        transform = edited.text_decoder.cls.predictions.transform
        transform.output = transform.output * 0.5
    found = lens(edited, asked(edited, image, question))
    head = model._module.text_decoder.cls.predictions.transform
    with hooked((head, lambda submodule, args, output: output * 0.5)):
        check_lenses(found, model._module, truth.embeds, truth.ids)


def test_of_what_the_answer_does_not_depend_on_grad_cam_is_0(model, seen):
    image, question, _ = seen
    with model.edit() as (_tracer, deaf):
        deaf.answer_decoder.layer[0].output = torch.ones_like(deaf.answer_decoder.layer[0].output)
        for layer in range(1, 6):
            attention = deaf.answer_decoder.layer[layer].crossattention.self
            attention.output = (attention.output[0] * 0, attention.output[1])
    found = read(deaf, image, question, "red")
    assert (found.grad_cam["question_encoder", "crossattention"] == 0).all()
    assert found.weights["question_encoder", "crossattention"].max() > 0.1


def test_an_edit_after_which_there_is_no_gradient_is_named(model, seen):
    image, question, _ = seen
    with model.edit() as (_tracer, edited):
        edited.question_encoder.layer[3].attention.self.output[1][:] = 0.25
    with pytest.raises(SettingError, match=r"writes into a state in place.*grad_cam=False"):
        read(edited, image, question, "red")


def test_an_edit_may_write_into_what_the_first_layer_reads(model, seen):
    image, question, truth = seen
    with model.edit() as (_tracer, edited):
        edited.question_encoder.layer[0].attention.input[:, 3] = 0
    found = read(edited, image, question, "water")

    def first_reads(submodule, args):
        args[0][:, 3] = 0

    handle = model._module.text_encoder.encoder.layer[0].attention.register_forward_pre_hook(first_reads)
    try:
        check_grad_cam(found, model._module, truth.embeds, truth.ids)
    finally:
        handle.remove()
