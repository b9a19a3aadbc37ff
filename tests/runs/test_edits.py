"""Edited models, knock-outs and generation: what is said is what the forward passes say, token by token."""

from __future__ import annotations

import oracle
import pytest
import torch
from helpers.cells import agree, numbers
from helpers.scenes import Truth, question_of, visible

import nnblip
from nnblip.errors import ResultError, SettingError
from nnblip.sites import Site


class Hooks:
    """The same edit as plain forward hooks, for the oracle: modules with what becomes of their outputs."""

    def __init__(self, *changes):
        self.changes = changes

    def __enter__(self):
        def hook(change):
            return lambda module, args, output: change(output)

        self.handles = [module.register_forward_hook(hook(change)) for module, change in self.changes]

    def __exit__(self, *_):
        for handle in self.handles:
            handle.remove()


def edited_models(model):
    """Each component edited, with the same as hooks."""
    torch_model = model._module
    with model.edit() as (_tracer, question):
        question.question_encoder.layer[5].output[:] = question.question_encoder.layer[5].output * 0.1
    with model.edit() as (_tracer, image):
        image.image_encoder.layer[2].output[:] = 0
    with model.edit() as (_tracer, decoder):
        decoder.answer_decoder.layer[2].output[:, 0] = 0
    return {
        "question_encoder": (question, (torch_model.text_encoder.encoder.layer[5], lambda x: x * 0.1)),
        "image_encoder": (image, (torch_model.vision_model.encoder.layers[2], torch.zeros_like)),
        "answer_decoder": (decoder, (torch_model.text_decoder.bert.encoder.layer[2], first_token_zero)),
    }


def first_token_zero(output):
    output = output.clone()
    output[:, 0] = 0
    return output


@pytest.fixture(scope="module")
def every(model):
    return edited_models(model)


@pytest.fixture(scope="module")
def seen(model):
    """With an answer of two words."""
    for start in range(0, 400, 10):
        image, question, truth = visible(model, start=start)
        if len(truth.answer) == 2:
            return image, question, truth
    raise AssertionError("no answer of two words")


@pytest.mark.slow
@pytest.mark.parametrize("component", ["question_encoder", "image_encoder", "answer_decoder"])
def test_all_that_an_edited_model_says_goes_through_its_edits(model, every, component, seen):
    (edited, change), (image, question, plain) = every[component], seen
    with Hooks(change):
        truth = Truth(model, image, question)
        noisy = truth.noisy(5.0)
        site = Site("question_encoder", layer=3, token=4)
        corrupted, restored = truth.restored(noisy), truth.restored(noisy, site)
        said = [oracle.greedy_answer(model._module, embeds, truth.ids) for embeds in (truth.embeds, noisy)]
    assert abs(truth.clean.log_probability - plain.clean.log_probability) > 0.01, "the edit matters"
    assert edited.answer(image, question).ids == said[0]
    with edited.clean(image, question) as clean:
        pass
    assert (clean.answer_ids, clean.predicted) == (said[0], clean.answer)
    assert clean.probability == pytest.approx(truth.clean.probability, abs=1e-5)
    with edited.corrupt(clean, nu=0) as same:
        pass
    assert same.answer == clean.answer
    with edited.corrupt(clean, nu=5) as run:
        pass
    assert run.answer == model.text(said[1])
    agree((run.probability, run.log_probability, run.logit_difference), corrupted)
    tree = nnblip.causal_trace(edited, [(image, question)], draws=1)
    assert tree.answer.item() == tree.predicted.item() == model.text(said[0])
    agree(numbers(tree, "clean"), truth.clean)
    agree(numbers(tree, "corrupted", nu=5, draw=0), corrupted)
    agree(numbers(tree, "question_encoder", nu=5, draw=0, kind="block", layer=3, token=4), restored)
    assert "layer" in tree.attrs["edits"]
    assert nnblip.causal_trace(model, [(image, question)], draws=1).attrs["edits"] == ""


def test_the_model_that_was_edited_is_as_it_was(model, every, seen):
    image, question, truth = seen
    assert model.answer(image, question).ids == truth.answer


def test_noise_before_an_edited_image_encoder(model, every, seen):
    edited, _ = every["image_encoder"]
    tree = nnblip.causal_trace(edited, [seen[:2]], draws=1, nu=2, noise_at="pixels")
    assert tree["corrupted"].probability.item() == pytest.approx(tree["clean"].probability.item(), abs=1e-6), (
        "a layer of zeros lets nothing of the noise through"
    )


def test_an_edit_where_a_trace_of_many_cells_does_not_run_is_refused(model, seen):
    with model.edit() as (_tracer, edited):
        edited.question_encoder.layer[1].crossattention.self.query.output[:] = 0
    assert edited.answer(*seen[:2]).text, "one row runs all modules"
    with pytest.raises(SettingError, match=r"does not run.*crossattention\.self\.query.*edit what its sublayer gives"):
        nnblip.causal_trace(edited, [seen[:2]], draws=1)


# --- sweeps ----------------------------------------------------------------------------


def test_a_sweep_of_an_edited_model_is_another_sweep(model, tmp_path, seen):
    examples, out = [nnblip.Example(*seen[:2], id="one")], tmp_path / "results.zarr"
    plain = nnblip.sweep(model, examples, out, nu=5, draws=1)

    def halved(by):
        with model.edit() as (_tracer, edited):
            edited.question_encoder.layer[5].output[:] = edited.question_encoder.layer[5].output * by
        return edited

    with pytest.raises(ResultError, match="model and code: edits: None -> "):
        nnblip.sweep(halved(0.5), examples, out, nu=5, draws=1)
    other = nnblip.sweep(halved(0.5), examples, tmp_path / "edited.zarr", nu=5, draws=1)
    assert abs(other["clean"].probability - plain["clean"].probability).item() > 1e-6
    nnblip.sweep(halved(0.5), examples, tmp_path / "edited.zarr", nu=5, draws=1)  # the same edit, written anew
    with pytest.raises(ResultError, match="model and code: edits"):
        nnblip.sweep(halved(0.25), examples, tmp_path / "edited.zarr", nu=5, draws=1)
    with pytest.raises(SettingError, match="its edit refers to by = <object"):
        nnblip.sweep(halved(object()), examples, tmp_path / "x.zarr", nu=5, draws=1)


# --- knock-outs ------------------------------------------------------------------------


def test_what_is_predicted_is_said_without_the_edges_and_what_is_traced_with_them(model, seen):
    image, question, truth = seen
    cut = nnblip.knock_out("image_to_question")
    hooks = [oracle.cut("question_encoder", "crossattention", n, range(65), range(9)) for n in range(6)]
    with oracle.without(model._module, *hooks):
        said = oracle.greedy_answer(model._module, truth.embeds, truth.ids)
    assert said != truth.answer, "a model that does not see the picture says something else"
    tree = nnblip.causal_trace(model, [(image, question)], draws=1, knock_out=cut)
    assert (tree.answer.item(), tree.predicted.item()) == (model.text(truth.answer), model.text(said))
    with model.clean(image, question, knock_out=cut) as clean:
        pass
    assert (clean.answer, clean.predicted) == (model.text(truth.answer), model.text(said))


def test_what_is_predicted_goes_with_the_edits_of_the_body(model, seen):
    image, question, _ = seen
    with Hooks((model._module.text_encoder.encoder.layer[5], lambda x: x * 0)):
        embeds = oracle.image_embeds(model._module, model.encode(image, question).pixel_values)
        said = oracle.greedy_answer(model._module, embeds, model.encode(image, question).input_ids)
    with model.clean(image, question) as clean:
        model.question_encoder.layer[5].output[:] = 0
    assert clean.predicted == model.text(said) != clean.answer


# --- generate --------------------------------------------------------------------------


def test_generation_token_by_token_with_interventions_at_each_step(model, seen):
    image, question, truth = seen
    start, end = model.config.text_config.bos_token_id, model.config.text_config.sep_token_id
    with torch.no_grad(), model.generate(image, question) as tracer:
        tokens = tracer.result.save()
    assert tokens[0].tolist() == [start, *truth.answer, end]
    assert torch.equal(model.generate(**plain_inputs(model, truth)), tokens), "called as a function it just generates"

    layers = model._module.text_decoder.bert.encoder.layer
    with torch.no_grad(), Hooks((layers[5], lambda x: x * -1)):
        expected = model._module.generate(
            input_ids=truth.ids, pixel_values=truth.encoded.pixel_values, max_new_tokens=4
        )
    with torch.no_grad(), model.generate(image, question, max_new_tokens=4) as tracer:
        states = [].save()
        for _step in tracer.iter[:4]:
            model.answer_decoder.layer[5].output[:] = model.answer_decoder.layer[5].output * -1
            states.append(model.answer_decoder.layer[5].output[:, -1])
            found = tracer.result if len(states) == 4 else None
        found = found.save()
    assert torch.equal(found, expected) and len(states) == 4
    assert expected[0, 1 : 1 + len(truth.answer)].tolist() != truth.answer, "the interventions matter"


def plain_inputs(model, truth):
    return {"pixel_values": truth.encoded.pixel_values, "input_ids": truth.ids}


@pytest.mark.slow
def test_scenes_of_other_types_agree_too(model):
    with model.edit() as (_tracer, edited):
        edited.question_encoder.layer[5].output[:, 1:] = 0
    changed = 0
    for index in range(6):
        for kind in ("object", "location"):
            if pair := question_of(index, kind):

                def change(output):
                    output = output.clone()
                    output[:, 1:] = 0
                    return output

                with Hooks((model._module.text_encoder.encoder.layer[5], change)):
                    truth = Truth(model, *pair)
                assert edited.answer(*pair).ids == truth.answer
                changed += truth.answer != Truth(model, *pair).answer
    assert changed, "the edit matters"
