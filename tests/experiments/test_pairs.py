"""Minimal pairs: chosen by what the model answers, and patching effects held against plain hooks."""

from __future__ import annotations

from dataclasses import replace

import oracle
import pytest
import torch

from nnblip import Site, datasets
from nnblip.experiments import pairs


@pytest.fixture(scope="module")
def colors():
    return [e for e in datasets.generated_scenes(40) if e.question_type == "color"]


@pytest.mark.slow
def test_another_question_has_as_many_tokens_is_answered_otherwise_and_differs_in_few_words(model, colors):
    questions = [e.question for e in datasets.generated_scenes(40)]
    found = pairs.other_questions(model, colors[:4], questions)
    assert found
    for example in found:
        other = example.other_question
        assert len(model.encode(example.image, other).tokens) == len(model.encode(example).tokens)
        assert model.answer(example.image, other).text != model.answer(example).text == example.answer
        words = [a != b for a, b in zip(other.split(), example.question.split(), strict=True)]
        assert sum(words) == 1, "scenes have another figure to ask about"
    assert pairs.other_questions(model, colors[:1], [colors[0].question, "is it"]) == [], "itself, and a shorter one"


@pytest.mark.slow
@pytest.mark.parametrize("noise_at", ["image_embeds", "question"])
def test_patching_effects_are_those_of_plain_hooks(model, colors, noise_at):
    if noise_at == "question":
        (example, *_) = pairs.other_questions(model, colors[:4], [e.question for e in colors])
        other = replace(example, question=example.other_question, answer=None)
    else:
        (example, *_) = datasets.partners(model, colors[:8], progress=False)
        other = replace(example, image=example.partner, partner=None, answer=None)
    module = model._module
    with torch.no_grad():
        runs = []
        for one in (example, other):
            encoded = model.encode(one)
            runs.append((oracle.image_embeds(module, encoded.pixel_values), encoded.input_ids))
        (embeds, ids), (damaged, others) = runs
        answer = model.encode_answer(example.answer)
        rival = model.encode_answer(model.answer(other).text)[0]
        clean = oracle.states(module, embeds, ids, answer)

        def difference(sites):
            return oracle.restored(module, damaged, others, answer, rival, clean, sites).logit_difference

        none = difference([])
        total = oracle.outcome(oracle.run(module, embeds, ids, answer), answer, rival).logit_difference - none
        last, tokens = len(module.text_encoder.encoder.layer) - 1, range(ids.shape[1])
        kinds = [("block", None), ("crossattention_out", None), (pairs.HEADS, 1)]
        wanted = [
            sum(difference([Site("question_encoder", kind, last, token, head)]) - none for token in tokens)
            / len(tokens)
            for kind, head in kinds
        ]
    assert none < -1 and total > 2, "the other picture, or question, is answered otherwise"
    found = pairs.patching(model, [example], noise_at)
    assert found.total.item() == pytest.approx(total, abs=2e-3)
    assert max(wanted) > 0.1
    got = [found.effect.sel(kind=kind, layer=last).item() for kind, _ in kinds[:2]]
    got.append(found.heads.sel(layer=last, head=1).item())
    assert got == pytest.approx(wanted, abs=2e-3)
    single = [found.patching_effect.sel(kind=kind, layer=last).item() for kind, _ in kinds[:2]]
    assert single == pytest.approx([one / total for one in wanted[:2]], abs=2e-3), "NOTICE's, of this example alone"


def test_too_few_pairs_for_a_test_are_told_of(monkeypatch):
    import sys
    from types import SimpleNamespace

    from nnblip.errors import NnblipError
    from nnblip.experiments import index

    made = index.load("replications")
    module = sys.modules["nnblip_experiment_replications"]
    monkeypatch.setattr(module, "other_questions", lambda *given: [])
    run = SimpleNamespace(
        experiment=made, model=None, options=SimpleNamespace(seed=0), source=SimpleNamespace(examples=[])
    )
    with pytest.raises(NnblipError, match="of 3 questions 0 have another word with which they are answered otherwise"):
        module.swapped(run, [1, 2, 3], module.WORD)
