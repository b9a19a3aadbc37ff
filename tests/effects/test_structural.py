"""Which cells restore by construction: what the labels say, against what the runs do."""

import numpy as np
import pytest
from helpers.scenes import visible
from helpers.trees import random_tree, set_probability

import nnblip
from nnblip import effects
from nnblip.sites import HEAD_KINDS, KINDS, Site, all_tokens, windows


@pytest.fixture(scope="module")
def seen(model):
    """A question whose answer has one token."""
    start = 0
    while len((found := visible(model, start=start))[2].answer) > 1:
        start += 1
    return found[:2]


def marked(tree, node):
    """The cells that are marked, and those that give the clean answer in every run."""
    found = effects.structural(tree)[node]["structural"]
    gap = abs(tree[node].probability - tree["clean"].probability).max(("nu", "draw"))
    return found, gap.transpose(*found.dims) < 1e-5


@pytest.mark.slow
def test_what_is_marked_in_a_map_is_what_the_runs_say(model, seen):
    tree = nnblip.causal_trace(model, [seen], nu=[3, 5], draws=3, kinds=[*KINDS])
    assert float(nnblip.total_effect(tree)["corrupted"].probability.mean("draw").min()) > 0.05
    found, exact = marked(tree, "answer_decoder")
    assert found.dims == ("example", "kind", "layer", "token")
    last = found.isel(example=0, layer=-1, token=0)
    assert last.sel(kind=["block", "crossattention"]).all() and exact.isel(layer=-1).sel(kind="block").all()
    alike = tree["answer_decoder"].probability
    np.testing.assert_allclose(alike.sel(kind="crossattention"), alike.sel(kind="block"), atol=1e-5)
    others = found.drop_sel(kind="crossattention").isel(layer=slice(-1))
    assert not others.any() and not found.isel(layer=-1).drop_sel(kind=["block", "crossattention"]).any()
    assert found.sel(kind="crossattention").all(), "it is the block of the same token"
    assert not effects.structural(tree)["question_encoder"]["structural"].drop_sel(kind="crossattention").any()
    for kind in HEAD_KINDS:
        assert not effects.structural(tree)["answer_decoder_heads"]["structural"].sel(kind=kind).any()
    alone = effects.structural(nnblip.causal_trace(model, [seen], draws=1, kinds=["crossattention"]))
    assert not alone["question_encoder"]["structural"].any(), "it stands for block"
    frozen = nnblip.causal_trace(model, [seen], draws=1, kinds=["block", "crossattention"], freeze=["mlp_out"])
    assert not effects.structural(frozen)["question_encoder"]["structural"].any(), "the MLP reads nothing anew"


@pytest.mark.parametrize("kinds", [None, ["block"]], ids=["cells alone", "beside a map"])
@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_what_is_marked_among_cells_is_what_the_runs_say(model, seen, kinds, direction):
    few = [Site("question_encoder", "block", 5, token) for token in range(3)]
    cells = [all_tokens(), all_tokens(kind="attention"), all_tokens(component="answer_decoder"), windows(2), few]
    cells += [nnblip.sites.image_regions(1), [Site("image_encoder", "block", 3, token) for token in range(65)]]
    tree = nnblip.causal_trace(model, [seen], nu=5, draws=2, cells=cells, kinds=kinds, direction=direction)
    found = effects.structural(tree)["cells"]["structural"].isel(example=0)
    reference = tree["corrupted" if direction == "noising" else "clean"].probability
    exact = (abs(tree["cells"].probability - reference) < 1e-5).all(("nu", "draw")).isel(example=0)
    names = found.cell.values[found.values].tolist()
    assert len(names) == 3 and exact.sel(cell=names).all()
    parts = tree["cells"].component.sel(cell=names).values.tolist()
    assert sorted(parts) == ["answer_decoder", "image_encoder", "question_encoder"]
    assert not found[(tree["cells"].component == "question_encoder").values & (tree["cells"]["size"] == 3).values].any()


def test_an_answer_of_several_tokens_does_not_end_in_one_state():
    tree = random_tree(layers=3, kinds=("block",))
    found = effects.structural(tree)["answer_decoder"]["structural"]
    assert found.isel(example=0, layer=2, token=0).all(), "an answer of one token"
    assert found.sum() == 1, "the others have three and two"
    first = tree.isel(layer=[0, 1])
    first.attrs["layers"] = 3
    assert not effects.structural(first)["answer_decoder"]["structural"].any()


def test_the_strongest_are_without_what_restores_by_construction():
    tree = set_probability(random_tree(layers=3), clean=0.9, corrupted=0.2)
    tree["answer_decoder"]["probability"].values[:, :, :, :, -1, 0] = 0.9
    one = {"nu": 5, "example": "example-0"}
    first = effects.strongest(tree, 1, **one)[0]
    assert not first.structural and (first.component, first.layer) != ("answer_decoder", 2)
    ranked = effects.strongest(tree, 999, with_structural=True, **one)
    by_construction = [site for site in ranked if site.structural]
    assert len(ranked) - len(by_construction) == len(effects.strongest(tree, 999, **one))
    assert {site.kind for site in by_construction} == {"block", "crossattention"}
    assert ("answer_decoder", "block", 2) in [(site.component, site.kind, site.layer) for site in by_construction]
