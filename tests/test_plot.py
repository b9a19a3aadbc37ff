"""Figures: what is written on them, what colours stand for, what is refused."""

import io
import subprocess
import sys
from typing import Any

import matplotlib
import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from trees import ANSWERS, QUESTIONS, random_tree, regions_tree, set_probability

from nnblip import effects, plot
from nnblip.errors import NnblipError

ONE: dict[str, Any] = {"nu": 5, "example": "example-0"}


def render(figure):
    assert isinstance(figure, Figure)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=50)
    assert out.getvalue().startswith(b"\x89PNG")
    return figure


def texts(figure):
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def x_labels(axes):
    return [label.get_text() for label in axes.get_xticklabels()]


def y_labels(axes):
    return [label.get_text() for label in axes.get_yticklabels()]


def cells(figure):
    mesh = figure.axes[0].collections[0]
    rows, columns = len(figure.axes[0].get_yticks()), len(figure.axes[0].get_xticks())
    return mesh.get_array().filled(np.nan).reshape(rows, columns)


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
        np.testing.assert_allclose(cells(figure), wanted.mean("draw").transpose("token", "layer"))


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
    assert "Relevance is undefined" in said and "threshold of 0.01" in said
    assert "0.8970" in said and "0.8969" in said
    assert x_labels(figure.axes[0]) == ["0", "1", "2"]
    assert "Relevance is undefined" not in texts(plot.heatmap(tree, "question_encoder", **ONE))


def test_partly_undefined_relevance_is_said():
    tree = random_tree(layers=3, draws=4)
    tree["corrupted"]["probability"].values[0, 1, :3] = 0.99
    assert "defined in 1 of 4 draws" in texts(render(plot.heatmap(tree, "question_encoder", value="relevance", **ONE)))


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


WIDE = Image.linear_gradient("L").resize((90, 40))


def panels(figure):
    return [axes for axes in figure.axes if len(axes.images) == 2]


def drawn(axes):
    return axes.images[1].get_array().filled(np.nan)


def means(tree, value="indirect_effect", **chosen):
    numbers = {"probability": tree, "indirect_effect": effects.indirect_effect(tree)}.get(value)
    numbers = effects.relevance(tree) if numbers is None else numbers
    node = numbers["image_encoder"].to_dataset()["probability"]
    return node.sel(kind="block", **(ONE | chosen)).mean("draw")


@pytest.mark.parametrize("value", plot.VALUES)
@pytest.mark.parametrize("grid", [(4, 4), (2, 3), (24, 24), (1, 1)])
def test_regions_are_means_over_draws_at_their_place(value, grid):
    tree = regions_tree(grid)
    figure = render(plot.picture(tree, WIDE, value=value, **ONE))
    (axes,) = panels(figure)
    wanted = means(tree, value, layer=3).values
    for row in range(grid[0]):
        for column in range(grid[1]):
            assert drawn(axes)[row, column] == pytest.approx(wanted[1 + row * grid[1] + column])
    assert drawn(axes).shape == grid
    for image in axes.images:  # the whole picture, the first row above
        assert image.get_extent() == [0, grid[1], grid[0], 0]
    sign = "" if value == "probability" else "+"
    assert axes.get_xlabel() == f"[CLS] {wanted[0]:{sign}.3f}".replace("-", "−")


def test_the_picture_keeps_its_proportions():
    for size in ((90, 40), (40, 90), (3000, 2000)):
        figure = render(plot.picture(regions_tree((2, 3)), Image.new("RGB", size), **ONE))
        box = panels(figure)[0].get_window_extent()
        assert box.width / box.height == pytest.approx(size[0] / size[1], rel=0.01)


def test_the_picture_is_seen_where_there_is_no_effect_and_through_every_other():
    tree = regions_tree()
    (axes,) = panels(plot.picture(tree, WIDE, **ONE))
    assert np.unique(axes.images[0].get_array()).size > 30
    seen = axes.images[1].to_rgba(np.array([-1.0, -0.1, 0.0, 0.1, 1.0]) * axes.images[1].norm.vmax)
    assert seen[2, 3] == pytest.approx(0, abs=0.01)
    assert seen[1, 3] == pytest.approx(seen[3, 3], abs=0.01)
    assert 0 < seen[1, 3] < seen[0, 3] == seen[4, 3] < 0.8
    assert seen[0, 2] > seen[0, 0] and seen[4, 0] > seen[4, 2]  # blue below 0, red above


@pytest.mark.parametrize("value", ["indirect_effect", "relevance"])
def test_effects_of_regions_have_colours_centred_at_0(value):
    tree = regions_tree()
    tree["image_encoder"]["probability"].values[..., 0] = 1e3  # [CLS] has no colour
    figure = render(plot.picture(tree, WIDE, value=value, **ONE))
    norm = panels(figure)[0].images[1].norm
    assert norm.vmin == -norm.vmax
    assert norm.vmax == pytest.approx(np.abs(drawn(panels(figure)[0])).max())
    assert value.replace("_", " ") in figure.axes[-1].get_ylabel() and "“red”" in figure.axes[-1].get_ylabel()


def test_every_layer_has_a_panel_on_one_scale():
    for layers in ((0, 1), tuple(range(12)), (2, 5, 7)):
        tree = regions_tree(layers=layers)
        figure = render(plot.picture(tree, WIDE, **ONE))
        assert [axes.get_title() for axes in panels(figure)] == [f"layer {layer}" for layer in layers]
        assert {axes.images[1].norm.vmax for axes in panels(figure)} == {float(np.abs(means(tree)[:, 1:]).max())}
        for axes, layer in zip(panels(figure), layers, strict=True):
            np.testing.assert_allclose(drawn(axes).ravel(), means(tree, layer=layer)[1:])
            assert axes.get_xlabel()[6:].replace("−", "-") == f"{float(means(tree, layer=layer)[0]):+.3f}"
        assert len([axes for axes in figure.axes if axes.get_visible()]) == len(layers) + 1
        for layer in (layers[0], layers[-1]):
            for one in (plot.picture(tree, WIDE, layer=layer, **ONE), plot.picture(tree.sel(layer=layer), WIDE, **ONE)):
                (axes,) = panels(render(one))
                assert axes.get_title() == f"layer {layer}"
                np.testing.assert_allclose(drawn(axes).ravel(), means(tree, layer=layer)[1:])


def test_picture_says_question_answer_and_settings():
    said = texts(render(plot.picture(regions_tree(), WIDE, value="probability", **ONE)))
    for part in (
        "what is the color of the ball left of the box → red",
        "image encoder, block restored, ν = 5, mean of 4 draws",
        "[CLS] has no place",
        "layer 3",
        "clean 0.",
        "corrupted 0.",
    ):
        assert part in said


def test_the_picture_comes_from_the_result_or_is_asked_for(tmp_path):
    path = tmp_path / "scene.png"
    WIDE.save(path)
    own = plot.picture(regions_tree(path=path), **ONE)
    for image in (path, str(path), WIDE, np.asarray(WIDE), lambda: WIDE):
        given = plot.picture(regions_tree(path="elsewhere.png"), image, **ONE)
        for one, other in zip(panels(own)[0].images, panels(given)[0].images, strict=True):
            np.testing.assert_array_equal(one.get_array(), other.get_array())
    for stored, said in (("", "does not say the path"), ("elsewhere.png", "'elsewhere.png': there is no such file")):
        with pytest.raises(NnblipError, match=said) as error:
            plot.picture(regions_tree(path=stored), **ONE)
        assert "picture(tree, image)" in str(error.value)
    with pytest.raises(NnblipError, match=r"'gone.png': there is no such file"):
        plot.picture(regions_tree(path=path), "gone.png", **ONE)


def test_undefined_relevance_of_regions_is_said():
    tree = set_probability(regions_tree(), clean=0.897, corrupted=0.8969)
    figure = render(plot.picture(tree, WIDE, value="relevance", **ONE))
    said = texts(figure)
    assert "Relevance is undefined" in said and "threshold of 0.01" in said and "[CLS] no value" in said
    (axes,) = figure.axes  # no colour bar
    assert len(axes.images) == 1
    tree = regions_tree()
    tree["corrupted"]["probability"].values[0, 1, :3] = 0.99
    assert "defined in 1 of 4 draws" in texts(render(plot.picture(tree, WIDE, value="relevance", **ONE)))


def test_regions_without_a_value_are_grey_and_said():
    tree = regions_tree()
    assert "grey" not in texts(plot.picture(tree, WIDE, **ONE))
    tree["image_encoder"]["probability"].values[..., 2] = np.nan
    figure = render(plot.picture(tree, WIDE, **ONE))
    assert "grey: no value" in texts(figure)
    (axes,) = panels(figure)
    assert np.argwhere(np.isnan(drawn(axes))).tolist() == [[0, 1]]
    *colour, opacity = axes.images[1].to_rgba(axes.images[1].get_array())[0, 1]
    assert len(set(colour)) == 1 and opacity == 1


def test_dollars_and_long_questions_fit_above_any_picture():
    tree = regions_tree(layers=(0, 1, 2, 3, 4))
    question = r"how much is $\bad$ in $dollars" + " and cents" * 30
    tree.dataset = tree.to_dataset().assign_coords(
        question=("example", [question] * 3), answer=("example", [r"$\worse$ {"] * 3)
    )
    for size in ((90, 40), (20, 90)):
        for layer in (None, 3):
            figure = render(plot.picture(tree, Image.new("L", size), layer=layer, **ONE))
            title = figure.get_suptitle()
            assert r"$\bad$ in $dollars" in title and "ν = 5" in title
            for text in figure.findobj(lambda artist: isinstance(artist, Text) and len(artist.get_text()) > 8):
                box = text.get_window_extent()
                assert figure.bbox.containsx(box.x0) and figure.bbox.containsx(box.x1)
                assert figure.bbox.containsy(box.y0) and figure.bbox.containsy(box.y1)


def test_the_grid_of_a_stored_result_is_known(tmp_path):
    regions_tree().to_zarr(tmp_path / "r.zarr", zarr_format=2)
    render(plot.picture(xr.open_datatree(tmp_path / "r.zarr", engine="zarr"), WIDE, **ONE))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"value": "relevence"}, "did you mean 'relevance'"),
        ({"nu": None}, "2 values of nu: 1, 5"),
        ({"nu": 6}, "did you mean 5.0"),
        ({"example": None}, "3 values of example: 'example-0'"),
        ({"example": "exampel-0"}, "did you mean 'example-0'"),
        ({"layer": 2}, "layer 2 of image_encoder is not in the result. It has: 3; trace with noise_at='pixels'"),
        ({"threshold": 0, "value": "relevance"}, "a positive number"),
    ],
)
def test_picture_says_what_there_is(arguments, message):
    with pytest.raises(NnblipError) as error:
        plot.picture(regions_tree(), WIDE, **(ONE | arguments))
    assert message in str(error.value)


def test_picture_needs_the_image_encoder_and_its_grid():
    with pytest.raises(NnblipError, match=r"only /question_encoder, /answer_decoder; trace with components="):
        plot.picture(random_tree(layers=2), WIDE, **ONE)
    tree = regions_tree()
    with pytest.raises(NnblipError, match=r"4 tokens and the grid \[2, 3\]"):
        plot.picture(tree.isel(token=slice(4)), WIDE, **ONE)
    del tree["image_encoder"].attrs["grid"]
    with pytest.raises(NnblipError, match=r"needs its attribute `grid`"):
        plot.picture(tree, WIDE, **ONE)


@pytest.mark.parametrize("nus", [(5.0,), (0.5, 1, 2, 5, 10), (3, 4, 5, 6), (0, 1, 3, 10), (10, 1)])
def test_gamma_labels_every_nu_and_has_a_line_per_component(nus):
    tree = random_tree(nus=nus, layers=3)
    figure = render(plot.gamma(tree))
    axes = figure.axes[0]
    assert [label.split("\n")[0] for label in x_labels(axes)] == [f"{nu:g}" for nu in sorted(nus)]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "question encoder",
        "answer decoder",
    ]
    for line, name in zip(axes.containers, ("question_encoder", "answer_decoder"), strict=True):
        wanted = effects.gamma(tree)[name].sel(kind="block").mean("draw").mean("example").sortby("nu")
        np.testing.assert_allclose(line.lines[0].get_xdata(), sorted(nus))
        np.testing.assert_allclose(line.lines[0].get_ydata(), wanted)
        assert line.has_yerr


def test_gamma_bars_are_the_intervals():
    tree = random_tree(examples=6, nus=(1, 5), layers=2)
    container: Any = plot.gamma(tree, kind="crossattention").axes[0].containers[0]
    (bars,) = container.lines[2]
    curve = effects.gamma(tree)["question_encoder"].sel(kind="crossattention")
    for at, segment in enumerate(bars.get_segments()):
        _, low, high = effects.mean_interval(curve.isel(nu=at).transpose("example", "draw").values)
        np.testing.assert_allclose(segment[:, 1], [low, high])


def test_gamma_of_one_number_has_no_bar():
    container: Any = render(plot.gamma(random_tree(examples=1, draws=1, layers=2))).axes[0].containers[0]
    assert np.isfinite(container.lines[0].get_ydata()).all()
    assert all(segment.size == 0 for segment in container.lines[2][0].get_segments())  # NaN is not drawn


def test_gamma_says_how_many_examples_are_left():
    tree = random_tree(examples=5, nus=(1, 5), layers=2)
    assert "n = " not in texts(plot.gamma(tree))
    tree["corrupted"]["probability"].values[:3, 0] = 0.99
    labels = x_labels(render(plot.gamma(tree)).axes[0])
    assert labels == ["1\nn = 2", "5\nn = 5"]


def test_gamma_that_is_undefined_everywhere_is_said():
    tree = set_probability(random_tree(layers=2), clean=0.5, corrupted=0.6)
    assert "Relevance is undefined" in texts(render(plot.gamma(tree)))


def test_gamma_of_one_example_and_of_a_selected_nu():
    tree = random_tree(layers=2)
    assert "intervals over draws" in texts(render(plot.gamma(tree.sel(example=["example-1"]))))
    assert "intervals over draws" in texts(render(plot.gamma(tree.sel(example="example-1", nu=5.0))))
    assert "3 examples" in texts(render(plot.gamma(tree)))


def test_gamma_leaves_out_components_without_the_kind():
    tree = random_tree(layers=2)
    decoder = tree["answer_decoder"].to_dataset(inherit=False)
    tree["answer_decoder"].dataset = decoder.sel(kind=["block"])
    legend = render(plot.gamma(tree, kind="crossattention")).axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["question encoder"]
    with pytest.raises(NnblipError, match="did you mean 'block'"):
        plot.gamma(tree, kind="blok")


def test_no_figure_is_left_open_and_no_setting_changed():
    before = dict(matplotlib.rcParams)
    plot.heatmap(random_tree(layers=2), "question_encoder", **ONE)
    plot.gamma(random_tree(layers=2))
    plot.picture(regions_tree(), WIDE, **ONE)
    assert dict(matplotlib.rcParams) == before
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []


def test_pyplot_is_not_imported():
    code = "import sys, nnblip.plot; sys.exit(bool({'matplotlib.pyplot', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
