"""The token against which the logit difference is held."""

from __future__ import annotations

import oracle
import pytest
from helpers.cells import numbers
from helpers.scenes import visible

import nnblip
from nnblip.errors import InputError, NnblipError, SettingError
from nnblip.passes.settings import Settings


@pytest.fixture(scope="module")
def seen(model):
    return visible(model)


def wanted(truth, rival, noisy):
    """The oracle's logit difference of the clean and of the corrupted run, against this token."""
    clean = oracle.outcome(oracle.run(truth.module, truth.embeds, truth.ids, truth.answer), truth.answer, rival)
    return clean.logit_difference, oracle.restored(
        truth.module, noisy, truth.ids, truth.answer, rival, truth.states, []
    ).logit_difference


@pytest.mark.parametrize("by", ["text", "id"])
def test_a_chosen_rival_is_the_one_in_the_logit_difference(model, seen, by):
    image, question, truth = seen
    vocabulary = model.processor.tokenizer.get_vocab()
    word = next(word for word in ("star", "water", "two") if vocabulary[word] not in (truth.rival, truth.answer[0]))
    rival = vocabulary[word]
    tree = nnblip.causal_trace(model, [(image, question)], draws=2, rival=word if by == "text" else rival)
    usual = nnblip.causal_trace(model, [(image, question)], draws=2)
    clean, corrupted = wanted(truth, rival, truth.noisy(5.0, draw=1))
    assert numbers(tree, "clean")[2] == pytest.approx(clean, abs=3e-3)
    assert numbers(tree, "corrupted", nu=5, draw=1)[2] == pytest.approx(corrupted, abs=3e-3)
    assert abs(clean - numbers(usual, "clean")[2]) > 0.1, "another difference than that to the strongest other token"
    assert tree.coords["rival"].item() == word and str(tree.attrs["rival"]) in (word, str(rival))
    assert usual.attrs["rival"] == ""
    for node in ("clean", "corrupted", "question_encoder"):
        assert (tree[node].probability == usual[node].probability).all(), "nothing else changes"
    guess = nnblip.attribution_trace(model, [(image, question)], draws=1, rival=rival, sample=2)
    assert numbers(guess, "clean")[2] == pytest.approx(clean, abs=3e-3)


def test_a_sweep_takes_it_too(model, seen, tmp_path):
    image, question, _ = seen
    swept = nnblip.sweep(model, [(image, question)], tmp_path / "results.zarr", draws=1, rival="water")
    traced = nnblip.causal_trace(model, [(image, question)], draws=1, rival="water")
    assert swept.coords["rival"].item() == "water"
    assert (swept["corrupted"].logit_difference == traced["corrupted"].logit_difference).all()
    with pytest.raises(NnblipError, match="rival"):
        nnblip.sweep(model, [(image, question)], tmp_path / "results.zarr", draws=1, rival="star")


def test_a_rival_is_chosen_against_a_partners_answer(model, seen):
    image, question, truth = seen
    for start in range(1, 200):
        other = visible(model, start=start)
        if model.answer(other[0], question).text.split()[0] != model.text(truth.answer[:1]):
            break
    example = nnblip.Example(image, question, partner=other[0])
    swapped = nnblip.causal_trace(model, [example], nu=1, draws=1, noise="swap", rival="star")
    assert swapped.coords["rival"].item() == "star"


def test_a_rival_that_cannot_be_one_is_refused(model, seen):
    image, question, truth = seen
    first = truth.answer[0]
    for rival in (first, model.text(truth.answer)):
        with pytest.raises(InputError, match=r"example 0: rival .* first token of the traced answer itself"):
            nnblip.causal_trace(model, [(image, question)], draws=1, rival=rival)
    size = model.config.text_config.vocab_size
    with pytest.raises(InputError, match=f"rival {size}: the vocabulary has {size} tokens"):
        nnblip.causal_trace(model, [(image, question)], draws=1, rival=size)
    with pytest.raises(InputError, match="rival 'xylophone': this model's vocabulary lacks"):
        nnblip.causal_trace(model, [(image, question)], draws=1, rival="xylophone")
    for wrong in ("", -1, 1.5, True, ["red"]):
        with pytest.raises(SettingError, match="rival"):
            Settings.of(rival=wrong)
