"""Cut attention edges and frozen sublayers by hand, against the oracle and exact identities."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import torch
from helpers.cells import agree, numbers
from helpers.scenes import Truth, question_of, visible
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import nnblip
from nnblip.edges import EDGES
from nnblip.errors import NnblipError
from nnblip.sites import Site

SIZES = {"image_to_question": (65, 9), "question_to_question": (9, 9), "question_to_answer": (9, 2)}
SIZES["answer_to_answer"] = (2, 2)


@pytest.fixture(scope="module")
def seen(model):
    """With an answer of two words, so that the answer decoder has tokens to cut."""
    for start in range(0, 400, 10):
        image, question, truth = visible(model, start=start)
        if len(truth.answer) == 2 and len(truth.encoded.tokens) == 9:
            return image, question, truth
    raise AssertionError("no answer of two words")


def plain(edges, layers, source, target):
    """The same cut for the oracle."""
    component, sublayer = EDGES[edges]
    return [oracle.cut(component, sublayer, layer, source, target) for layer in layers]


@st.composite
def cut_edges(draw):
    edges = draw(st.sampled_from(list(EDGES)))
    sizes = SIZES[edges]
    layers = draw(st.sets(st.integers(0, 5), min_size=1))
    ends = [draw(st.one_of(st.none(), st.sets(st.integers(0, size - 1), min_size=1, max_size=size))) for size in sizes]
    return edges, sorted(layers), *ends


@pytest.mark.slow
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(cuts=st.lists(cut_edges(), min_size=1, max_size=3, unique_by=lambda cut: cut[0]), token=st.integers(0, 8))
def test_cut_edges_agree_with_the_oracle(model, seen, cuts, token):
    image, question, truth = seen
    cuts_of = [nnblip.knock_out(*cut) for cut in cuts]
    hooks = []
    for edges, layers, *ends in cuts:
        source, target = (
            set(range(size)) if end is None else end for end, size in zip(ends, SIZES[edges], strict=True)
        )
        hooks += plain(edges, layers, source, target)
    tree = nnblip.causal_trace(model, [(image, question)], draws=1, knock_out=cuts_of)
    with model.clean(image, question, knock_out=cuts_of) as clean:
        pass
    site = Site("question_encoder", layer=3, token=token)
    with model.corrupt(clean, 5.0, restore=site) as run:
        pass
    noisy, module = truth.noisy(5.0), truth.module
    with oracle.without(module, *hooks):
        logits = oracle.run(module, truth.embeds, truth.ids, truth.answer)
        rival = oracle.rival(logits, truth.answer)
        states = oracle.states(module, truth.embeds, truth.ids, truth.answer)
        corrupted, restored = (
            oracle.restored(module, noisy, truth.ids, truth.answer, rival, states, sites) for sites in ([], [site])
        )
    agree(numbers(tree, "clean"), oracle.outcome(logits, truth.answer, rival))
    agree(numbers(tree, "corrupted", nu=5, draw=0), corrupted)
    agree(numbers(tree, "question_encoder", nu=5, draw=0, kind="block", layer=3, token=token), restored)
    agree(
        (clean.probability, clean.log_probability, clean.logit_difference), oracle.outcome(logits, truth.answer, rival)
    )
    agree((run.probability, run.log_probability, run.logit_difference), restored)


@pytest.mark.slow
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(index=st.integers(0, 200), cut=cut_edges(), nu=st.sampled_from([2.0, 5.0]))
def test_what_it_would_say_is_said_without_the_edges(model, index, cut, nu):
    assume(cut[0] in ("question_to_answer", "answer_to_answer", "image_to_question") and cut[2] is None)
    assume((pair := question_of(index, "color")) is not None)
    truth = Truth(model, *pair)
    edges, layers, _, target = cut
    target = None if edges in ("question_to_answer", "answer_to_answer") else target
    with model.clean(*pair) as clean:
        pass
    with model.corrupt(clean, nu, knock_out=nnblip.knock_out(edges, layers, None, target)) as run:
        pass
    every = set(range(70))
    with oracle.without(truth.module, *plain(edges, layers, every, every if target is None else target)):
        said = oracle.greedy_answer(truth.module, truth.noisy(nu), truth.ids)
    assert run.answer == model.text(said)


def test_a_knock_out_of_everything_is_a_run_whose_image_is_invisible(model, seen):
    image, question, truth = seen
    everything = nnblip.knock_out("image_to_question")
    tree = nnblip.causal_trace(
        model, [(image, question)], draws=2, knock_out=everything, components=["question_encoder"]
    )
    assert truth.clean.probability - truth.restored(truth.noisy(5.0)).probability > 0.1

    def blind(module, args, output):
        return (torch.zeros_like(output[0]), *output[1:])

    hooks = [(layer.crossattention.self, blind) for layer in truth.module.text_encoder.encoder.layer]
    logits = oracle.run(truth.module, torch.zeros_like(truth.embeds), truth.ids, truth.answer, hooks)
    expected = oracle.outcome(logits, truth.answer, oracle.rival(logits, truth.answer)).probability
    for node in ("clean", "corrupted", "question_encoder"):
        assert np.ptp(tree[node].probability.values) == 0, "the noise makes no difference, bit for bit"
        assert tree[node].probability.values.flat[0] == pytest.approx(expected, abs=1e-6)
    assert tree.attrs["knock_out"] == "image_to_question"


def test_cutting_late_reading_of_the_image_changes_the_map(model, seen):
    image, question, _ = seen
    late = nnblip.knock_out("image_to_question", layers=range(3, 6))
    free, cut = (
        nnblip.causal_trace(model, [(image, question)], draws=3, knock_out=cut)["question_encoder"].probability
        for cut in ((), late)
    )
    assert float(abs(free - cut).max()) > 0.01


@pytest.mark.parametrize("freeze", [["crossattention"], ["attention", "mlp_out"]])
@pytest.mark.parametrize("component", ["question_encoder", "answer_decoder"])
def test_frozen_sublayers_by_hand_agree_with_the_map_and_the_oracle(model, seen, freeze, component):
    image, question, truth = seen
    site = Site(component, layer=2, token=1)
    with model.clean(image, question) as clean:
        pass
    with model.corrupt(clean, 5.0, restore=site, freeze=freeze) as named:
        pass
    tree = nnblip.causal_trace(model, [(image, question)], draws=1, freeze=freeze)
    found = numbers(tree, component, nu=5, draw=0, kind="block", layer=2, token=1)
    kinds = [f"{name.removesuffix('_out')}_out" for name in freeze]
    expected = oracle.restored(
        truth.module, truth.noisy(5.0), truth.ids, truth.answer, truth.rival, truth.states, [site], kinds
    )
    agree(found, expected)
    agree((named.probability, named.log_probability, named.logit_difference), expected)
    if component == "question_encoder":
        with model.corrupt(clean, 5.0, freeze=freeze) as run:
            model.question_encoder.layer[2].output[:, 1] = clean.states[component, "block", 2][:, 1]
        agree((run.probability, run.log_probability, run.logit_difference), expected)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("image_to_questions",), "did you mean 'image_to_question'"),
        (("image_to_question", -1), "layer -1 of image_to_question: expected a whole number"),
        (("image_to_question", []), "expected at least one, or None for all"),
        (("image_to_question", 6), "layer 6 of image_to_question: there are 6, 0 to 5"),
        (("image_to_question", None, 65), "source 65 of image_to_question: there are 65, 0 to 64"),
        (("question_to_answer", None, None, 2), "target 2 of question_to_answer: there are 2, 0 to 1"),
        (("question_to_question", None, "all"), "source 'all'"),
    ],
)
def test_edges_that_are_not_there_are_refused(model, seen, arguments, says):
    image, question, _ = seen
    with pytest.raises(NnblipError, match=says):
        nnblip.causal_trace(model, [(image, question)], draws=1, knock_out=nnblip.knock_out(*arguments))


def test_something_else_than_a_knock_out_is_refused(model, seen):
    image, question, _ = seen
    with pytest.raises(NnblipError, match=r"expected nnblip\.knock_out"):
        model.clean(image, question, knock_out="image_to_question")
    with pytest.raises(NnblipError, match="sublayer 'cross' is unknown"):
        with model.clean(image, question) as clean:
            pass
        model.corrupt(clean, 5.0, freeze="cross")
