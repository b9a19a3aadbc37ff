"""A damaged question: noise on its words, or the words of another question, against the oracle."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from helpers.cells import agree, numbers
from helpers.scenes import VISIBLE, Truth, question_of, visible

import nnblip
from nnblip.errors import InputError, NnblipError, SettingError
from nnblip.noise import get_noise, unit_noise
from nnblip.sites import Site, all_tokens

DRAWS = 2


@pytest.fixture(scope="module")
def seen(model):
    return visible(model)


def words_of(truth):
    return truth.module.text_encoder.embeddings.word_embeddings(truth.ids).detach()


def noisy_words(truth, noise: str, nu: float, draw: int):
    """Written out: what the noise does to all tokens but [CLS] and [SEP]."""
    words = words_of(truth)
    inside, found = words[:, 1:-1], words.clone()
    unit = unit_noise(get_noise(noise), tuple(words.shape), 0, truth.encoded.key, draw)[:, 1:-1]
    found[:, 1:-1] = {
        "multiplicative": lambda: inside * (1 + nu * unit),
        "additive": lambda: inside + nu * inside.std() * unit,
        "uniform": lambda: inside + nu * inside.std() * unit,
        "mean": lambda: (1 - nu) * inside + nu * inside.mean(1, keepdim=True),
    }[noise]()
    return found


@pytest.mark.parametrize("noise", ["multiplicative", "additive", "uniform", "mean"])
@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_restoring_states_of_a_damaged_question_agrees_with_the_oracle(model, seen, noise, direction):
    image, question, truth = seen
    module = model._module
    nu = (0.4, 12.0 if noise == "mean" else 4.0)
    sites = [
        Site("question_encoder", "block", 1, 4), Site("question_encoder", "block_input", 0, 3),
        Site("question_encoder", "crossattention_head", 3, 6, 1), Site("answer_decoder", "crossattention_out", 2, 0),
    ]  # fmt: skip
    tree = nnblip.causal_trace(
        model, [(image, question)], nu, DRAWS, noise, cells=[*sites, all_tokens(5)], noise_at="question",
        direction=direction,
    )  # fmt: skip
    assert tree.attrs["noise_at"] == "question"
    effects = []
    for level in nu:
        for draw in range(DRAWS):
            words, where = noisy_words(truth, noise, level, draw), {"nu": level, "draw": draw}
            with oracle.saying(module, words):
                corrupted = truth.restored(truth.embeds)
                damaged = oracle.states(module, truth.embeds, truth.ids, truth.answer)
            agree(numbers(tree, "corrupted", **where), corrupted)
            effects.append(truth.clean.probability - corrupted.probability)
            start, donor = (words, truth.states) if direction == "denoising" else (words_of(truth), damaged)
            for site in sites:
                with oracle.saying(module, start):
                    expected = oracle.restored(
                        module, truth.embeds, truth.ids, truth.answer, truth.rival, donor, [site]
                    )
                agree(numbers(tree, "cells", cell=str(site), **where), expected)
            end = truth.clean if direction == "denoising" else corrupted
            agree([float(tree["cells"][v].sel(**where).isel(example=0, cell=-1)) for v in tree["cells"].data_vars], end)
    assert np.max(np.abs(effects)) >= VISIBLE, "damage of the question changes the answer"


def test_nothing_is_damaged_at_nu_0_and_the_image_stays_clean(model, seen):
    image, question, _ = seen
    tree = nnblip.causal_trace(
        model, [(image, question)], (0, 5), 2, noise_at="question", components=["image_encoder", "question_encoder"],
        regions=2, kinds=["block"],
    )  # fmt: skip
    clean = float(tree["clean"].probability[0])
    assert abs(tree["corrupted"].probability.sel(nu=0) - clean).max() < 1e-6
    corrupted = tree["corrupted"].probability
    assert float(abs(clean - corrupted.sel(nu=5)).max()) >= VISIBLE
    assert abs(tree["image_encoder"].probability - corrupted).max() < 1e-6, "there is nothing of it to restore"
    assert list(tree["image_encoder"].layer.values) == [3]
    assert float(abs(tree["corrupted"].norm_ratio.sel(nu=0) - 1).max()) < 1e-6
    assert float(tree["corrupted"].norm_ratio.sel(nu=5).min()) > 1.5


@pytest.fixture(scope="module")
def two(model):
    """A scene with two questions of as many tokens, which the model answers differently."""
    from nnblip.datasets import scenes

    for index in range(200):
        if question_of(index, "color") is None:
            continue
        scene = scenes.scene(77, index)
        asked = [q.question for q in scenes.questions(scene)]
        truths = [Truth(model, scene.image, question) for question in asked]
        for one in truths:
            for other in truths:
                if len(one.encoded.tokens) == len(other.encoded.tokens) and one.answer[0] != other.answer[0]:
                    return scene.image, one, other
    raise AssertionError("no scene with two such questions")


def test_swapping_the_question_is_a_run_with_the_other_question(model, two):
    image, one, other = two
    example = nnblip.Example(image, one.encoded.question, other_question=other.encoded.question)
    tree = nnblip.causal_trace(
        model, [example], (0.3, 1.0), 1, "swap", noise_at="question", kinds=["block", "block_input"]
    )
    assert tree.rival.item() == model.text(other.answer[:1])
    there = oracle.restored(model._module, other.embeds, other.ids, one.answer, other.answer[0], other.states, [])
    agree(numbers(tree, "corrupted", nu=1, draw=0), there)
    assert float(tree["clean"].logit_difference[0]) > 0 > there.logit_difference
    mine, its = words_of(one), words_of(other)
    with oracle.saying(model._module, mine + 0.3 * (its - mine)):
        site = Site("question_encoder", "block", 2, 4)
        expected = oracle.restored(model._module, one.embeds, one.ids, one.answer, other.answer[0], one.states, [site])
    agree(numbers(tree, "question_encoder", nu=0.3, draw=0, kind="block", layer=2, token=4), expected)
    same = [t for t, (a, b) in enumerate(zip(one.encoded.tokens, other.encoded.tokens, strict=True)) if a == b]
    first = tree["question_encoder"].probability.sel(kind="block_input", layer=0, nu=1).squeeze()
    gap = abs(first - tree["corrupted"].probability.sel(nu=1).squeeze())
    assert float(gap.isel(token=same).max()) < 1e-6 < float(gap.max()), "what both questions say alike restores nothing"


def test_a_context_damages_the_question_as_the_map_does(model, two, seen):
    image, one, other = two
    with model.clean(image, one.encoded.question) as clean:
        pass
    with model.corrupt(clean, nu=1, noise="swap", other_question=other.encoded.question, noise_at="question") as run:
        pass
    assert run.answer == model.text(other.answer)
    assert float((run.image_embeds - clean.image_embeds).abs().max()) == 0
    image, question, _ = seen
    site = Site("question_encoder", "attention", 2, 3)
    tree = nnblip.causal_trace(model, [(image, question)], 4, 2, kinds=["attention"], noise_at="question")
    with model.clean(image, question) as clean:
        pass
    for freeze in ((), ("mlp_out",)):
        with model.corrupt(clean, nu=4, draw=1, noise_at="question", restore=site, freeze=freeze) as run:
            pass
        if not freeze:
            at = tree["question_encoder"].probability.sel(nu=4, draw=1, kind="attention", layer=2, token=3).item()
            assert run.probability == pytest.approx(at, abs=1e-5)


def test_bad_questions_are_refused(model, seen, two):
    image, question, _ = seen
    asked = dict(nu=1, draws=1, noise_at="question")
    with pytest.raises(InputError, match="needs another question: give other_question="):
        nnblip.causal_trace(model, [(image, question)], noise="swap", **asked)
    longer = nnblip.Example(image, question, other_question=question + " there")
    with pytest.raises(InputError, match=r"other_question '.* there' has \d+ tokens, the question .* expected as many"):
        nnblip.causal_trace(model, [longer], noise="swap", **asked)
    for wrong in ("", 3):
        with pytest.raises(InputError, match=r"other_question .*expected a text with at least one word"):
            example = nnblip.Example(image, question, other_question=wrong)
            nnblip.causal_trace(model, [example], noise="swap", **asked)
    same = nnblip.Example(image, question, other_question=question)
    with pytest.raises(InputError, match=r"other_question: the model answers .* there too"):
        nnblip.causal_trace(model, [same], noise="swap", **asked)
    with pytest.raises(InputError, match="question 'circle' has one token"):
        nnblip.causal_trace(model, [(image, "circle", "red")], **asked)
    with pytest.raises(SettingError, match="noise 'shuffle' of the question"):
        nnblip.causal_trace(model, [(image, question)], noise="shuffle", **asked)
    with pytest.raises(NnblipError, match="noise_at 'questions'"):
        nnblip.causal_trace(model, [(image, question)], nu=1, draws=1, noise_at="questions")
