"""At the widths of a paper's columns no text is cut, covered or too small."""

import numpy as np
import pytest
from helpers.figures import all_legible
from helpers.lists import EDGES, VALUES, cut_tree, edge_tree, pair_tree, with_roles
from helpers.trees import random_tree

from nnblip import plot
from nnblip.edges import knock_outs

LONG = "what is the name of the exceedingly long and winding thing that is seen to the left of the other thing"
WIDTHS = [plot.COLUMN, plot.DOUBLE]


def long_tree(tokens=30, layers=12, **settings):
    """A question of so many tokens."""
    tree = random_tree(examples=1, nus=(2.5,), layers=layers, kinds=("block",), **settings)
    node = tree["question_encoder"].to_dataset(inherit=False)
    places = np.arange(tokens) % node.sizes["token"]
    texts = [["[CLS]", *(f"token{k}" if k % 3 else "of" for k in range(1, tokens - 1)), "[SEP]"]]
    tree["question_encoder"].orphan()
    tree["question_encoder"] = type(tree)(
        node.isel(token=places).assign_coords(token=np.arange(tokens), token_text=(("example", "token"), texts))
    )
    return tree


def named(tree, question=LONG, answer="antidisestablishmentarianism"):
    count = tree.sizes["example"]
    tree.dataset = tree.to_dataset().assign_coords(
        question=("example", [question] * count), answer=("example", [answer] * count)
    )
    return tree


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("layers", [12, 24])
def test_thirty_tokens_and_many_layers(width, layers):
    figure = plot.heatmap(named(long_tree(layers=layers, draws=10)), "question_encoder", width=width)
    all_legible(figure)
    assert figure.get_figwidth() == width and figure.get_figheight() < 9.5


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("component", ["question_encoder", "answer_decoder"])
def test_maps_of_every_value(width, component):
    tree = named(random_tree(examples=1, nus=(5.0,), layers=6, draws=10))
    for value in plot.VALUES:
        all_legible(plot.heatmap(tree, component, value=value, width=width))
    tree["corrupted"].probability.values[...] = 0.999  # no total effect
    all_legible(plot.heatmap(tree, component, value="relevance", width=width))


@pytest.mark.parametrize("width", WIDTHS)
def test_curves_and_profiles(width):
    tree = with_roles(named(random_tree(examples=9, nus=(0.0, 1.0, 2.5, 3.0, 1000.0), kinds=("block",), layers=24)))
    tree["corrupted"].probability.values[:3, 1] = 0.999
    all_legible(plot.gamma(tree, width=width))
    all_legible(plot.layers(tree, "question_encoder", nu=1, by="question_type", width=width))
    all_legible(plot.layers(tree, "answer_decoder", nu=1, example="example-0", width=width))


@pytest.mark.parametrize("width", WIDTHS)
def test_means_of_roles_and_their_differences(width):
    tree = with_roles(named(random_tree(examples=18, nus=(5.0,), kinds=("block",), layers=12)))
    for component in ("question_encoder", "answer_decoder"):
        all_legible(plot.roles(tree, component, width=width))
        parts = tree.isel(example=range(9)), tree.isel(example=range(9, 18))
        all_legible(plot.difference(*parts, component, names=("a long name", "another long name"), width=width))


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
def test_sheets_and_pairs(width):
    tree = with_roles(named(random_tree(examples=9, nus=(5.0,), kinds=("block",), layers=12)))
    all_legible(plot.sheet(tree, "question_encoder", width=width))
    all_legible(plot.sheet(tree, "answer_decoder", width=width, value="probability"))
    all_legible(plot.pairs(named(pair_tree()), width=width))


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
def test_connections(width):
    for family in (
        knock_outs("image_to_question", 4, "each"),
        knock_outs("question_to_question", "each", "each", 3),
        knock_outs("question_to_answer", {"a long name of some tokens": [1, 2]}, "all"),
        knock_outs("answer_to_answer", "all", "each"),
    ):
        all_legible(plot.knock_outs(named(cut_tree(family)[0]), width=width))
    all_legible(plot.circuit(named(edge_tree(EDGES[:2], VALUES[:2])), width=width))
    all_legible(plot.circuit(named(edge_tree(EDGES, [0.0] * 6)), width=width))


def test_on_axes_of_ones_own():
    from matplotlib.figure import Figure

    mine = Figure(figsize=(6.9, 7), layout="constrained")
    axes = mine.subplots(2, 2)
    tree = random_tree(examples=1, nus=(1.0, 5.0), layers=6, draws=10)
    plot.heatmap(tree, "question_encoder", nu=5, ax=axes[0, 0])
    plot.heatmap(tree, "question_encoder", nu=5, value="probability", ax=axes[0, 1])
    plot.gamma(tree, ax=axes[1, 0])
    plot.layers(tree, "question_encoder", nu=5, ax=axes[1, 1])
    all_legible(mine)
