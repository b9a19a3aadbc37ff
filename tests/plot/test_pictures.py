"""Maps over the picture: what is drawn where, what is written, what is refused."""

import numpy as np
import pytest
import xarray as xr
from helpers.figures import ONE, WIDE, all_inside, render, texts
from helpers.trees import random_tree, regions_tree, set_probability
from matplotlib.figure import Figure
from PIL import Image

from nnblip import effects, plot
from nnblip.errors import NnblipError
from nnblip.plot.fading import LEAST


def panels(figure):
    """The maps: all Axes with a picture that fades."""
    return [axes for axes in figure.axes if axes.images and axes.images[0].get_array().shape[-1] == 4]


def strengths(axes, grid):
    """Of each region, how far it is from faded (0) to seen as it is (1), read from the picture's opacity."""
    opacity = axes.images[0].get_array()[..., 3]
    rows, columns = (
        ((np.arange(parts) + 0.5) * size / parts).astype(int) for parts, size in zip(grid, opacity.shape, strict=True)
    )
    return (opacity[np.ix_(rows, columns)] - LEAST) / (1 - LEAST)


def outlined(axes, style="for"):
    """The corners of the lines around regions."""
    found = [line for line in axes.collections if line.get_gid() == style]
    return {tuple(map(int, point)) for line in found for segment in line.get_segments() for point in segment}


def means(tree, value="indirect_effect", variable="probability", **chosen):
    numbers = {"probability": tree, "indirect_effect": effects.indirect_effect(tree)}.get(value)
    numbers = effects.relevance(tree) if numbers is None else numbers
    node = numbers["image_encoder"].to_dataset()[variable]
    node = node.sel(kind="block", **(ONE | chosen))
    return node.mean("draw") if "draw" in node.dims else node


@pytest.mark.slow
@pytest.mark.parametrize("value", plot.VALUES)
@pytest.mark.parametrize("grid", [(4, 4), (2, 3), (24, 24), (1, 1)])
def test_regions_are_as_opaque_as_their_means_are_large(value, grid):
    tree = regions_tree(grid)
    figure = render(plot.picture(tree, Image.linear_gradient("L").resize((96, 48)), value=value, **ONE))
    (axes,) = panels(figure)
    wanted = means(tree, value, layer=3).values
    regions = wanted[1:].reshape(grid)
    if value == "probability":
        ends = [float(tree["clean"].probability[0]), float(tree["corrupted"].probability.sel(ONE).mean())]
        low, high = min(*ends, regions.min()), max(*ends, regions.max())
    else:
        low, high = 0, regions.max()
    np.testing.assert_allclose(strengths(axes, grid), np.clip((regions - low) / (high - low), 0, 1), atol=1e-6)
    assert axes.images[0].get_extent() == [0, grid[1], grid[0], 0]  # the whole picture, the first row above
    sign = "" if value == "probability" else "+"
    assert f"[CLS], which has no place: {wanted[0]:{sign}.3f}".replace("-", "−") in texts(figure)


def test_the_picture_keeps_its_colours_and_proportions_and_stands_beside_the_map():
    colours = np.random.default_rng(0).integers(0, 255, (40, 90, 3), np.uint8)
    figure = render(plot.picture(regions_tree((2, 3)), colours, **ONE))
    (axes,) = panels(figure)
    np.testing.assert_allclose(axes.images[0].get_array()[..., :3], colours / 255)
    first = figure.axes[0]
    np.testing.assert_array_equal(first.images[0].get_array(), colours)
    for size in ((90, 40), (40, 90), (3000, 2000)):
        figure = render(plot.picture(regions_tree((2, 3)), Image.new("RGB", size), **ONE))
        for axes in (figure.axes[0], panels(figure)[0]):
            box = axes.get_window_extent()
            assert box.width / box.height == pytest.approx(size[0] / size[1], rel=0.01)


def by_hand(grid, numbers, layers=(3,), **settings):
    """A result with these indirect effects of regions, the same in every draw, on the clean or corrupted run."""
    tree = regions_tree(grid, layers=layers, draws=settings.pop("draws", 4))
    tree.attrs |= settings
    noising = settings.get("direction") == "noising"
    node, reference = tree["image_encoder"].to_dataset(), tree["clean" if noising else "corrupted"].to_dataset()
    effect = xr.DataArray(np.concatenate([[0.0], np.ravel(numbers)]), dims="token")
    for name in node.data_vars:
        value = reference[name] - effect if noising else reference[name] + effect
        tree["image_encoder"][name] = value.broadcast_like(node[name]).transpose(*node[name].dims)
    return tree


def test_the_strongest_are_outlined_and_those_against_by_another_line():
    numbers = [[0.4, 0.1, -0.3], [0.19, 0.21, 0.0]]
    (axes,) = panels(plot.picture(by_hand((2, 3), numbers, noise="Mean()"), WIDE, **ONE))
    np.testing.assert_allclose(strengths(axes, (2, 3)), [[1, 0.25, 0], [0.475, 0.525, 0]], atol=1e-6)
    corners = {(0, 0), (1, 0), (0, 1), (1, 1)}
    assert outlined(axes) == corners | {(x + 1, y + 1) for x, y in corners}
    assert outlined(axes, "against") == {(x + 2, y) for x, y in corners}
    assert "of the other sign" in texts(plot.picture(by_hand((2, 3), numbers), WIDE, **ONE))
    assert "of the other sign" not in texts(plot.picture(by_hand((2, 3), np.abs(numbers)), WIDE, **ONE))


def test_regions_whose_interval_includes_0_are_not_outlined():
    tree = by_hand((2, 3), [[0.2, 0, 0], [0, 0, 0.2]], draws=12)
    (axes,) = panels(plot.picture(tree, WIDE, **ONE))
    assert not outlined(axes) or "No intervals" in texts(axes.figure)  # all draws are alike
    noise = xr.DataArray(np.linspace(-1, 1, 12), dims="draw")
    spread = xr.DataArray([0, 0.05, 0, 0, 0, 0, 2.0], dims="token")
    node = tree["image_encoder"].to_dataset()
    tree["image_encoder"]["probability"] = (node.probability + noise * spread).transpose(*node.probability.dims)
    figure = plot.picture(tree, WIDE, **ONE)
    np.testing.assert_allclose(strengths(panels(figure)[0], (2, 3)), [[1, 0, 0], [0, 0, 1]], atol=1e-6)
    assert outlined(panels(figure)[0]) == {(0, 0), (1, 0), (0, 1), (1, 1)}
    assert "interval above 0" in texts(figure)
    few = plot.picture(regions_tree(), WIDE, **ONE)
    assert "No intervals: too few draws: at least 10." in texts(few) and "No intervals" in plot.caption(few)


def test_damaged_regions_are_seen_by_the_logit_difference_and_restored_ones_by_probability():
    for direction, name in (("noising", "logit_difference"), ("denoising", "probability")):
        tree = regions_tree()
        tree.attrs["direction"] = direction
        figure = plot.picture(tree, WIDE, **ONE)
        regions = means(tree, variable=name, layer=3).values[1:].reshape(2, 3)
        np.testing.assert_allclose(
            strengths(panels(figure)[0], (2, 3)), np.clip(regions / max(regions.max(), 0.1), 0, 1), atol=1e-6
        )
        done = {"noising": "damaged one patch at a time", "denoising": "restored one patch at a time"}[direction]
        assert done in texts(figure) and done in plot.caption(figure)
        other = plot.picture(tree, WIDE, variable="log_probability", **ONE)
        assert "log P(answer)" in texts(other)


def test_a_map_of_next_to_nothing_looks_like_one():
    tree = by_hand((2, 3), np.full((2, 3), 0.01), direction="noising", noise="Mean()")
    figure = plot.picture(tree, WIDE, **ONE)
    assert strengths(panels(figure)[0], (2, 3)).max() < 0.11 and not outlined(panels(figure)[0])
    assert "Weak: no patch alone has an effect of 0.2" in texts(figure)
    strong = by_hand((2, 3), np.full((2, 3), 0.5), direction="noising", noise="Mean()")
    assert "Weak" not in texts(plot.picture(strong, WIDE, **ONE))


def test_a_map_is_drawn_into_axes_that_are_given_and_says_what_it_shows():
    own = Figure(figsize=(3, 4))
    axes = own.add_axes((0.2, 0.5, 0.6, 0.4))
    assert plot.picture(regions_tree(), WIDE, ax=axes, **ONE) is own
    (again,) = panels(plot.picture(regions_tree(), WIDE, **ONE))
    np.testing.assert_array_equal(axes.images[0].get_array(), again.images[0].get_array())
    assert "Where in the picture" in plot.caption(axes) and "what is the color of the ball" in plot.caption(axes)
    with pytest.raises(NnblipError, match="choose one with layer="):
        plot.picture(regions_tree(layers=(0, 1)), WIDE, ax=axes, **ONE)


@pytest.mark.slow
def test_every_layer_has_a_panel_on_one_scale():
    for layers in ((0, 1), tuple(range(12)), (2, 5, 7)):
        tree = regions_tree(layers=layers)
        figure = render(plot.picture(tree, WIDE, **ONE))
        all_inside(figure)
        assert [axes.get_title("left") for axes in panels(figure)] == [f"layer {layer}" for layer in layers]
        most = float(means(tree)[:, 1:].max())
        for axes, layer in zip(panels(figure), layers, strict=True):
            wanted = np.clip(means(tree, layer=layer)[1:].values.reshape(2, 3) / most, 0, 1)
            np.testing.assert_allclose(strengths(axes, (2, 3)), wanted, atol=1e-6)
        for layer in (layers[0], layers[-1]):
            (axes,) = panels(render(plot.picture(tree, WIDE, layer=layer, **ONE)))
            most_here = float(means(tree, layer=layer)[1:].max())
            wanted = np.clip(means(tree, layer=layer)[1:].values.reshape(2, 3) / most_here, 0, 1)
            np.testing.assert_allclose(strengths(axes, (2, 3)), wanted, atol=1e-6)


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
    said = " ".join(texts(figure).split())
    assert "Relevance is undefined" in said and "threshold of 0.05" in said and "no place: no value" in said
    (axes,) = panels(figure)
    assert strengths(axes, (2, 3)).max() == pytest.approx(0) and not outlined(axes)


def test_regions_without_a_value_fade_and_that_is_said():
    tree = regions_tree()
    assert "without a value" not in texts(plot.picture(tree, WIDE, **ONE))
    tree["image_encoder"]["probability"].values[..., 2] = np.nan
    figure = render(plot.picture(tree, WIDE, **ONE))
    assert "Regions without a value are faded" in texts(figure)
    assert strengths(panels(figure)[0], (2, 3))[0, 1] == pytest.approx(0)


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
            assert r"$\bad$ in $dollars" in figure.texts[0].get_text()
            all_inside(figure)


def test_the_grid_of_a_stored_result_is_known(tmp_path):
    regions_tree().to_zarr(tmp_path / "r.zarr", zarr_format=2)
    stored = plot.picture(xr.open_datatree(tmp_path / "r.zarr", engine="zarr"), WIDE, **ONE)
    assert panels(render(stored))[0].images[0].get_extent() == [0, 3, 2, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"value": "relevence"}, "did you mean 'relevance'"),
        ({"nu": None}, "2 values of nu: 1, 5"),
        ({"nu": 6}, "did you mean 5.0"),
        ({"example": None}, "3 values of example: 'example-0'"),
        ({"example": "exampel-0"}, "did you mean 'example-0'"),
        ({"layer": 2}, "layer 2 of image_encoder is not in the result. It has: 3; trace with noise_at='pixels'"),
        ({"variable": "logit_diference"}, "did you mean 'logit_difference'"),
        ({"value": "probability", "variable": "logit_difference"}, "leave variable out"),
        ({"width": 0.5}, "width 0.5"),
        ({"threshold": 0, "value": "relevance"}, "a positive number"),
    ],
)
def test_picture_says_what_there_is(arguments, message):
    with pytest.raises(NnblipError) as error:
        plot.picture(regions_tree(), WIDE, **(ONE | arguments))
    assert message in str(error.value)


def test_picture_needs_the_image_encoder_and_its_grid():
    with pytest.raises(NnblipError, match=r"only /question_encoder, /answer_decoder; trace it with nnblip.pointing"):
        plot.picture(random_tree(layers=2), WIDE, **ONE)
    tree = regions_tree()
    with pytest.raises(NnblipError, match=r"4 tokens and the grid \[2, 3\]"):
        plot.picture(tree.isel(token=slice(4)), WIDE, **ONE)
    del tree["image_encoder"].attrs["grid"]
    with pytest.raises(NnblipError, match=r"needs its attribute `grid`"):
        plot.picture(tree, WIDE, **ONE)
