"""nnblip.pointing: the same as a trace, and it points."""

from __future__ import annotations

import numpy as np
import pytest

import nnblip
from nnblip.datasets import scenes
from nnblip.errors import NnblipError
from nnblip.tracing import pointing as module


def test_it_is_a_trace_of_single_damaged_patches(model):
    example = nnblip.demo.examples()[9]
    found = nnblip.pointing(model, [example])
    again = nnblip.causal_trace(
        model, [example], nu=1, draws=1, noise="mean", components=["image_encoder"], direction="noising", regions=8
    )
    assert found["image_encoder"].sizes["token"] == 65
    for name in ("probability", "log_probability", "logit_difference"):
        np.testing.assert_array_equal(found["image_encoder"][name], again["image_encoder"][name])
    effect = nnblip.indirect_effect(found)["image_encoder"].logit_difference
    assert float(effect.max()) > 1, "what is damaged matters"


def test_a_patch_is_damaged_alone(model):
    """By hand: the embedding of one patch becomes the mean of all."""
    example = nnblip.demo.examples()[9]
    found = nnblip.pointing(model, [example])["image_encoder"].logit_difference.squeeze()
    with model.clean(example) as clean:
        pass
    mean = clean.image_embeds.mean(1)
    for patch in (int(found.argmin()), 1, 64):
        with model.corrupt(clean, nu=0.0) as run:
            model.image_encoder.output.last_hidden_state[:, patch] = mean
        assert run.logit_difference == pytest.approx(float(found[patch]), abs=1e-3)


def test_other_settings_are_those_of_a_trace(model, monkeypatch):
    example = nnblip.demo.examples()[9]
    found = nnblip.pointing(model, [example], regions=2, noise="shuffle", noise_at="pixels", draws=2, seed=3)
    assert found.sizes["draw"] == 2 and found.attrs["noise_at"] == "pixels" and found.attrs["seed"] == 3
    assert found["image_encoder"].attrs["grid"] == [2, 2] and found["image_encoder"].sizes["layer"] == 4
    monkeypatch.setattr(module, "FINEST", 6)
    assert nnblip.pointing(model, [example])["image_encoder"].attrs["grid"] == [4, 4]
    with pytest.raises(NnblipError, match="does not divide"):
        nnblip.pointing(model, [example], regions=3)
    with pytest.raises(NnblipError, match="expected what nnblip"):
        nnblip.pointing(model._module, [example])


@pytest.mark.slow
def test_it_falls_on_the_object_that_is_asked_for(model):
    """Of generated scenes the pixels of every object are known: docs/pointing.md has many more."""
    hits, shares, index = [], [], 0
    while len(hits) < 8:
        scene = scenes.scene(5, index, 3)
        index += 1
        for asked in scenes.questions(scene):
            about = [asked.question == f"what is the color of the {item.shape}" for item in scene.objects]
            if sum(about) == 1 and model.answer(scene.image, asked.question).text == asked.answer:
                tree = nnblip.pointing(model, [(scene.image, asked.question)])
                effect = nnblip.indirect_effect(tree)["image_encoder"].logit_difference.squeeze().values[1:]
                covered = (scene.owner == about.index(True)).reshape(8, 8, 8, 8).mean((1, 3)).ravel()
                positive = np.maximum(effect, 0)
                hits.append(covered[effect.argmax()] > 0)
                shares.append((positive * (covered > 0)).sum() / positive.sum() / (covered > 0).mean())
                break
    assert np.mean(hits) >= 0.7, "chance is 1 in 10"
    assert np.median(shares) > 3, "times what a map that knows nothing has there"
