"""Roles, layer profiles, differences, pairs and sheets: the numbers that are drawn, and what is marked."""

import numpy as np
import pytest
import xarray as xr
from helpers.figures import bar_of, legend_of, marked, mesh_of, render, texts, y_labels
from helpers.lists import pair_tree, with_roles
from helpers.trees import QUESTIONS, random_tree
from PIL import Image

from nnblip import effects, plot
from nnblip.errors import NnblipError


@pytest.fixture(scope="module")
def many():
    """27 examples, 9 of each of three questions."""
    tree = random_tree(examples=27, nus=(5.0,), draws=3, kinds=("block",), layers=3, corrupted=(0.1, 0.9))
    tree.attrs["layers"] = 3
    node, corrupted = tree["question_encoder"], tree["corrupted"].probability.values[..., None, None]
    noise = np.random.default_rng(1).normal(0.15, 0.2, node.probability[..., 1, :].shape)
    node.probability.values[..., 1, :] = np.where(node.probability[..., 1, :].isnull(), np.nan, corrupted + noise)
    return with_roles(tree)


def test_roles_are_means_over_examples_that_have_them(many):
    figure = render(plot.roles(many, "question_encoder"))
    numbers, norm = mesh_of(figure.axes[0])
    averaged = effects.by_role(effects.indirect_effect(many))["question_encoder"]
    wanted = averaged.probability.mean(("draw", "example")).squeeze().transpose("role", "layer")
    np.testing.assert_allclose(numbers, wanted)
    assert norm.vmax == -norm.vmin == pytest.approx(np.abs(wanted).max())
    counts = averaged.probability.notnull().any(("nu", "draw", "kind", "layer")).sum("example").values
    assert y_labels(figure.axes[0]) == [f"{role} ({n})" for role, n in zip(averaged.role.values, counts, strict=True)]
    found = effects.interval(effects.by_role(many))["question_encoder"].to_dataset().squeeze()
    crossing = ((found.low <= 0) & (found.high >= 0)).transpose("role", "layer").values
    assert crossing.any() and not crossing.all()
    np.testing.assert_array_equal(marked(figure.axes[0], "hatched"), crossing)


def test_roles_of_few_examples_have_a_dash(many):
    some = many.isel(example=[*range(2, 27, 3), 0, 3])  # 9 of one question, 2 of another
    figure = render(plot.roles(some, "question_encoder"))
    few = [label.endswith("(2)") for label in y_labels(figure.axes[0])]
    assert any(few) and not all(few)
    np.testing.assert_array_equal(marked(figure.axes[0], "few").all(1), few)
    assert "fewer than 8 examples, no interval" in legend_of(figure)
    assert not marked(figure.axes[0], "hatched")[few].any()
    all_few = render(plot.roles(many.isel(example=range(4)), "question_encoder"))
    assert not marked(all_few.axes[0], "few").any() and "No intervals: too few examples" in legend_of(all_few)


def test_roles_that_restore_by_construction_are_framed(many):
    one_token = render(plot.roles(many.isel(example=range(0, 27, 3)), "answer_decoder"))
    np.testing.assert_array_equal(marked(one_token.axes[0], "framed"), [[False, False, True]])
    longer = plot.roles(many.isel(example=range(1, 27, 3)), "answer_decoder")
    assert not marked(longer.axes[0], "framed").any()


def test_layers_have_a_line_and_a_band_for_each_type(many):
    figure = render(plot.layers(many, "question_encoder", by="question_type"))
    effect = effects.indirect_effect(many)["question_encoder"].probability.squeeze().mean(("token", "draw"))
    drawn = [line for line in figure.axes[0].lines if line.get_gid() == "mean"]
    bands = [one for one in figure.axes[0].collections if one.get_gid() == "band"]
    assert len(drawn) == len(bands) == 3
    for line, area, name in zip(drawn, bands, ("color", "location", "number"), strict=True):
        own = effect.isel(example=many.question_type.values == name)
        np.testing.assert_allclose(line.get_ydata(), own.mean("example"))
        bounds = effects.interval(own)
        path = area.get_paths()[0].vertices
        for layer in range(3):
            there = path[np.isclose(path[:, 0], layer), 1]
            np.testing.assert_allclose([there.min(), there.max()], [bounds.low[layer], bounds.high[layer]], atol=1e-12)
        assert f"{name}, n = 9" in texts(figure)
    assert not [one for one in figure.axes[0].patches if one.get_gid() == "structural"]


def test_layers_of_a_role_and_what_is_grey(many):
    figure = plot.layers(many, "question_encoder", role="question word")
    wanted = effects.by_role(effects.indirect_effect(many))["question_encoder"].probability.sel(role="question word")
    (line,) = (line for line in figure.axes[0].lines if line.get_gid() == "mean")
    np.testing.assert_allclose(line.get_ydata(), wanted.squeeze().mean(("example", "draw")))
    decoder = render(plot.layers(many.isel(example=range(0, 27, 3)), "answer_decoder"))
    (grey,) = (one for one in decoder.axes[0].patches if one.get_gid() == "structural")
    assert grey.get_x() == 1.5 and "restores by construction" in legend_of(decoder)
    for wrong, said in (
        ({"role": "question wrod"}, "did you mean 'question word'"),
        ({"by": "question_typ"}, "did you mean 'question_type'"),
        ({"by": "question"}, None),
    ):
        if said:
            with pytest.raises(NnblipError, match=said):
                plot.layers(many, "question_encoder", **wrong)


def test_a_difference_is_that_of_compare(many):
    types = many.question_type.values
    a, b = (many.isel(example=types == name) for name in ("color", "number"))
    figure = render(plot.difference(a, b, "question_encoder", names=("color", "number")))
    found = effects.compare(effects.by_role(a), effects.by_role(b))["question_encoder"].to_dataset().squeeze()
    found = found.transpose("role", "layer")
    np.testing.assert_allclose(mesh_of(figure.axes[0])[0], found.difference)
    np.testing.assert_array_equal(marked(figure.axes[0], "hatched"), ((found.low <= 0) & (found.high >= 0)).values)
    np.testing.assert_array_equal(marked(figure.axes[0], "dot"), (found.p_corrected < 0.05).values)
    assert " ".join(bar_of(figure.axes[0]).get_xlabel().split()) == "indirect effect on P(answer), color − number"
    assert "Means over 9 (color) and 9 (number) examples" in plot.caption(figure)


def test_a_difference_that_is_there_has_dots_and_of_few_examples_no_interval(many):
    lower = many.copy(deep=True)
    lower["question_encoder"].probability.values[..., 1, :] -= 0.5
    figure = plot.difference(many, lower, "question_encoder")
    sure = marked(figure.axes[0], "dot")
    assert sure[:, 1].all() and not sure[:, [0, 2]].any()
    assert "the same examples" in plot.caption(figure)
    few = render(plot.difference(many.isel(example=range(4)), lower.isel(example=range(4)), "question_encoder"))
    assert "too few examples" in legend_of(few) and not marked(few.axes[0], "hatched").any()
    by_token = plot.difference(many.isel(example=range(0, 27, 3)), lower.isel(example=range(0, 27, 3)),
                               "question_encoder", rows="token")  # fmt: skip
    assert y_labels(by_token.axes[0]) == [f"{text}  {at}" for at, text in enumerate(QUESTIONS[0])]
    with pytest.raises(NnblipError, match="have 13 and 6 tokens"):
        plot.difference(many.isel(example=[0, 3]), many.isel(example=[1, 4]), "question_encoder", rows="token",
                        paired=False)  # fmt: skip
    with pytest.raises(NnblipError, match="tested over examples"):
        plot.difference(many.isel(example=0), many, "question_encoder")


def test_a_difference_of_two_nu_names_both():
    tree = with_roles(random_tree(examples=9, kinds=("block",), layers=2))
    caption = plot.caption(plot.difference(tree.sel(nu=5.0), tree.sel(nu=1.0), "question_encoder", names=("5", "1")))
    assert "5: Noise, ν = 5," in caption and "1: Noise, ν = 1," in caption


# ---- sheets ------------------------------------------------------------------------------------


def test_a_sheet_has_all_examples_on_one_scale(many):
    some = many.isel(example=range(7))
    first, second = (render(plot.sheet(some, "question_encoder", per_page=4, page=page)) for page in (1, 2))
    effect = effects.indirect_effect(some)["question_encoder"].probability.squeeze().mean("draw")
    panels = [axes for figure in (first, second) for axes in figure.axes if axes.get_label().startswith("panel")]
    assert len(panels) == 7
    for place, axes in enumerate(panels):
        numbers, norm = mesh_of(axes)
        wanted = effect.isel(example=place).transpose("token", "layer").dropna("token", how="all")
        np.testing.assert_allclose(numbers, wanted)
        assert norm.vmax == pytest.approx(float(abs(effect).max()))  # of all pages
        assert some.answer.values[place] in axes.get_title(loc="left")
    assert "page 2 of 2" in texts(second) and "of 3 of 7 examples" in plot.caption(second)
    with pytest.raises(NnblipError, match="page 3: expected 1 to 2"):
        plot.sheet(some, "question_encoder", per_page=4, page=3)
    with pytest.raises(NnblipError, match="one example"):
        plot.sheet(some.isel(example=[0]), "question_encoder")


def test_a_sheets_intervals_are_over_the_draws_of_each():
    tree = random_tree(nus=(5.0,), draws=12, kinds=("block",), layers=3, corrupted=(0.1, 0.9))
    figure = plot.sheet(tree, "question_encoder")
    for place in range(3):
        alone = plot.heatmap(tree, "question_encoder", example=f"example-{place}")
        np.testing.assert_array_equal(marked(figure.axes[place], "hatched"), marked(alone.axes[0], "hatched"))
    assert marked(figure.axes[0], "hatched").any()


# ---- pairs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("examples", [1, 9])
def test_pairs_are_interactions_below_the_effects_of_each_alone(examples):
    tree = pair_tree(examples)
    figure = render(plot.pairs(tree))
    numbers = mesh_of(figure.axes[0])[0]
    assert np.isnan(numbers[np.triu_indices(5)]).all()
    interaction = effects.interaction(tree).probability
    np.testing.assert_allclose(np.sort(numbers[np.tril_indices(5, -1)]),
                               np.sort(interaction.mean(("example", "nu", "draw")).values))  # fmt: skip
    alone = effects.indirect_effect(tree)["cells"].probability.isel(cell=0).mean()
    said = [text.get_text().replace("−", "-") for text in figure.axes[0].texts]
    assert f"{float(alone):.2f}" in said
    found = effects.interval(interaction, support=(-2, 2)).squeeze()
    crossing = int(((found.low <= 0) & (found.high >= 0)).sum())
    assert crossing > 0 and marked(figure.axes[0], "hatched").sum() == crossing
    framed = np.argwhere(marked(figure.axes[0], "framed"))
    np.testing.assert_array_equal(framed, [[4, 3]])
    assert y_labels(figure.axes[0])[0] == "Q 0.2 is" and y_labels(figure.axes[0])[-1] == "A 1.0 [DEC]"
    assert "by construction" in legend_of(figure) and "restores by construction" not in legend_of(figure)


def test_what_can_be_drawn_of_a_result_is_known(many):
    assert set(plot.drawable(many)) == {"heatmap", "gamma", "roles", "layers", "sheet", "summary"}
    one = pair_tree()
    assert set(plot.drawable(one)) == {"heatmap", "gamma", "layers", "pairs", "summary"}
    for name, components in plot.drawable(one).items():
        for component in components:
            given = {"image": Image.new("RGB", (48, 48))} if name == "summary" else {}  # it has no path
            figure = plot.FIGURES[name].function(one, **({"component": component} if component else given))
            assert plot.caption(figure)
    node = one["cells"].to_dataset(inherit=False)
    one["cells"] = xr.DataTree(node.isel(cell=slice(0, 5)))  # no pairs
    assert "pairs" not in plot.drawable(one)
