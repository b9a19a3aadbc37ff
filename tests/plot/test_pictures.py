"""Maps over the picture: what is drawn where, what is written, what is refused."""

import numpy as np
import pytest
import xarray as xr
from helpers.figures import ONE, WIDE, render, texts
from helpers.trees import random_tree, regions_tree, set_probability
from matplotlib.text import Text
from PIL import Image

from nnblip import effects, plot
from nnblip.errors import NnblipError


def panels(figure):
    return [axes for axes in figure.axes if len(axes.images) == 2]


def drawn(axes):
    return axes.images[1].get_array().filled(np.nan)


def means(tree, value="indirect_effect", **chosen):
    numbers = {"probability": tree, "indirect_effect": effects.indirect_effect(tree)}.get(value)
    numbers = effects.relevance(tree) if numbers is None else numbers
    node = numbers["image_encoder"].to_dataset()["probability"]
    node = node.sel(kind="block", **(ONE | chosen))
    return node.mean("draw") if "draw" in node.dims else node


@pytest.mark.slow
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


@pytest.mark.slow
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
    assert "Relevance is undefined" in said and "threshold of 0.05" in said and "[CLS] no value" in said
    (axes,) = figure.axes  # no colour bar
    assert len(axes.images) == 1


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


@pytest.mark.slow
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
    stored = plot.picture(xr.open_datatree(tmp_path / "r.zarr", engine="zarr"), WIDE, **ONE)
    assert drawn(panels(render(stored))[0]).shape == (2, 3)


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
