"""One example on a page."""

import re

import numpy as np
import pytest
import xarray as xr
from helpers.figures import ONE, WIDE, all_inside, render, texts
from helpers.trees import random_tree, regions_tree
from PIL import Image

import nnblip
from nnblip import effects, plot
from nnblip.errors import NnblipError

EXAMPLE = {"example": "example-0"}


@pytest.fixture
def tree():
    tree = random_tree(examples=2, draws=12, layers=3, kinds=("block",))
    said = np.full((2, 2, 12), "")
    said = said.astype(object)
    said[0, 0, :10], said[0, 1, :7], said[0, 1, 7:10] = "red", "blue", "red"
    node = tree["corrupted"].to_dataset(inherit=False)
    tree["corrupted"].dataset = node.assign_coords(said=(("example", "nu", "draw"), said.astype(str)))
    return tree


def where():
    tree = regions_tree((2, 3), nus=(1.0,), draws=1)
    tree.attrs |= {"direction": "noising", "noise": "Mean()"}
    return tree.sel(example=["example-0"])


def test_a_page_has_the_picture_maps_gamma_and_the_table_with_the_numbers_of_the_result(tree):
    figure = render(plot.summary(tree, where(), None, WIDE, **EXAMPLE))
    said = texts(figure)
    titles = re.findall(r"^\(([a-z])\) (.+)$", said, re.MULTILINE)
    assert [letter for letter, _ in titles] == list("abcde")
    caption = plot.caption(figure)
    for letter, part in zip(
        "abcde", ("Where in the picture", "Indirect effect", "Indirect effect", "Γ(ν)", "P(answer"), strict=True
    ):
        assert f"({letter}) {part}" in caption
    totals = effects.interval(tree.sel(EXAMPLE), "total_effect")["corrupted"]
    for nu, often in ((1.0, "red (10 of 10)"), (5.0, "blue (7 of 10)")):
        at = totals.sel(nu=nu)
        value, low, high = (float(at[name].squeeze()) for name in ("value", "low", "high"))
        assert f"{value:.3f} [{low:.3f}, {high:.3f}]".replace("-", "−") in said and often in said
        assert f"{float(tree['corrupted'].probability.sel(nu=nu, **EXAMPLE).mean()):.3f}" in said
    (mesh,) = [
        one for axes in figure.axes for one in axes.collections
        if type(one).__name__ == "QuadMesh" and one.get_array().shape == (13, 3)
    ]  # fmt: skip
    effect = nnblip.indirect_effect(tree)["question_encoder"].probability.sel(kind="block", **ONE).mean("draw")
    np.testing.assert_allclose(mesh.get_array().filled(np.nan), effect.transpose("token", "layer"), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(90, 40), (40, 90), (64, 64)])
@pytest.mark.parametrize("width", [5.0, 6.9])
def test_everything_is_on_the_page(tree, size, width):
    question = "what is the $color$ of the very-long-word " * 4
    tree.dataset = tree.to_dataset().assign_coords(question=("example", [question] * 2))
    pointing = where()
    pointing.dataset = pointing.to_dataset().assign_coords(question=("example", [question]))
    all_inside(render(plot.summary(tree, pointing, None, Image.new("RGB", size), width=width, **EXAMPLE)))
    one = tree.sel(nu=5.0)
    all_inside(render(plot.summary(one, None, None, Image.new("RGB", size), width=width, **EXAMPLE)))


def test_what_is_not_known_has_no_place_on_it(tree):
    node = tree["corrupted"].to_dataset(inherit=False)
    tree["corrupted"].dataset = node.drop_vars("said")
    few = tree.isel(draw=slice(3), nu=[1])
    said = texts(plot.summary(few, None, None, WIDE, **EXAMPLE))
    assert "says most often" not in said and "Γ" not in said and "what the answer needs" not in said
    assert "too few draws" in plot.caption(plot.summary(few, None, None, WIDE, **EXAMPLE))


def test_results_of_another_question_are_refused(tree):
    other = where()
    other.dataset = other.to_dataset().assign_coords(answer=("example", ["blue"]))
    with pytest.raises(NnblipError, match=r"where is of .* → 'blue': expected that of .* → 'red'"):
        plot.summary(tree, other, None, WIDE, **EXAMPLE)
    with pytest.raises(NnblipError, match="2 values of example"):
        plot.summary(tree, None, None, WIDE)
    with pytest.raises(NnblipError, match=r"did you mean 5\.0"):
        plot.summary(tree, None, None, WIDE, nu=6, **EXAMPLE)
    without = xr.DataTree.from_dict({name: tree[name].to_dataset() for name in ("/", "clean", "corrupted")})
    with pytest.raises(NnblipError, match="no map of question_encoder or answer_decoder"):
        plot.summary(without, None, None, WIDE, **EXAMPLE)
