"""Attention and Grad-CAM on the picture, and the lenses."""

import numpy as np
import pytest
import xarray as xr
from helpers.figures import WIDE, all_inside, render, texts
from matplotlib.figure import Figure

from nnblip import plot
from nnblip.errors import NnblipError
from nnblip.plot.fading import LEAST

TOKENS = ["[CLS]", "where", "is", "it", "[SEP]"]


def looks(grid=(2, 3), examples=1):
    rng = np.random.default_rng(0)
    shape = (examples, 3, 2, 5, 1 + grid[0] * grid[1])
    dims = ("example", "layer", "head", "token", "source")
    node = xr.Dataset(
        {name: (dims, rng.uniform(0, 1, shape)) for name in ("attention", "grad_cam")},
        {
            "layer": range(3), "head": range(2), "token": range(5), "source": range(shape[-1]),
            "token_text": (("example", "token"), [TOKENS] * examples),
        },
        {"grid": list(grid)},
    )  # fmt: skip
    names = [f"example-{number}" for number in range(examples)]
    labels = {name: ("example", [f"{name} $x$"] * examples) for name in ("question", "answer")}
    root = xr.Dataset(coords={"example": names, **labels}, attrs={"reading": "attention", "model": "random"})
    return xr.DataTree.from_dict({"/": root, "/question_encoder/crossattention": node})


def opacity(figure, grid):
    (axes,) = [axes for axes in figure.axes if axes.images and axes.images[0].get_array().shape[-1] == 4]
    image = axes.images[0].get_array()[..., 3]
    rows, columns = (
        ((np.arange(parts) + 0.5) * size / parts).astype(int) for parts, size in zip(grid, image.shape, strict=True)
    )
    return (image[np.ix_(rows, columns)] - LEAST) / (1 - LEAST)


@pytest.mark.parametrize("weights", ["grad_cam", "attention"])
@pytest.mark.parametrize("chosen", [{}, {"layer": 2}, {"layer": 0, "head": 1, "token": 3}])
def test_patches_are_as_opaque_as_their_weights_are_large(weights, chosen):
    tree = looks()
    node = tree["question_encoder/crossattention"][weights].isel(example=0).sel(chosen)
    wanted = node
    if weights == "grad_cam" and "token" in wanted.dims:
        wanted = wanted.sum("token")
    wanted = wanted.mean([dim for dim in wanted.dims if dim != "source"]).values
    figure = render(plot.attention(tree, WIDE, weights=weights, **chosen))
    np.testing.assert_allclose(opacity(figure, (2, 3)), (wanted[1:] / wanted[1:].max()).reshape(2, 3), atol=1e-6)
    cls = wanted[0] / wanted.sum() if weights == "grad_cam" else wanted[0]
    assert f"no place: {cls:.3f}" in texts(figure)
    said = plot.caption(figure)
    assert "not what the answer depends on" in said and "question $x$" in said
    assert ("Grad-CAM" in said) is (weights == "grad_cam")
    if "token" in chosen:
        assert "layer 0, head 1, token 3 it" in said
    all_inside(figure)


def test_it_is_drawn_into_axes_that_are_given():
    own = Figure(figsize=(3, 4))
    axes = own.add_axes((0.2, 0.5, 0.6, 0.4))
    assert plot.attention(looks(), WIDE, ax=axes) is own
    np.testing.assert_array_equal(
        axes.images[0].get_array(), plot.attention(looks(), WIDE).axes[1].images[0].get_array()
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": "gradcam"}, "did you mean 'grad_cam'"),
        ({"layer": 9}, "layer 9 is not in the result. It has: 0, 1, 2."),
        ({"head": True}, "head True is not in the result"),
        ({"token": 5}, "token 5 is not in the result"),
        ({"example": "one"}, "example 'one' is not in the result"),
    ],
)
def test_attention_says_what_there_is(arguments, message):
    with pytest.raises(NnblipError) as error:
        plot.attention(looks(), WIDE, **arguments)
    assert message in str(error.value)


def test_what_has_no_such_weights_is_refused():
    without = looks()
    del without["question_encoder/crossattention"]["grad_cam"]
    with pytest.raises(NnblipError, match="has no grad_cam"):
        plot.attention(without, WIDE)
    with pytest.raises(NnblipError, match=r"expected what nnblip\.attention"):
        plot.attention(lenses(), WIDE)
    with pytest.raises(NnblipError, match="2 values of example"):
        plot.attention(looks(examples=2), WIDE)


def lenses():
    rng = np.random.default_rng(1)
    coords = {"layer": range(4), "said": (("example", "layer"), [["sand", "$", "road", "road"]])}
    names = ("probability", "log_probability", "logit_difference")
    decoder = xr.Dataset({name: (("example", "layer"), rng.uniform(0, 1, (1, 4))) for name in names}, coords)
    values = np.log(rng.uniform(0.1, 1, (1, 4, 2)))
    logit = xr.Dataset(dict.fromkeys(names, (("example", "layer", "token"), values)), {"layer": range(4)})
    logit["probability"] = np.exp(logit["log_probability"])
    labels = {name: ("example", [f"{name} $x$"]) for name in ("question", "answer")}
    root = xr.Dataset(coords={"example": ["one"], **labels}, attrs={"reading": "lens"})
    return xr.DataTree.from_dict({"/": root, "/decoder_lens": decoder, "/logit_lens": logit})


def test_lenses_are_lines_over_layers_with_what_is_said():
    tree = lenses()
    figure = render(plot.lens(tree))
    first, second = [line for line in figure.axes[0].lines if line.get_gid() == "mean"]
    np.testing.assert_allclose(first.get_ydata(), tree["decoder_lens"].probability[0])
    np.testing.assert_allclose(second.get_ydata(), tree["logit_lens"].probability[0].prod("token"))
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["0  sand", "1  $", "2  road", "3  road"]
    all_inside(figure)
    with pytest.raises(NnblipError, match=r"expected what nnblip\.lens"):
        plot.lens(looks())
