"""BlipVQA: names, nnsight's features, answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.scenes import Truth, question_of, visible
from PIL import Image
from transformers import AutoModel, BlipForQuestionAnswering

from nnblip import demo
from nnblip.errors import InputError
from nnblip.sites import KINDS, TEXT_COMPONENTS


def test_trace_takes_an_image_and_a_question(model):
    image, question, truth = visible(model)
    with torch.no_grad(), model.trace(image, question):
        embeds = model.image_encoder.output.last_hidden_state.save()
        out = model.question_encoder.layer[2].add_norm.dense.output.save()
        state = model.question_encoder.layer[2].output.save()
        logits = model.text_decoder.output.logits.save()
    assert torch.equal(embeds, truth.embeds)
    torch.testing.assert_close(state, truth.states["question_encoder", "block", 2])
    torch.testing.assert_close(out, truth.states["question_encoder", "mlp_out", 2])
    assert int(logits[0, 0].argmax()) == truth.answer[0]


def test_nnsights_other_features_work(model):
    image, question, _ = visible(model)
    with model.session():
        with torch.no_grad(), model.trace(image, question):
            kept = model.question_encoder.layer[0].output
        with torch.no_grad(), model.trace(image, question):
            model.question_encoder.layer[0].output = kept * 0
            changed = model.text_decoder.output.logits.save()
    with model.edit() as (_, edited):
        edited.question_encoder.layer[0].output[:] = 0
    with torch.no_grad(), edited.trace(image, question):
        again = edited.text_decoder.output.logits.save()
    assert torch.equal(changed, again)
    with model.scan(image, question):
        shape = nnblip_save(model.question_encoder.layer[0].output.shape)
    assert tuple(shape) == (1, len(question.split()) + 2, 128)
    with torch.no_grad(), model.trace(image, question):
        source = model.question_encoder.layer[0].source
        inside = source.self_attention_0.output[0].save()
    assert inside.shape[-1] == 128
    with model.trace(image, question):
        embeds = model.image_encoder.output.last_hidden_state
        score = model.text_decoder.output.logits[0, 0].max()
        with score.backward():
            gradient = embeds.grad.save()
    assert gradient.shape == (1, 65, 128) and gradient.abs().max() > 0


def nnblip_save(value):
    import nnsight

    return nnsight.save(value)


def test_questions_of_one_length_are_traced_together_and_others_never_padded(model):
    pairs = [question_of(i, "color") for i in range(40)]
    pairs = [pair for pair in pairs if pair][:2]
    with torch.no_grad(), model.trace() as tracer:
        with tracer.invoke(*pairs[0]):
            first = model.text_decoder.output.logits.save()
        with tracer.invoke(*pairs[1]):
            second = model.text_decoder.output.logits.save()
    for pair, together in zip(pairs, (first, second), strict=True):
        with torch.no_grad(), model.trace(*pair):
            alone = model.text_decoder.output.logits.save()
        torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)
    other = question_of(0, "number")
    with pytest.raises(InputError, match="padding would change"), model.trace() as tracer:
        with tracer.invoke(*pairs[0]):
            first = model.text_decoder.output.logits.save()
        with tracer.invoke(*other):
            second = model.text_decoder.output.logits.save()


@pytest.mark.slow
def test_an_answer_is_what_transformers_generates(model):
    checked = 0
    for index in range(12):
        for kind in ("color", "object", "location"):
            if (pair := question_of(index, kind)) is None:
                continue
            truth = Truth(model, *pair)
            ids = model._module.generate(
                input_ids=truth.ids, pixel_values=truth.encoded.pixel_values, max_new_tokens=20
            )
            said = model.processor.tokenizer.decode(ids[0], skip_special_tokens=True)
            answer = model.answer(*pair)
            assert (answer.text, answer.probability) == (said, pytest.approx(truth.clean.probability, abs=1e-5))
            checked += 1
    assert checked > 20


def test_an_image_may_be_a_path_a_picture_or_an_array(model, tmp_path):
    image, question, _ = visible(model)
    image.save(tmp_path / "scene.png")
    forms = [image, np.asarray(image), tmp_path / "scene.png", str(tmp_path / "scene.png")]
    answers = {model.answer(form, question) and model.answer(form, question)[:2] for form in forms}
    assert len(answers) == 1


def test_a_photograph_of_any_size_is_read(model):
    rng = np.random.default_rng(0)
    photograph = Image.fromarray(rng.integers(0, 255, (333, 500, 3), dtype=np.uint8))
    truth = Truth(model, photograph, "what is the color of the circle")
    answer = model.answer(photograph, "what is the color of the circle")
    assert (answer.ids, answer.probability) == (truth.answer, pytest.approx(truth.clean.probability, abs=1e-5))
    # the whole of it, squeezed into the square that the model sees
    squeezed = np.asarray(photograph.resize((64, 64), Image.Resampling.BICUBIC))
    assert model.answer(squeezed, "what is the color of the circle") == answer


def test_every_kind_has_the_shape_of_the_stream(model):
    image, question, _ = visible(model)
    with model.clean(image, question) as clean:
        pass
    tokens = {"question_encoder": len(clean.tokens), "answer_decoder": len(clean.answer_ids)}
    for component in TEXT_COMPONENTS:
        for kind in KINDS:
            width = model.config.text_config.intermediate_size if kind == "mlp_activation" else 128
            assert clean.states[component, kind, 0].shape == (1, tokens[component], width)


def test_upstream_auto_classes_would_load_the_wrong_architecture():
    """Why the architecture is checked: AutoModel takes the same folder for a BlipModel without a word."""
    assert not isinstance(AutoModel.from_pretrained(demo.MODEL), BlipForQuestionAnswering)
