"""BlipVQA: loading, names, nnsight's features, answers."""

from __future__ import annotations

import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from scenes_helper import Truth, question_of, visible
from transformers import AutoModel, BlipForQuestionAnswering

import nnblip
from nnblip import demo
from nnblip.errors import InputError, ModelError
from nnblip.sites import KINDS, TEXT_COMPONENTS


@pytest.fixture
def folder(tmp_path):
    """A copy of the small model's folder, to spoil."""
    shutil.copytree(demo.MODEL, tmp_path / "model")
    return tmp_path / "model"


def test_a_local_folder_loads_as_a_hub_id_would_without_a_warning(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = nnblip.BlipVQA(folder, device_map="cpu", dtype="bfloat16")
    assert model._module.dtype == torch.bfloat16 and not model._module.training
    assert model.name == str(folder)


def test_accelerate_places_the_model_by_itself(model):
    pair = question_of(0, "number")
    placed = nnblip.BlipVQA(device_map="auto")
    assert placed.answer(*pair) == model.answer(*pair)


def test_the_weights_are_the_ones_in_the_file(model):
    from safetensors.torch import load_file

    stored = load_file(demo.MODEL / "model.safetensors")
    loaded = model._module.state_dict()
    assert all(torch.equal(loaded[name], value.float()) for name, value in stored.items())


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def pickle_weights(folder):
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def drop_a_weight(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["text_encoder.encoder.layer.0.attention.self.query.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: (f / "config.json").unlink(), "no configuration"),
        (lambda f: (f / "config.json").write_text("{"), "no configuration"),
        (lambda f: edit_config(f, architectures=["BlipForConditionalGeneration"]), "BlipForConditionalGeneration"),
        (lambda f: edit_config(f, model_type="bert"), "nnblip needs BlipForQuestionAnswering"),
        (pickle_weights, "weights cannot be loaded"),
        (drop_a_weight, "missing or of the wrong shape, such as text_encoder.encoder.layer.0"),
        (lambda f: (f / "model.safetensors").write_bytes(b"0" * 100), "weights cannot be loaded"),
        (lambda f: (f / "processor_config.json").unlink(), "processor"),
    ],
)
def test_a_folder_that_is_no_such_model_is_refused(folder, spoil, says):
    spoil(folder)
    with pytest.raises(ModelError, match=says):
        nnblip.BlipVQA(folder)


def test_a_model_that_is_nowhere_is_refused(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="expected a hub id such as"):
        nnblip.BlipVQA("/no/such/folder")


@pytest.mark.parametrize("wrong", [{"dtype": "int8"}, {"dtype": "floaty"}, {"trust_remote_code": True}])
def test_bad_arguments_are_refused(wrong):
    with pytest.raises(ModelError):
        nnblip.BlipVQA(**wrong)


def test_a_missing_name_is_told_at_load(monkeypatch):
    monkeypatch.setitem(nnblip.BlipVQA.task.names, "E_output", "add_nrom")
    with pytest.raises(ModelError, match="a state that nnblip promises is missing"):
        nnblip.BlipVQA()


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
    assert 0 < model.answer(photograph, "what is the color of the circle").probability <= 1


def test_every_kind_has_the_shape_of_the_stream(model):
    image, question, _ = visible(model)
    with model.clean(image, question) as clean:
        pass
    tokens = {"question_encoder": len(clean.tokens), "answer_decoder": len(clean.answer_ids)}
    for component in TEXT_COMPONENTS:
        for kind in KINDS:
            assert clean.states[component, kind, 0].shape == (1, tokens[component], 128)


def test_upstream_auto_classes_would_load_the_wrong_architecture():
    """Why the architecture is checked: AutoModel takes the same folder for a BlipModel without a word."""
    assert not isinstance(AutoModel.from_pretrained(demo.MODEL), BlipForQuestionAnswering)
