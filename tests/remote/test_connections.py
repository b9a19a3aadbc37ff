"""Edges and knock-outs on a server: the same numbers and the same labels come back."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.errands import Server
from helpers.scenes import visible

import nnblip
from nnblip import results, sites
from nnblip.remote import client
from nnblip.sites import Site


@pytest.fixture
def far(model, there, monkeypatch):
    server = Server(model)
    monkeypatch.setattr(client, "ask", server)
    return there, server


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_edges_and_knock_outs_come_back_as_they_are_here(model, far, direction):
    image, question, _ = visible(model)
    there, server = far
    by_hand = nnblip.Edge(Site("question_encoder", "mlp_out", 1, 4), Site("question_encoder", "mlp_out", 3, 4), "mlp")
    cells = [
        by_hand, sites.edges("crossattention_out", layer=5),
        sites.knock_outs("image_to_question", 2, "each", (1, 3)),
        sites.knock_outs("question_to_answer", "roles", "all", by="mean"),
        nnblip.knock_out("question_to_question", layers=[0, 1], source=[3], target=[4]),
        Site("question_encoder", layer=3),
    ]  # fmt: skip
    here = nnblip.causal_trace(model, [(image, question)], [3, 5], 2, cells=cells, direction=direction)
    found = nnblip.causal_trace(there, [(image, question)], [3, 5], 2, cells=cells, direction=direction)
    assert server.answered, "the server was asked"
    for name in ("clean", "corrupted", *sites.LISTS):
        assert found[name].to_dataset().equals(here[name].to_dataset()), name
        assert np.isfinite(found[name].probability).all()
    effects = nnblip.indirect_effect(found)["edges"].to_dataset(), nnblip.effects.knock_out_effect(found)
    assert min(float(abs(effect.logit_difference).max()) for effect in effects) > 1e-2, (
        "there is something to bring back"
    )
    assert str(by_hand) in found["edges"].edge.values
    assert set(found["knock_outs"].by.values) == {"mask", "mean"}


def test_a_sweep_on_a_server_stores_them(model, far, tmp_path):
    image, question, _ = visible(model)
    there, _ = far
    cells = [sites.edges("crossattention_out", layer=2, inputs="value"), sites.knock_outs("question_to_answer", "each")]
    here = nnblip.causal_trace(model, [(image, question)], 3, 2, cells=cells)
    swept = nnblip.sweep(there, [(image, question)], tmp_path / "far.zarr", nu=3, draws=2, cells=cells)
    for name in ("edges", "knock_outs"):
        dim = sites.LISTS[name]
        for variable in results.VARIABLES:
            one = swept[name][variable].sel({dim: here[name][dim].values})
            np.testing.assert_array_equal(one.values, here[name][variable].values)
