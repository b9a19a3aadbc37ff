"""Heatmaps: what is written on them, what colours stand for, what is refused."""

import numpy as np
import pytest
from helpers.figures import ONE, render, texts, x_labels, y_labels
from helpers.trees import ANSWERS, QUESTIONS, random_tree, set_probability
from matplotlib.text import Text

from nnblip import effects, plot
from nnblip.errors import NnblipError


def cells(figure):
    mesh = figure.axes[0].collections[0]
    rows, columns = len(figure.axes[0].get_yticks()), len(figure.axes[0].get_xticks())
    return mesh.get_array().filled(np.nan).reshape(rows, columns)


@pytest.mark.slow
@pytest.mark.parametrize("value", plot.VALUES)
@pytest.mark.parametrize("component", ["question_encoder", "answer_decoder"])
@pytest.mark.parametrize("layers", [2, 12, 24])
def test_every_layer_is_labelled_from_0(component, value, layers):
    figure = render(plot.heatmap(random_tree(layers=layers), component, value=value, **ONE))
    axes = figure.axes[0]
    assert x_labels(axes) == [str(layer) for layer in range(layers)]
    np.testing.assert_array_equal(axes.get_xticks(), np.arange(layers) + 0.5)
    assert axes.get_xlim() == (0, layers)


@pytest.mark.parametrize("i", range(3))
def test_tokens_in_reading_order_without_padding(i):
    for component, tokens in (("question_encoder", QUESTIONS[i]), ("answer_decoder", ANSWERS[i])):
        figure = render(plot.heatmap(random_tree(layers=3), component, nu=5, example=f"example-{i}"))
        labels = y_labels(figure.axes[0])
        assert [label.split()[0] for label in labels] == tokens
        assert [label.split()[1] for label in labels] == [str(k) for k in range(len(tokens))]
        assert len(set(labels)) == len(labels)  # "the" comes twice
        bottom, top = figure.axes[0].get_ylim()
        assert (bottom, top) == (len(tokens), 0)


def test_cells_are_means_over_draws_at_their_place():
    tree = random_tree(layers=4)
    expected = {
        "probability": tree,
        "indirect_effect": effects.indirect_effect(tree),
        "relevance": effects.relevance(tree),
    }
    for value, numbers in expected.items():
        figure = plot.heatmap(tree, "question_encoder", kind="crossattention", value=value, **ONE)
        wanted = numbers["question_encoder"].to_dataset()["probability"].sel(kind="crossattention", **ONE)
        wanted = wanted.mean("draw") if "draw" in wanted.dims else wanted
        np.testing.assert_allclose(cells(figure), wanted.transpose("token", "layer"))


def test_probability_has_one_bar_with_clean_and_corrupted_marked():
    tree = random_tree(layers=3)
    figure = render(plot.heatmap(tree, "question_encoder", **ONE))
    assert len(figure.axes) == 2
    bar = figure.axes[1]
    assert bar.get_ylabel() == "P(answer = “red”)"
    clean = float(tree["clean"].to_dataset().probability[0])
    corrupted = float(tree["corrupted"].to_dataset().probability.sel(**ONE).mean())
    marks = {mark.get_text(): mark.xy[1] for mark in bar.texts}
    assert set(marks) == {f"clean {clean:.3f}", f"corrupted {corrupted:.3f}"}
    norm = figure.axes[0].collections[0].norm
    assert norm.vmin <= corrupted < clean <= norm.vmax
    for name, value in (("clean", clean), ("corrupted", corrupted)):
        at = next(place for text, place in marks.items() if text.startswith(name))
        assert norm.vmin + at * (norm.vmax - norm.vmin) == pytest.approx(value)


def test_marks_that_would_overlap_are_moved_apart():
    tree = set_probability(random_tree(layers=3), clean=0.897, corrupted=0.8969)
    figure = render(plot.heatmap(tree, "answer_decoder", **ONE))
    clean, corrupted = (
        next(mark for mark in figure.axes[1].texts if mark.get_text().startswith(name))
        for name in ("clean 0.8970", "corrupted 0.8969")
    )
    assert clean.get_window_extent().y0 >= corrupted.get_window_extent().y0 + 8 * figure.dpi / 72  # a line


@pytest.mark.parametrize("value", ["indirect_effect", "relevance"])
def test_effects_have_colours_centred_at_0(value):
    figure = render(plot.heatmap(random_tree(layers=3), "question_encoder", value=value, **ONE))
    norm = figure.axes[0].collections[0].norm
    assert norm.vmin == -norm.vmax
    assert norm.vmax == pytest.approx(np.nanmax(np.abs(cells(figure))))
    assert value.replace("_", " ") in figure.axes[1].get_ylabel()
    assert "“red”" in figure.axes[1].get_ylabel()


def test_no_effect_looks_like_none():
    tree = set_probability(random_tree(layers=3), clean=0.8, corrupted=0.8, answer_decoder=0.8 + 1e-8)
    for value in ("probability", "indirect_effect"):
        norm = render(plot.heatmap(tree, "answer_decoder", value=value, **ONE)).axes[0].collections[0].norm
        assert norm.vmax - norm.vmin >= 0.0099


def test_title_says_question_answer_and_settings():
    title = plot.heatmap(random_tree(layers=3), "question_encoder", **ONE).axes[0].get_title(loc="left")
    title = " ".join(title.split())  # it is wrapped
    for part in (
        "what is the color of the ball left of the box → red",
        "question encoder",
        "block",
        "ν = 5",
        "4 draws",
    ):
        assert part in title


def test_nu_and_example_may_be_left_out_if_there_is_one():
    tree = random_tree(examples=1, nus=(2.5,), layers=3)
    assert "ν = 2.5" in texts(render(plot.heatmap(tree, "answer_decoder")))
    assert "ν = 5" in texts(render(plot.heatmap(random_tree(layers=3).sel(ONE), "answer_decoder")))


def test_undefined_relevance_is_said():
    tree = set_probability(random_tree(layers=3), clean=0.897, corrupted=0.8969)
    figure = render(plot.heatmap(tree, "question_encoder", value="relevance", **ONE))
    said = texts(figure)
    assert "Relevance is undefined" in said and "threshold of 0.05" in said
    assert "0.8970" in said and "0.8969" in said
    assert x_labels(figure.axes[0]) == ["0", "1", "2"]
    assert "Relevance is undefined" not in texts(plot.heatmap(tree, "question_encoder", **ONE))


def test_states_without_a_value_are_grey_and_said():
    tree = random_tree(layers=3)
    tree["question_encoder"]["probability"].values[..., 1, 0, :] = np.nan
    figure = render(plot.heatmap(tree, "question_encoder", kind="crossattention", **ONE))
    assert np.isnan(cells(figure)[:, 0]).all() and np.isfinite(cells(figure)[:, 1:]).all()
    assert "grey: no value" in texts(figure)
    tree["question_encoder"]["probability"].values[..., 1, :, :] = np.nan
    assert "not traced" in texts(render(plot.heatmap(tree, "question_encoder", kind="crossattention", **ONE)))


def test_dollars_and_long_questions_are_text():
    tree = random_tree(layers=3)
    question = r"how much is $\bad$ in $dollars" + " and cents" * 30
    tree.dataset = tree.to_dataset().assign_coords(
        question=("example", [question] * 3), answer=("example", [r"$\worse$ {"] * 3)
    )
    tree["question_encoder"]["token_text"].values[0, 3] = "$_$"
    figure = render(plot.heatmap(tree, "question_encoder", **ONE))
    assert r"$\bad$ in $dollars" in texts(figure) and "$_$  3" in texts(figure)
    for text in figure.findobj(lambda artist: isinstance(artist, Text) and "$" in artist.get_text()):
        box = text.get_window_extent()
        assert figure.bbox.containsx(box.x0) and figure.bbox.containsx(box.x1)
        assert figure.bbox.containsy(box.y0) and figure.bbox.containsy(box.y1)


def test_hundreds_of_patches_fit():
    tree = random_tree(examples=1, nus=(5,), draws=1, kinds=("block",), layers=2)
    node = tree["question_encoder"].to_dataset(inherit=False)
    patches = node.drop_vars("token_text").isel(token=[0] * 577).assign_coords(token=range(577))
    tree["image_encoder"] = type(tree)(patches)
    figure = render(plot.heatmap(tree, "image_encoder"))
    assert figure.get_size_inches()[1] < 10
    assert len(figure.axes[0].get_yticks()) <= 60
    assert y_labels(figure.axes[0])[:2] == ["0", "10"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"component": "question_encodr"}, "did you mean 'question_encoder'"),
        ({"component": "clean"}, "Expected one of: question_encoder, answer_decoder"),
        ({"kind": "blok"}, "did you mean 'block'"),
        ({"value": "relevence"}, "did you mean 'relevance'"),
        ({"nu": None}, "2 values of nu: 1, 5"),
        ({"nu": 6}, "did you mean 5.0"),
        ({"example": None}, "3 values of example: 'example-0'"),
        ({"example": "exampel-0"}, "did you mean 'example-0'"),
        ({"threshold": 0, "value": "relevance"}, "a positive number"),
    ],
)
def test_heatmap_says_what_there_is(arguments, message):
    with pytest.raises(NnblipError) as error:
        plot.heatmap(random_tree(layers=2), **({"component": "question_encoder"} | ONE | arguments))
    assert message in str(error.value)


def test_heatmap_of_heads_asks_for_one():
    tree = random_tree(layers=2)
    heads = tree["question_encoder"].to_dataset(inherit=False).expand_dims(head=2, axis=5)
    tree["question_encoder_heads"] = type(tree)(heads.assign_coords(head=[0, 1]))
    with pytest.raises(NnblipError, match=r"Select one label of any other first, as in tree.sel\(head=0\)"):
        plot.heatmap(tree, "question_encoder_heads", **ONE)
    render(plot.heatmap(tree.sel(head=1), "question_encoder_heads", **ONE))


def test_a_noised_run_is_not_called_restored():
    tree = random_tree(layers=2)
    assert "block restored" in texts(plot.heatmap(tree, "question_encoder", **ONE))
    tree.attrs["direction"] = "noising"
    assert "block damaged" in texts(plot.heatmap(tree, "question_encoder", **ONE))
