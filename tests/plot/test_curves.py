"""Curves over the noise: what is drawn, what is written, what is refused."""

import numpy as np
import pytest
from helpers.figures import render, texts, x_labels
from helpers.trees import random_tree, set_probability

from nnblip import effects, plot
from nnblip.errors import NnblipError


def lines(axes):
    return [line for line in axes.lines if line.get_gid() == "mean"]


def names(axes):
    said = [text.get_text() for text in axes.texts]
    return [one for one in said if one.endswith(("encoder", "decoder"))]


def band(axes, at, nu):
    """Lowest and highest point of a band at a ν."""
    path = axes.collections[at].get_paths()[0].vertices
    there = path[np.isclose(path[:, 0], nu), 1]
    return there.min(), there.max()


@pytest.mark.parametrize("nus", [(5.0,), (0.5, 1, 2, 5, 10), (3, 4, 5, 6), (0, 1, 3, 10), (10, 1)])
def test_gamma_labels_every_nu_and_has_a_line_per_component(nus):
    tree = random_tree(nus=nus, layers=3)
    figure = render(plot.gamma(tree))
    axes = figure.axes[0]
    assert [label.split("\n")[0] for label in x_labels(axes)] == [f"{nu:g}" for nu in sorted(nus)]
    assert names(axes) == ["question encoder", "answer decoder"]
    for line, name in zip(lines(axes), ("question_encoder", "answer_decoder"), strict=True):
        wanted = effects.gamma(tree)[name].sel(kind="block").mean("example").sortby("nu")
        np.testing.assert_allclose(line.get_xdata(), sorted(nus))
        np.testing.assert_allclose(line.get_ydata(), wanted)


@pytest.mark.parametrize("examples", [12, 1])
def test_gamma_bars_are_the_intervals(examples):
    tree = random_tree(examples=examples, nus=(1, 5), layers=2, draws=10)
    figure = plot.gamma(tree, kind="crossattention")
    curve = effects.interval(tree, "gamma")["question_encoder"].to_dataset().sel(kind="crossattention").squeeze()
    for at, nu in enumerate((1, 5)):
        np.testing.assert_allclose(band(figure.axes[0], 0, nu), [curve.low[at], curve.high[at]])
    assert f"intervals over {'examples' if examples > 1 else 'draws'}" in texts(render(figure))
    alone = plot.gamma(tree.sel(nu=[5.0]), kind="crossattention")  # a point has a bar
    (segment,) = next(one for one in alone.axes[0].collections if one.get_gid() == "bar").get_segments()
    np.testing.assert_allclose(segment[:, 1], [curve.low[1], curve.high[1]])


@pytest.mark.parametrize(("examples", "draws", "why"), [(7, 10, "examples: at least 8"), (1, 9, "draws: at least 10")])
def test_gamma_of_too_few_has_no_bar_and_says_why(examples, draws, why):
    figure = render(plot.gamma(random_tree(examples=examples, draws=draws, layers=2)))
    assert np.isfinite(lines(figure.axes[0])[0].get_ydata()).all()
    assert all(not one.get_paths() for one in figure.axes[0].collections if one.get_gid() == "band")
    assert f"no interval: too few {why}" in " ".join(texts(figure).split())  # in two lines


def test_gamma_says_how_many_examples_are_left():
    tree = random_tree(examples=5, nus=(1, 5), layers=2)
    assert "n = " not in texts(plot.gamma(tree))
    tree["corrupted"]["probability"].values[:3, 0] = 0.99  # no total effect in any draw
    labels = x_labels(render(plot.gamma(tree)).axes[0])
    assert labels == ["1\nn = 2", "5\nn = 5"]


def test_gamma_that_is_undefined_everywhere_is_said():
    tree = set_probability(random_tree(layers=2), clean=0.5, corrupted=0.6)
    assert "Relevance is undefined" in " ".join(texts(render(plot.gamma(tree))).split())


def test_gamma_of_one_example_and_of_a_selected_nu():
    tree = random_tree(layers=2)
    for chosen in (tree.sel(example=["example-1"]), tree.sel(example="example-1", nu=5.0)):
        assert "how many red balls → twenty-one" in texts(render(plot.gamma(chosen)))
    assert "mean of 3 examples" in texts(render(plot.gamma(tree)))
    one = plot.gamma(tree, example="example-1")
    wanted = effects.gamma(tree)["answer_decoder"].sel(kind="block", example="example-1")
    np.testing.assert_allclose(lines(one.axes[0])[1].get_ydata(), wanted)
    assert "how many red balls → twenty-one" in texts(render(one))
    with pytest.raises(NnblipError, match="did you mean 'example-1'"):
        plot.gamma(tree, example="exampel-1")


def test_gamma_leaves_out_components_without_the_kind():
    tree = random_tree(layers=2)
    decoder = tree["answer_decoder"].to_dataset(inherit=False)
    tree["answer_decoder"].dataset = decoder.sel(kind=["block"])
    assert names(render(plot.gamma(tree, kind="crossattention")).axes[0]) == ["question encoder"]
    with pytest.raises(NnblipError, match="did you mean 'block'"):
        plot.gamma(tree, kind="blok")
