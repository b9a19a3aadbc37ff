"""Knock-out maps and circuits: what is drawn where, what is written, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.figures import all_inside, legend_of, marked, mesh_of, render, texts, x_labels, y_labels
from helpers.lists import EDGES, VALUES, cut_tree, edge_tree, with_list
from helpers.trees import random_tree
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

import nnblip
from nnblip import effects, plot, sites
from nnblip.edges import knock_outs
from nnblip.errors import NnblipError


def arrows(figure) -> dict[str, FancyArrowPatch]:
    return {arrow.get_gid(): arrow for arrow in figure.findobj(FancyArrowPatch) if arrow.get_gid()}


# --- knock-outs -----------------------------------------------------------------------------


def panels(figure) -> dict[str, np.ndarray]:
    found = {}
    for axes in figure.axes:
        if axes.get_visible() and axes.collections and axes.get_title():
            mesh = axes.collections[0]
            found[axes.get_title()] = mesh.get_array().filled(np.nan)
    return found


def test_each_target_has_a_panel_of_sources_by_layers():
    tree, cells = cut_tree(knock_outs("image_to_question", 2, "each", (1, 2)))
    figure = render(plot.knock_outs(tree, window=1))
    effect = effects.knock_out_effect(tree).probability.isel(example=0)
    texts_ = [str(text) for text in tree["question_encoder"].token_text.values[0][:6]]
    found = panels(figure)
    assert list(found) == [f"{text}  {number}" for number, text in enumerate(texts_)]
    for cell in (cell for cell in cells if len(cell.layers) == 1):
        place = int(cell.source_name.split()[-1]), cell.layers[0]
        panel = found[f"{texts_[cell.target[0]]}  {cell.target[0]}"]
        assert panel.shape == (4, 3)
        assert panel[place] == pytest.approx(float(effect.sel(knock_out=cell.name)))
    assert y_labels(figure.axes[0]) == [f"region {k}" for k in range(4)]
    assert "image to question cut by mask, each layer alone" in texts(figure)
    wider = render(plot.knock_outs(tree, window=2))
    assert x_labels(wider.axes[-2]) == ["0", "1"] and "window of 2 layers, at its first" in texts(wider)


def test_colours_are_centred_at_0_and_the_same_in_all_panels():
    tree, _ = cut_tree(knock_outs("question_to_question", "each", "each"))
    figure = plot.knock_outs(tree, variable="logit_difference")
    norms = {axes.collections[0].norm for axes in figure.axes if axes.collections and axes.get_title()}
    (norm,) = norms
    largest = float(abs(effects.knock_out_effect(tree).logit_difference).max())
    assert -norm.vmin == norm.vmax == pytest.approx(largest)
    assert "logit difference, clean − cut" in " ".join(texts(figure).split())


def test_of_several_examples_the_mean_and_how_many():
    tree, _ = cut_tree(knock_outs("question_to_answer", "roles", "all", by="mean"), examples=3)
    tree["knock_outs"].probability.values[0, 0] = np.nan
    figure = render(plot.knock_outs(tree))
    said = " ".join(texts(figure).split())
    assert "mean of 3 examples" in said and "at least 2" in said and "replaced by the mean" in said
    wanted = effects.knock_out_effect(tree).probability.mean("example").values.reshape(3, -1).T
    np.testing.assert_allclose(mesh_of(figure.axes[0])[0], wanted)
    alone = plot.knock_outs(tree, example="example-1")
    one = effects.knock_out_effect(tree).probability.sel(example="example-1").values.reshape(3, -1).T
    np.testing.assert_allclose(mesh_of(alone.axes[0])[0], one)
    assert "mean of" not in texts(alone) and "→" in texts(alone)


def test_of_enough_examples_cells_whose_interval_includes_0_are_hatched():
    tree, cells = cut_tree(knock_outs("question_to_answer", "roles", "all"), examples=9)
    tree["clean"].probability.values[...] = tree["knock_outs"].probability.values.mean(1) + 0.05
    figure = render(plot.knock_outs(tree))
    found = effects.interval(effects.knock_out_effect(tree).probability)
    crossing = ((found.low <= 0) & (found.high >= 0)).values
    assert crossing.any() and len(crossing) == len(cells)
    assert marked(figure.axes[0], "hatched").sum() == crossing.sum()
    assert "95 % interval over examples includes 0" in legend_of(figure)
    assert "no intervals" in legend_of(plot.knock_outs(tree, example="example-0")).lower()


def test_a_panel_for_each_target_takes_no_axes_and_a_single_one_does():
    axes = Figure().subplots()
    with pytest.raises(NnblipError, match="of 6 targets, a panel each"):
        plot.knock_outs(cut_tree(knock_outs("image_to_question", 2, "each"))[0], ax=axes)
    plot.knock_outs(cut_tree(knock_outs("question_to_answer", "each", "all"))[0], ax=axes)
    assert plot.caption(axes).startswith("What P(answer = “red”) loses when question to answer edges")


def test_edges_that_the_decoder_lacks_are_grey():
    tree, _ = cut_tree(knock_outs("answer_to_answer", "each", "each"))
    figure = render(plot.knock_outs(tree))
    later = panels(figure)["[DEC]  0"]
    assert np.isnan(later[1]).all() and np.isfinite(later[0]).all() and "no value" in texts(figure)


def test_knock_outs_that_are_not_clear_are_refused():
    tree, _ = cut_tree(knock_outs("image_to_question", 2, "each", (1, 2)))
    for wrong, said in (
        ({}, "2 values of window: 1, 2. Choose one with window="),
        ({"window": 3}, "window 3 is not among the knock-outs of the result. It has: 1, 2"),
        ({"window": True}, "window True is not"),
        ({"window": 1, "by": "mean"}, "by 'mean' is not"),
        ({"window": 1, "edges": "answer_to_answer"}, "edges 'answer_to_answer' is not"),
        ({"window": 1, "variable": "logit"}, "variable 'logit' is unknown"),
        ({"window": 1, "example": "no"}, "example 'no' is not in the result"),
    ):
        with pytest.raises(NnblipError, match=said):
            plot.knock_outs(tree, **wrong)
    with pytest.raises(NnblipError, match="no node /knock_outs"):
        plot.knock_outs(random_tree())
    same = [nnblip.knock_out("image_to_question", layers, 1, 2) for layers in ([0, 2], [0, 1, 2])]
    tree = with_list(random_tree(examples=1, layers=3), "knock_outs", same, np.zeros((1, 2)))
    with pytest.raises(NnblipError, match="have one place in the map"):
        plot.knock_outs(tree)


# --- circuits -------------------------------------------------------------------------------


def test_the_strongest_edges_are_arrows_as_wide_as_their_effects():
    tree = edge_tree(EDGES, VALUES)
    found = arrows(render(plot.circuit(tree, n=3)))
    assert set(found) == {str(edge) for edge in EDGES[:3]}
    widths = [found[str(edge)].get_linewidth() for edge in EDGES[:3]]
    np.testing.assert_allclose(np.array(widths) / widths[0], np.abs(VALUES[:3]) / VALUES[0], rtol=1e-6)
    colours = [tuple(found[str(edge)].get_edgecolor()[:3]) for edge in EDGES[:3]]
    assert colours[0] == colours[2] != colours[1], "what brings back and what takes away"
    assert set(arrows(plot.circuit(tree, n=None))) == {
        str(edge) for edge, value in zip(EDGES, VALUES, strict=True) if value
    }
    said = " ".join(texts(plot.circuit(tree, n=3)).split())
    assert "3 strongest of 5 edges with an effect, of 6 traced" in said and "12 draws" in said
    assert "strongest +0.3" in said and "strongest −0.2" in said


def test_components_go_right_layers_up_and_tokens_are_named():
    edges = [*EDGES[:4], EDGES[4]]
    figure = render(plot.circuit(edge_tree(edges, [0.3, 0.2, 0.1, 0.1, 0.1])))
    found = {name: arrow._posA_posB for name, arrow in arrows(figure).items()}  # type: ignore[attr-defined]
    (image, _), (to_decoder, decoder) = found[str(EDGES[3])], found[str(EDGES[4])]
    (x0, y0), (x1, y1) = found[str(EDGES[0])]
    assert image[0] < x0 < x1 <= to_decoder[0] < decoder[0] and y0 < y1 < to_decoder[1]
    assert found[str(EDGES[1])] == found[str(EDGES[0])] and len({
        arrows(figure)[str(edge)].get_connectionstyle().rad for edge in EDGES[:2]  # type: ignore[attr-defined]
    }) == 2  # fmt: skip
    said = texts(figure)
    assert "is\n2" in said and "the\n3" in said and "[DEC]\n0" in said
    assert "rows 0–1\ncolumns 0–1" in said and "h0" in said and "h1" in said
    assert all(word in said for word in ("to value", "to key", "to mlp", "answer"))
    tree = edge_tree(edges, [0.3, 0.2, 0.1, 0.1, 0.1])
    bare = tree.drop_nodes(["question_encoder", "answer_decoder"])
    assert "is\n2" not in texts(plot.circuit(bare)) and "2" in x_labels(plot.circuit(bare).axes[0])


def test_only_edges_whose_interval_excludes_0():
    tree = edge_tree(EDGES, VALUES, spread=0.03)
    node = effects.interval(tree)["edges"].to_dataset().squeeze()
    sure = {
        str(edge)
        for edge, low, high in zip(EDGES, node.low.values, node.high.values, strict=True)
        if low > 0 or high < 0
    }
    assert {str(EDGES[0]), str(EDGES[1])} <= sure < {str(edge) for edge in EDGES}
    figure = render(plot.circuit(tree, interval=0.95))
    assert set(arrows(figure)) == sure and "95 % interval excludes 0" in " ".join(texts(figure).split())
    pale = arrows(plot.circuit(tree, n=None))
    assert {name for name, arrow in pale.items() if arrow.get_alpha() > 0.5} == sure < set(pale)
    assert "95 % interval over draws includes 0" in texts(plot.circuit(tree, n=None))
    few = render(plot.circuit(edge_tree(EDGES, VALUES, draws=4), interval=0.95))
    assert not arrows(few) and "too few draws: at least 10" in texts(few)
    over = plot.circuit(edge_tree(EDGES, VALUES, examples=9, draws=2), interval=0.9)
    assert str(EDGES[0]) in arrows(over) and "mean of 9 examples" in texts(over)


def test_without_an_effect_it_is_said():
    tree = edge_tree(EDGES, [0.0] * 6)
    assert "No edge has an effect" in texts(render(plot.circuit(tree)))
    assert not arrows(plot.circuit(tree))


def test_circuits_that_cannot_be_are_refused():
    tree = edge_tree(EDGES, VALUES)
    for wrong, said in (
        ({"n": 0}, "n 0: expected a whole number of at least 1"),
        ({"interval": 95}, "level is 95"),
        ({"nu": 3}, "nu 3 is not in the result"),
        ({"example": "no"}, "example 'no' is not in the result"),
        ({"variable": "logit"}, "variable 'logit' is unknown"),
    ):
        with pytest.raises(NnblipError, match=said):
            plot.circuit(tree, **wrong)
    with pytest.raises(NnblipError, match="no node /edges"):
        plot.circuit(random_tree())


@pytest.mark.slow
@pytest.mark.parametrize("question", ["what", "what is the exceedingly long and winding thing that is seen " * 3])
def test_no_text_is_cut(question):
    families = (
        knock_outs("image_to_question", 4, "each"),
        knock_outs("question_to_question", "each", "each", 3),
        knock_outs("question_to_answer", {"a long name of some tokens": [1, 2]}, "all"),
        knock_outs("answer_to_answer", "all", "each"),
    )
    for tree in (*(cut_tree(family)[0] for family in families), edge_tree(EDGES, VALUES), edge_tree(EDGES, [0.0] * 6)):
        tree.dataset = tree.to_dataset().assign_coords(question=("example", [question]), answer=("example", ["$x^{$"]))
        all_inside(plot.knock_outs(tree) if "knock_outs" in tree.children else plot.circuit(tree))


@pytest.mark.slow
def test_a_planted_circuit_is_drawn():
    plant = nnblip.planted("head", 1, examples=1)
    cells = [*plant.edges, sites.edges("mlp_out", "question_encoder")]
    tree = nnblip.causal_trace(plant.model, plant.examples, nu=1, draws=1, noise="swap", cells=cells)
    found = arrows(render(plot.circuit(tree, n=None)))
    assert set(found) == {str(edge) for edge in plant.shown("denoising").edges}
