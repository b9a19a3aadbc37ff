"""No text is cut off at the edge of a figure: over kinds, ν, long questions and long answers."""

from __future__ import annotations

import pytest
from helpers.figures import ONE, WIDE, all_inside
from helpers.trees import random_tree, regions_tree

from nnblip import plot
from nnblip.sites import WHOLE_KINDS

LONG = "what is the name of the exceedingly long and winding thing that is seen to the left of the other thing"


def with_texts(tree, question, answer):
    count = tree.sizes["example"]
    names = {"question": ("example", [question] * count), "answer": ("example", [answer] * count)}
    tree.dataset = tree.to_dataset().assign_coords(names)
    return tree


@pytest.mark.slow
@pytest.mark.parametrize("value", plot.VALUES)
@pytest.mark.parametrize("kind", WHOLE_KINDS)
@pytest.mark.parametrize(("component", "layers"), [("question_encoder", 6), ("answer_decoder", 2)])
def test_heatmaps_of_every_kind(component, layers, kind, value):
    tree = random_tree(nus=(2.5,), draws=10, kinds=(kind,), layers=layers)
    all_inside(plot.heatmap(tree, component, kind=kind, value=value, example="example-0"))


@pytest.mark.slow
@pytest.mark.parametrize("answer", ["no", "light " * 12 + "blue", "antidisestablishmentarianism" * 2])
@pytest.mark.parametrize("question", ["what", LONG, "pneumonoultramicroscopicsilicovolcanoconiosis" * 3])
def test_long_questions_and_answers(question, answer, tmp_path):
    tree = with_texts(random_tree(layers=3), question, answer)
    for value in plot.VALUES:
        all_inside(plot.heatmap(tree, "question_encoder", value=value, **ONE))
    regions = with_texts(regions_tree(), question, answer)
    all_inside(plot.picture(regions, WIDE, **ONE))


@pytest.mark.parametrize("examples", [1, 3])
@pytest.mark.parametrize("nus", [(5.0,), (0.0, 1.0, 2.5, 3.0, 1000.0)])
def test_curves(nus, examples):
    all_inside(plot.gamma(random_tree(examples=examples, nus=nus, layers=2), kind="crossattention"))


@pytest.mark.parametrize("kind", ["attention_head", "crossattention_head"])
def test_maps_of_heads(kind, model):
    import nnblip

    example = nnblip.demo.examples()[0]
    tree = nnblip.causal_trace(model, [example], kinds=[kind], draws=2, nu=2.5)
    figure = plot.heads(tree, "question_encoder", kind=kind, value="indirect_effect")
    all_inside(figure)
    node = tree["question_encoder_heads"].probability.isel(example=0, nu=0, kind=0).mean("draw")
    effect = node - float(tree["corrupted"].probability.mean())
    shown = figure.axes[0].collections[0].get_array().reshape(node.sizes["head"], node.sizes["layer"])
    for head in range(node.sizes["head"]):
        for layer in range(node.sizes["layer"]):
            best = max(float(effect.isel(layer=layer, head=head, token=t)) for t in range(node.sizes["token"]))
            assert float(shown[head, layer]) == pytest.approx(best, abs=1e-6)
    assert abs(effect).max() > 0.01
