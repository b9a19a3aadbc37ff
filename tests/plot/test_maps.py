"""Heatmaps: what is written on them, what colours stand for, what is refused."""

import numpy as np
import pytest
from helpers.figures import ONE, all_inside, bar_of, legend_of, marked, mesh_of, render, texts, x_labels, y_labels
from helpers.trees import ANSWERS, QUESTIONS, random_tree, set_probability
from matplotlib.text import Text

from nnblip import effects, plot
from nnblip.errors import NnblipError


def cells(figure):
    return mesh_of(figure.axes[0])[0]


@pytest.mark.slow
@pytest.mark.parametrize("value", plot.VALUES)
@pytest.mark.parametrize("component", ["question_encoder", "answer_decoder"])
@pytest.mark.parametrize("layers", [2, 12, 24])
def test_every_layer_is_labelled_from_0(component, value, layers):
    figure = render(plot.heatmap(random_tree(layers=layers), component, value=value, width=plot.DOUBLE, **ONE))
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
    figure = render(plot.heatmap(tree, "question_encoder", value="probability", **ONE))
    bar = bar_of(figure.axes[0])
    assert bar.get_xlabel() == "P(answer = “red”)"
    clean = float(tree["clean"].to_dataset().probability[0])
    corrupted = float(tree["corrupted"].to_dataset().probability.sel(**ONE).mean())
    marks = {mark.get_text(): mark.xy[0] for mark in bar.texts}
    assert set(marks) == {f"clean {clean:.3f}", f"corrupted {corrupted:.3f}"}
    norm = figure.axes[0].collections[0].norm
    assert norm.vmin <= corrupted < clean <= norm.vmax
    for name, value in (("clean", clean), ("corrupted", corrupted)):
        at = next(place for text, place in marks.items() if text.startswith(name))
        assert norm.vmin + at * (norm.vmax - norm.vmin) == pytest.approx(value)


def test_marks_that_would_overlap_are_moved_apart():
    tree = set_probability(random_tree(layers=3), clean=0.897, corrupted=0.8969)
    figure = render(plot.heatmap(tree, "answer_decoder", value="probability", **ONE))
    corrupted, clean = (
        next(mark for mark in bar_of(figure.axes[0]).texts if mark.get_text().startswith(name))
        for name in ("corrupted 0.8969", "clean 0.8970")
    )
    assert Text.get_window_extent(clean).x0 >= Text.get_window_extent(corrupted).x1
    all_inside(figure)


@pytest.mark.parametrize("value", ["indirect_effect", "relevance"])
def test_effects_have_colours_centred_at_0(value):
    figure = render(plot.heatmap(random_tree(layers=3), "question_encoder", value=value, **ONE))
    norm = figure.axes[0].collections[0].norm
    assert norm.vmin == -norm.vmax
    assert norm.vmax == pytest.approx(np.nanmax(np.abs(cells(figure))))
    label = " ".join(bar_of(figure.axes[0]).get_xlabel().split())
    assert value.replace("_", " ") in label and "“red”" in label


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
    assert "no value" in texts(figure)
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
    assert r"$\bad$ in $dollars" in legend_of(figure) and "$_$  3" in texts(figure)
    all_inside(figure)


def test_hundreds_of_patches_fit():
    tree = random_tree(examples=1, nus=(5,), draws=1, kinds=("block",), layers=2)
    node = tree["question_encoder"].to_dataset(inherit=False)
    patches = node.drop_vars("token_text").isel(token=[0] * 577).assign_coords(token=range(577))
    tree["image_encoder"] = type(tree)(patches)
    figure = render(plot.heatmap(tree, "image_encoder"))
    assert figure.get_size_inches()[1] < 10
    assert len(figure.axes[0].get_yticks()) <= 80
    step = int(y_labels(figure.axes[0])[1])
    assert y_labels(figure.axes[0])[:3] == ["0", str(step), str(2 * step)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"component": "question_encodr"}, "did you mean 'question_encoder'"),
        ({"component": "clean"}, "Expected one of: question_encoder, answer_decoder"),
        ({"kind": "blok"}, "did you mean 'block'"),
        ({"value": "relevence"}, "did you mean 'relevance'"),
        ({"nu": None}, "2 values of nu: 1, 5"),
        ({"nu": 6}, "did you mean 5.0"),
        ({"example": None}, "a mean over positions would mix different words"),
        ({"limit": 0.01}, "at least the largest value"),
        ({"limit": 1, "value": "probability"}, "limit is given, of a map of probabilities"),
        ({"variable": "logit"}, "variable 'logit' is unknown"),
        ({"style": "papper"}, "did you mean 'paper'"),
        ({"width": 1}, "inches, 2.5 to 40"),
        ({"ax": 3}, "expected Axes of matplotlib"),
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


# ---- what is marked ----------------------------------------------------------------------------


def crossing(tree, name, value="indirect_effect", **where):
    found = effects.interval(tree, value)[name].to_dataset().sel(**where).squeeze()
    found = found.transpose("token", "layer")
    return (found.low <= 0).values & (found.high >= 0).values


def test_cells_whose_interval_includes_0_are_hatched_and_no_others():
    tree = random_tree(examples=1, nus=(5.0,), draws=12, layers=5, corrupted=(0.1, 0.5))
    tree["question_encoder"].probability.values[..., :2, :] = tree["corrupted"].probability.values[
        ..., None, None, None
    ]
    tree["question_encoder"].probability.values[..., :2, :] += np.random.default_rng(0).normal(
        0.1, 0.1, (1, 1, 12, 2, 2, 13)
    )
    wanted = crossing(tree, "question_encoder", kind="block")
    shares = crossing(tree, "question_encoder", "relevance", kind="block")  # a ratio has an interval of its own
    assert 5 < wanted.sum() < wanted.size - 5
    for value in plot.VALUES:
        figure = plot.heatmap(tree, "question_encoder", value=value)
        np.testing.assert_array_equal(marked(figure.axes[0], "hatched"), shares if value == "relevance" else wanted)
        assert "95 % interval over draws includes 0" in legend_of(render(figure))
        assert "Hatched: cells of which the 95 % interval" in plot.caption(figure)
    wider = marked(plot.heatmap(tree, "question_encoder", level=0.999).axes[0], "hatched")
    assert wider.sum() > wanted.sum() and wider[wanted].all()


def test_too_few_draws_are_said_and_nothing_is_hatched():
    figure = render(plot.heatmap(random_tree(examples=1, nus=(5.0,), draws=9, layers=2), "question_encoder"))
    assert not marked(figure.axes[0], "hatched").any()
    assert "No intervals: too few draws: at least 10" in legend_of(figure)
    assert "too few draws" in plot.caption(figure)


def test_what_restores_by_construction_is_framed_and_named():
    tree = random_tree(layers=3)
    tree.attrs["layers"] = 3
    figure = render(plot.heatmap(tree, "answer_decoder", **ONE))  # an answer of one token
    np.testing.assert_array_equal(marked(figure.axes[0], "framed"), [[False, False, True]])
    assert "restores by construction" in legend_of(figure) and "Framed" in plot.caption(figure)
    several = plot.heatmap(tree, "answer_decoder", nu=5, example="example-1")
    assert not marked(several.axes[0], "framed").any() and "construction" not in texts(several)
    both = plot.heatmap(tree, "question_encoder", kind="crossattention", **ONE)  # which is the block
    assert marked(both.axes[0], "framed").all()


def test_a_mean_over_examples_of_equal_layout_has_intervals_over_examples():
    tree = random_tree(examples=27, nus=(5.0,), layers=4, corrupted=(0.1, 0.9)).isel(example=slice(0, None, 3))
    figure = render(plot.heatmap(tree, "question_encoder", kind="crossattention"))
    effect = effects.indirect_effect(tree)["question_encoder"].probability.sel(kind="crossattention")
    wanted = effect.mean(("example", "draw")).squeeze().transpose("token", "layer")
    np.testing.assert_allclose(cells(figure), wanted)
    np.testing.assert_array_equal(
        marked(figure.axes[0], "hatched"), crossing(tree, "question_encoder", kind="crossattention")
    )
    said = legend_of(figure)
    assert (
        "mean of 9 examples" in said
        and "interval over examples" in said
        and "Mean over 9 examples" in plot.caption(figure)
    )
    assert y_labels(figure.axes[0])[3] == "the  3"
    tree["question_encoder"].token_text.values[0, 3] = "a"
    assert y_labels(plot.heatmap(tree, "question_encoder").axes[0])[3] == "2 words  3"


def test_other_variables_and_a_common_scale():
    tree = random_tree(layers=3)
    figure = plot.heatmap(tree, "question_encoder", variable="logit_difference", **ONE)
    wanted = effects.indirect_effect(tree)["question_encoder"].logit_difference.sel(kind="block", **ONE).mean("draw")
    np.testing.assert_allclose(cells(figure), wanted.transpose("token", "layer"))
    assert bar_of(figure.axes[0]).get_xlabel() == "indirect effect on logit difference"
    figure = plot.heatmap(tree, "answer_decoder", limit=2.0, **ONE)
    assert mesh_of(figure.axes[0])[1].vmax == 2.0


def test_the_papers_style_is_probability_in_purple_and_red():
    tree = random_tree(layers=3)
    for component, colours in (("question_encoder", "Purples"), ("answer_decoder", "Reds")):
        figure = plot.heatmap(tree, component, style="paper", **ONE)
        wanted = tree[component].probability.sel(kind="block", **ONE).mean("draw").transpose("token", "layer")
        np.testing.assert_allclose(cells(figure), wanted.dropna("token", how="all"))
        assert figure.axes[0].collections[0].get_cmap().name == colours
    assert plot.heatmap(tree, "answer_decoder", **ONE).axes[0].collections[0].get_cmap().name == "RdBu_r"


def test_heads_at_a_token_are_hatched_and_the_best_are_not():
    tree = random_tree(examples=1, nus=(5.0,), draws=12, layers=3, kinds=("attention_head",), corrupted=(0.1, 0.9))
    node = tree["question_encoder"].to_dataset(inherit=False)
    parts = [node, node.assign({name: 1 - node[name] for name in node.data_vars})]
    import xarray as xr

    both = xr.concat(parts, "head").assign_coords(head=[0, 1])
    tree["question_encoder_heads"] = type(tree)(
        both.transpose("example", "nu", "draw", "kind", "layer", "head", "token")
    )
    tree = tree.drop_nodes(["question_encoder", "answer_decoder"])
    effect = effects.indirect_effect(tree)["question_encoder_heads"].probability.squeeze().mean("draw")
    best = plot.heads(tree, "question_encoder")
    np.testing.assert_allclose(cells(best), effect.max("token").transpose("head", "layer"))
    assert not marked(best.axes[0], "hatched").any() and "largest of several" in legend_of(render(best))
    one = plot.heads(tree, "question_encoder", token=4)
    np.testing.assert_allclose(cells(one), effect.sel(token=4).transpose("head", "layer"))
    found = effects.interval(tree)["question_encoder_heads"].to_dataset().squeeze().sel(token=4)
    wanted = ((found.low <= 0) & (found.high >= 0)).transpose("head", "layer").values
    assert wanted.any()
    np.testing.assert_array_equal(marked(one.axes[0], "hatched"), wanted)
    with pytest.raises(NnblipError, match="token 99 is not in"):
        plot.heads(tree, "question_encoder", token=99)
