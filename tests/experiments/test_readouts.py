"""States of many questions are those of the torch module, and each run is the one that it is called after."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import nnblip
from nnblip.experiments.readouts import EVERY, RUNS, readouts
from nnblip.roles import roles


@pytest.fixture(scope="module")
def given() -> list[nnblip.Example]:
    """Two pictures, one question of both."""
    first, second = nnblip.demo.examples()[:2]
    return [replace(first, id="a"), replace(second, id="b", question=first.question)]


@pytest.fixture(scope="module")
def found(model, given):
    return readouts(model, given, nu=3.0, noise="multiplicative", progress=False)


def plain(model: nnblip.BlipVQA, image: torch.Tensor, ids: torch.Tensor) -> np.ndarray:
    """The text encoder's layers by transformers alone, (layer, token, hidden)."""
    with torch.no_grad():
        out = model._module.text_encoder(input_ids=ids, encoder_hidden_states=image, output_hidden_states=True)
    return torch.stack(out.hidden_states[1:])[:, 0].numpy()


def test_states_are_those_of_transformers(model, given, found):
    encoded = [model.encode(one) for one in given]
    images = [model.image_embeds(one).clone() for one in encoded]
    with torch.no_grad(), model.clean(given[0]) as clean:
        pass
    with torch.no_grad(), model.corrupt(clean, nu=3.0) as corrupted:
        pass
    expected = {
        "clean": plain(model, images[0], encoded[0].input_ids),
        "another picture": plain(model, images[1], encoded[0].input_ids),
        "damaged picture": plain(model, corrupted.image_embeds, encoded[0].input_ids),
    }
    own = np.array(roles(encoded[0].tokens))
    for run, states in expected.items():
        read = found.states.isel(example=0).sel(run=run)
        assert read.sel(readout=EVERY).values == pytest.approx(states.mean(1), abs=1e-4)
        assert read.sel(readout="function word").values == pytest.approx(
            states[:, own == "function word"].mean(1), abs=1e-4
        )
    assert abs(found.states.sel(run="clean") - found.states.sel(run="damaged picture")).max() > 0.5


def test_without_a_picture_it_does_not_matter_which(given, found):
    alone = found.states.sel(run="no picture").values
    assert np.array_equal(alone[0], alone[1])
    clean, other = (found.states.sel(run=run).values for run in ("clean", "another picture"))
    assert np.allclose(clean[[1, 0]], other, atol=1e-5), "of one question, the next example's picture is its own run"
    assert abs(clean[0] - clean[1]).max() > 0.5 and found.run.values.tolist() == list(RUNS)


def test_what_cross_attention_adds_is_nothing_where_it_does_nothing():
    plant = nnblip.planted("layer", 1, 2)
    (layer,) = {
        site.layer for site in plant.sites if site.component == "question_encoder" and site.kind == "crossattention_out"
    }
    added = readouts(plant.model, plant.examples, nu=0.0, noise="multiplicative", progress=False).added
    assert (added.sel(layer=layer) > 0.01).all() and not added.drop_sel(layer=layer).any()
