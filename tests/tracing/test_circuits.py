"""Circuits: exact identities with the runs that they are made of, and with single edges; planted circuits."""

from __future__ import annotations

import numpy as np
import pytest

import nnblip
from nnblip import sites
from nnblip.errors import SettingError, SiteError
from nnblip.paths import Edge, place
from nnblip.results import VARIABLES

SUBLAYERS = ("attention_out", "crossattention_out", "mlp_out")


@pytest.fixture(scope="module")
def example():
    return nnblip.demo.examples()[0]


def every_edge(model, example, regions=4):
    extent = model.extent(len(model.encode(example).tokens), 1)
    families = [sites.edges(SUBLAYERS, name, SUBLAYERS, regions=regions) for name in sites.TEXT_COMPONENTS]
    return [edge for family in families for edge in family(extent)]


def order(site):
    return site.component == "answer_decoder", *place(site)


def with_its_company(edge, every):
    """An edge, all that make its sender the donor's, and all that carry on what its receiver adds."""
    first = edge.sender[0]
    of_image = first.component == "image_encoder"
    return [
        edge,
        *(one for one in every if not of_image and order(one.receiver) <= order(first)),
        *(one for one in every if one.reads != "image_encoder" and order(one.sender[0]) >= order(edge.receiver)),
    ]


@pytest.mark.slow
def test_all_edges_are_the_clean_run_none_the_corrupted_and_one_with_its_company_the_row_of_that_edge(model, example):
    every = every_edge(model, example)
    of_question = [edge for edge in every if edge.reads != "answer_decoder"]
    rng = np.random.default_rng(0)
    some = [of_question[number] for number in rng.permutation(len(of_question))[:20]]
    single = nnblip.causal_trace(model, [example], nu=5, draws=2, cells=some, progress=False)
    effects = nnblip.indirect_effect(single)["edges"].logit_difference
    assert float(abs(effects).max()) > 0.05, "there is something to be seen"
    circuits = {"all": every, "none": [], **{str(edge): with_its_company(edge, every) for edge in some}}
    tree = nnblip.circuit_trace(model, [example], circuits, nu=5, draws=2, progress=False)
    found = tree["circuits"].to_dataset()
    assert found["edges"].sel(circuit="all").item() == len(every)
    for name in VARIABLES:
        assert abs(found[name].sel(circuit="all") - tree["clean"][name]).max() < 1e-5
        assert (found[name].sel(circuit="none") == tree["corrupted"][name]).all() or name != VARIABLES[0]
        assert abs(found[name].sel(circuit="none") - tree["corrupted"][name]).max() < 1e-5
    gap = found.logit_difference.isel(circuit=slice(2, None)).values - single["edges"].logit_difference.values
    assert abs(gap).max() < 2e-4, "float32, logits of some 10"


@pytest.mark.slow
def test_scores_add_up_to_what_a_circuit_brings(model, example):
    every = every_edge(model, example, regions=1)
    rng = np.random.default_rng(1)
    for circuit in (every, [edge for edge in every if rng.random() < 0.7]):
        asked = dict(nu=1.0, draws=1, noise="mean", progress=False)
        scores = nnblip.circuit_scores(model, [example], circuit, steps=16, **asked)
        tree = nnblip.circuit_trace(model, [example], {"it": circuit}, **asked)
        brought = (tree["circuits"].logit_difference - tree["corrupted"].logit_difference).values.item()
        assert abs(brought) > 0.5
        assert float(scores.sum()) == pytest.approx(brought, rel=0.05)


@pytest.mark.slow
def test_noising_goes_from_the_clean_run_to_the_corrupted_one(model, example):
    every = every_edge(model, example, regions=1)
    tree = nnblip.circuit_trace(
        model, [example], {"all": every, "none": []}, nu=5, draws=1, direction="noising", progress=False
    )
    both = tree["circuits"].logit_difference.values[0, 0, 0]
    assert both == pytest.approx(
        [tree["corrupted"].logit_difference.item(), tree["clean"].logit_difference.item()], abs=1e-4
    )
    assert abs(both[0] - both[1]) > 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["layer", "head", "and"])
def test_a_planted_circuit_alone_brings_the_whole_answer_and_no_edge_of_it_can_be_missed(kind):
    plant = nnblip.planted(kind, 1, examples=1, dtype="float64")
    whole = [edge for edge in plant.edges if not any("head" in site.kind for site in (*edge.sender, edge.receiver))]
    circuit = [edge for edge in whole if edge.sender[0].kind != "block" or edge.reads == "image_encoder"]
    circuits = {"it": circuit} | {str(edge): [one for one in circuit if one != edge] for edge in circuit}
    asked = dict(nu=1.0, draws=1, noise="swap", progress=False)
    tree = nnblip.circuit_trace(plant.model, plant.examples, circuits, **asked)
    faithful = nnblip.relevance(tree)["circuits"].probability.isel(example=0, nu=0).values
    assert faithful[0] == pytest.approx(1, abs=1e-6)
    assert (faithful[1:] < 0.5).all()


def test_bad_circuits_are_refused(model, example):
    head = Edge(
        sites.Site("question_encoder", "attention_head", 0, 1, 0),
        sites.Site("question_encoder", "mlp_out", 1, 1),
        "mlp",
    )
    late = Edge(
        sites.Site("question_encoder", "mlp_out", 0, 40), sites.Site("question_encoder", "mlp_out", 1, 40), "mlp"
    )
    with pytest.raises(SiteError, match="circuits are of whole sublayers"):
        nnblip.circuit_trace(model, [example], {"a": [head]}, draws=1)
    with pytest.raises(SiteError, match="token 40"):
        nnblip.circuit_trace(model, [example], {"a": [late]}, draws=1)
    for bad in ({}, [], None):
        with pytest.raises(SettingError, match="expected edges by the name of each circuit"):
            nnblip.circuit_trace(model, [example], bad, draws=1)
    with pytest.raises(SettingError, match="expected the edges of a circuit"):
        nnblip.circuit_scores(model, [example], [])
