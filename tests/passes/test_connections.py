"""Edges and knock-outs as cells: against an oracle that runs one at a time, and exact identities."""

from __future__ import annotations

import random

import numpy as np
import oracle
import oracle_edges
import pytest
from helpers.cells import agree, numbers
from helpers.scenes import VISIBLE, visible

import nnblip
from nnblip import sites
from nnblip.errors import SettingError, SiteError
from nnblip.paths import CONTRIBUTIONS, INPUTS, Edge
from nnblip.sites import HEAD_KINDS, Site

NU, DRAWS = (3.0, 5.0), 2


@pytest.fixture(scope="module")
def seen(model):
    return visible(model)


@pytest.fixture(scope="module")
def long(model):
    """A scene whose answer has two tokens."""
    for start in range(40):
        image, question, truth = visible(model, start=start)
        if len(truth.answer) > 1:
            return image, question, truth
    raise AssertionError("no answer of two tokens")


def random_edges(seed: int, extent: sites.Extent, count: int) -> list[Edge]:
    """Edges of all sorts: senders and receivers of all kinds, and all inputs, of both components and between them."""
    rng, found = random.Random(seed), dict[str, Edge]()
    while len(found) < count:
        component, kind = rng.choice(sites.TEXT_COMPONENTS), rng.choice(CONTRIBUTIONS)

        def place(component: str, kind: str) -> Site:
            token = rng.randrange(extent.tokens(component))
            head = rng.randrange(extent.heads) if kind in HEAD_KINDS else None
            return Site(component, kind, rng.randrange(extent.layers), token, head)

        receiver, what = place(component, kind), rng.choice(INPUTS[kind])
        across = kind.startswith("crossattention") and what in ("key", "value")
        if across and component == "question_encoder":
            patches = rng.sample(range(extent.tokens("image_encoder")), rng.choice([1, 16]))
            sender = [Site("image_encoder", "block", extent.image_layers - 1, token) for token in patches]
        elif across and rng.random() < 0.3:
            sender = [Site("question_encoder", "block", extent.layers - 1, rng.randrange(extent.question_tokens))]
        else:
            sender = [place("question_encoder" if across else component, rng.choice(CONTRIBUTIONS))]
        try:
            edge = Edge(sender, receiver, what)
        except SiteError:  # the sender comes later, or has another token
            continue
        found[str(edge)] = edge
    return list(found.values())


def run(truth, embeds):
    return oracle_edges.record(truth.module, embeds, truth.ids, truth.answer)


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("which", ["seen", "long"])
def test_edges_agree_with_the_oracle(model, which, direction, request):
    image, question, truth = request.getfixturevalue(which)
    extent = model.extent(len(truth.encoded.tokens), len(truth.answer))
    edges = random_edges(3, extent, 60)
    assert {edge.input for edge in edges} == {"query", "key", "value", "mlp"}
    assert {edge.reads for edge in edges} == {"image_encoder", *sites.TEXT_COMPONENTS}
    tree = nnblip.causal_trace(model, [(image, question)], NU, DRAWS, cells=edges, direction=direction)
    assert set(tree.children) == {"clean", "corrupted", "edges"} and tree["edges"].probability.dims[-1] == "edge"
    clean, effects = run(truth, truth.embeds), []
    for nu in NU:
        for draw in range(DRAWS):
            noisy = run(truth, truth.noisy(nu, draw=draw))
            base, donor = (noisy, clean) if direction == "denoising" else (clean, noisy)
            ended = oracle.outcome(base.logits, truth.answer, truth.rival)
            for edge in edges if draw == 0 else edges[::10]:
                sender = edge.sender[0] if len(edge.sender) == 1 and edge.sender[0].component != "image_encoder" else (
                    edge.sender
                )  # fmt: skip
                expected = oracle_edges.edge(
                    truth.module, truth.ids, truth.answer, truth.rival, base, donor, sender, edge.receiver, edge.input
                )
                agree(numbers(tree, "edges", nu=nu, draw=draw, edge=str(edge)), expected)
                effects.append(expected.logit_difference - ended.logit_difference)
    assert np.max(np.abs(effects)) > 0.1, "some edge has an effect"


def test_edges_have_their_ends_as_coordinates_and_stand_beside_states(model, seen):
    image, question, _ = seen
    family = sites.edges("crossattention_out", layer=5)
    tree = nnblip.causal_trace(
        model, [(image, question)], 3, 2, kinds=["block"], cells=[family, Site("answer_decoder", layer=2)]
    )
    node = tree["edges"]
    assert {"sender_kind", "sender_layer", "receiver_layer", "receiver_head", "input"} <= set(node.coords)
    assert set(node.receiver_layer.values) == {5} and {"query", "key", "value"} == set(node.input.values)
    alone = nnblip.causal_trace(model, [(image, question)], 3, 2, cells=[Site("answer_decoder", layer=2)])
    np.testing.assert_array_equal(tree["cells"].probability, alone["cells"].probability)
    effect = nnblip.indirect_effect(tree)["edges"].probability
    assert effect.dims == ("example", "nu", "draw", "edge") and float(abs(effect).max()) > 1e-3


def test_an_edge_from_a_donor_that_is_the_base_changes_nothing(model, seen):
    image, question, truth = seen
    edges = random_edges(5, model.extent(len(truth.encoded.tokens), len(truth.answer)), 30)
    tree = nnblip.causal_trace(model, [(image, question)], 0, 1, cells=edges)
    assert np.abs(tree["edges"].probability.values - float(tree["clean"].probability[0])).max() < 1e-6


FAMILIES = [
    sites.knock_outs("image_to_question", 2, "each", (1, 3)),
    sites.knock_outs("image_to_question", "all", "all", (1, 6), by="mean"),
    sites.knock_outs("question_to_question", "each", "each"),
    sites.knock_outs("question_to_question", {"noun": [7], "start": [0, 1]}, "all", 2, by="mean"),
    sites.knock_outs("question_to_answer", "each", "all", (1, 2)),
    sites.knock_outs("question_to_answer", "all", "each", 1, by="mean"),
    sites.knock_outs("answer_to_answer", "all", "each", (1, 6)),
    sites.knock_outs("answer_to_answer", "each", "each", 1, by="mean"),
]  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES, ids=range(len(FAMILIES)))
@pytest.mark.parametrize("which", ["seen", "long"])
def test_knock_outs_agree_with_the_oracle(model, which, family, request):
    image, question, truth = request.getfixturevalue(which)
    extent = model.extent(len(truth.encoded.tokens), len(truth.answer))
    cells = family(extent)
    tree = nnblip.causal_trace(model, [(image, question)], 5, 1, cells=family)
    node = tree["knock_outs"]
    assert node.probability.dims == ("example", "knock_out") and node.sizes["knock_out"] == len(cells)
    assert {"edges", "by", "source", "target", "layer", "window"} <= set(node.coords)
    effects = []
    for cell in random.Random(0).sample(cells, min(8, len(cells))):
        layers, source, target = nnblip.edges.places(cell, extent)
        expected = oracle_edges.cut(
            truth.module, truth.embeds, truth.ids, truth.answer, truth.rival, cell.edges, layers, source, target,
            cell.by,
        )  # fmt: skip
        agree(numbers(tree, "knock_outs", knock_out=cell.name), expected)
        effects.append(abs(expected.logit_difference - truth.clean.logit_difference))
    if cells[0].edges != "answer_to_answer":
        assert max(effects) > 1e-3, "something that is cut is needed"
    found = nnblip.effects.knock_out_effect(tree).probability
    np.testing.assert_allclose(found, float(tree["clean"].probability[0]) - node.probability, atol=1e-7)


def test_a_row_that_is_cut_is_the_whole_run_that_is_cut(model, seen):
    image, question, truth = seen
    cut = nnblip.knock_out("image_to_question", layers=[0, 1, 2, 3, 4, 5])
    alone = nnblip.causal_trace(model, [(image, question)], 5, 1, cells=[cut])
    answer = model.text(truth.answer)
    whole = nnblip.causal_trace(model, [(image, question, answer)], 5, 1, knock_out=cut)
    gap = float(whole["clean"].probability[0] - alone["knock_outs"].probability[0, 0])
    assert abs(gap) < 1e-5
    assert abs(float(alone["clean"].probability[0] - whole["clean"].probability[0])) >= VISIBLE


def test_knock_outs_by_role_stand_side_by_side(model, seen, long):
    examples = [seen[:2], visible(model, kind="location")[:2]]
    family = sites.knock_outs("question_to_answer", "roles", "all")
    tree = nnblip.causal_trace(model, examples, 5, 1, cells=family)
    node = tree["knock_outs"]
    assert "question word" in set(node.source.values)
    per_role = node.probability.sel(knock_out=node.source == "question word")
    assert per_role.notnull().all(), "one column for both questions"


def test_a_sweep_gives_the_same(model, seen, tmp_path):
    image, question, _ = seen
    edges = random_edges(8, model.extent(5, 1), 8)
    cells = [*edges, sites.knock_outs("question_to_answer", "roles", "all"), Site("question_encoder", layer=3)]
    examples = [(image, question), visible(model, kind="location")[:2]]
    tree = nnblip.causal_trace(model, examples, 3, 2, cells=cells)
    swept = nnblip.sweep(model, examples, tmp_path / "sweep.zarr", 3, 2, cells=cells)
    for name in ("edges", "knock_outs", "cells"):
        dim = sites.LISTS[name]
        for variable in nnblip.results.VARIABLES:
            one = swept[name][variable].sel({dim: tree[name][dim].values})
            np.testing.assert_array_equal(one.values, tree[name][variable].values)
    opened = nnblip.results.open_result(tmp_path / "sweep.zarr")
    assert list(opened["edges"].sender_kind.values) and opened["knock_outs"].window.dtype.kind == "i"


@pytest.mark.parametrize("place", ["image_embeds", "patch_embeds", "question"])
def test_a_context_sends_along_an_edge_as_the_map_does(model, seen, place):
    image, question, truth = seen
    edges = random_edges(9, model.extent(len(truth.encoded.tokens), len(truth.answer)), 6)
    tree = nnblip.causal_trace(model, [(image, question)], 3, 2, cells=edges, noise_at=place)
    with model.clean(image, question) as clean:
        pass
    for edge in edges:
        with model.corrupt(clean, 3, draw=1, restore=edge, noise_at=place) as run:
            pass
        assert run.probability == pytest.approx(tree["edges"].probability.sel(draw=1, edge=str(edge)).item(), abs=1e-5)
    with pytest.raises(SettingError, match="freeze keeps"):
        model.corrupt(clean, 3, restore=edges[0], freeze=["attention"])


def test_what_means_nothing_is_refused(model, seen):
    image, question, _ = seen
    edge = Edge(Site("question_encoder", "mlp_out", 1, 4), Site("question_encoder", "mlp_out", 3, 4), "mlp")
    for wrong, error, match in (
        (dict(cells=[edge], freeze=["attention"]), SettingError, "freeze keeps"),
        (dict(cells=[edge, edge]), SiteError, "given twice"),
        (dict(cells=sites.knock_outs(sources=3)), SiteError, "grid 3 does not divide"),
        (dict(cells=sites.knock_outs(widths=7)), SiteError, "window width 7"),
        (dict(cells=sites.knock_outs("question_to_answer", "cheese")), SiteError, "no token has that role"),
        (dict(cells=[nnblip.knock_out("answer_to_answer", source=4)]), SiteError, "source 4"),
    ):
        with pytest.raises(error, match=match):
            nnblip.causal_trace(model, [(image, question)], 5, 1, **wrong)
