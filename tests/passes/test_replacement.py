"""Corruption by the mean embedding, by shuffled patches and by another image."""

from __future__ import annotations

import oracle
import pytest
import torch
from helpers.cells import agree, numbers
from helpers.scenes import VISIBLE, Truth, question_of

import nnblip
from nnblip.errors import InputError, SettingError
from nnblip.sites import Site

QUESTION = "what is the color of the circle"


@pytest.fixture(scope="module")
def pair(model):
    """Two scenes with one circle each, of which the model answers the same question differently."""
    found: list[Truth] = []
    images = []
    for index in range(300):
        asked = question_of(index, "color")
        if asked is None or asked[1] != QUESTION:
            continue
        truth = Truth(model, *asked)
        if not found or truth.answer[0] != found[0].answer[0]:
            found.append(truth)
            images.append(asked[0])
        if len(found) == 2:
            return images, found
    raise AssertionError("no two scenes with a circle of different colors")


def test_swapping_the_image_is_a_run_on_the_other_image(model, pair):
    (image, other), (truth, there) = pair
    example = nnblip.Example(image, QUESTION, partner=other)
    tree = nnblip.causal_trace(model, [example], nu=[0, 0.4, 1], draws=1, noise="swap")
    assert tree.rival.item() == model.text(there.answer[:1])
    for nu in (0.4, 1.0):
        mixed = truth.embeds + nu * (there.embeds - truth.embeds)
        expected = oracle.restored(model._module, mixed, truth.ids, truth.answer, there.answer[0], truth.states, [])
        agree(numbers(tree, "corrupted", nu=nu, draw=0), expected)
        site = Site("question_encoder", layer=5, token=7)
        expected = oracle.restored(model._module, mixed, truth.ids, truth.answer, there.answer[0], truth.states, [site])
        agree(numbers(tree, "question_encoder", nu=nu, draw=0, kind="block", layer=5, token=7), expected)
    assert (tree["corrupted"].probability.sel(nu=0) == tree["clean"].probability).all()
    at_partner = float(tree["corrupted"].logit_difference.sel(nu=1).item())
    assert at_partner < 0 < float(tree["clean"].logit_difference[0]), "each image speaks for its own answer"


def test_a_context_swaps_as_the_map_does(model, pair):
    (image, other), (_, there) = pair
    with model.clean(image, QUESTION) as clean:
        pass
    with model.corrupt(clean, nu=1, noise="swap", partner=other) as run:
        pass
    assert run.answer == model.text(there.answer) and run.logit_difference < 0
    assert clean.probability - run.probability >= VISIBLE


def test_a_partner_is_needed_and_must_answer_otherwise(model, pair):
    (image, _), _ = pair
    with pytest.raises(InputError, match="needs another image"):
        nnblip.causal_trace(model, [(image, QUESTION)], nu=1, draws=1, noise="swap")
    with pytest.raises(InputError, match=r"answers .* there too"):
        nnblip.causal_trace(model, [nnblip.Example(image, QUESTION, partner=image)], nu=1, draws=1, noise="swap")


def test_mean_and_shuffle_agree_with_the_oracle(model, pair):
    (image, _), (truth, _) = pair
    embeds = truth.embeds
    unit = nnblip.noise.unit_noise(nnblip.noise.Shuffle(), tuple(embeds.shape), 0, truth.encoded.key, 0)
    order = [0, *(1 + unit[0, 1:, 0].argsort()).tolist()]
    for noise, full in (("mean", embeds.mean(1, keepdim=True).expand_as(embeds)), ("shuffle", embeds[:, order])):
        tree = nnblip.causal_trace(model, [(image, QUESTION)], nu=[0.5, 0.9], draws=1, noise=noise)
        for nu, damaged in ((0.5, 0.5 * embeds + 0.5 * full), (0.9, 0.1 * embeds + 0.9 * full)):
            agree(numbers(tree, "corrupted", nu=nu, draw=0), truth.restored(damaged))
    assert sorted(order) == list(range(embeds.shape[1])) and order != list(range(embeds.shape[1]))


def test_shuffling_keeps_every_patch_and_differs_between_draws(model, pair):
    (image, _), (truth, _) = pair
    with model.clean(image, QUESTION) as clean:
        pass
    seen = []
    for draw in range(2):
        with model.corrupt(clean, nu=1, noise="shuffle", draw=draw) as run:
            pass
        assert torch.equal(run.image_embeds[:, 0], truth.embeds[:, 0])
        before, after = (x[0].sum(1).sort().values for x in (truth.embeds, run.image_embeds))
        torch.testing.assert_close(before, after, atol=1e-4, rtol=1e-5)
        seen.append(run.image_embeds)
    assert not torch.equal(*seen)


def test_a_whole_shuffle_of_embeddings_cannot_act_and_is_refused(model, pair):
    image = pair[0][0]
    for place in ("image_embeds", "patch_embeds"):
        with pytest.raises(SettingError, match=r"BLIP does not see their order, .*noise_at='pixels'"):
            nnblip.causal_trace(model, [(image, QUESTION)], nu=[0.5, 1], noise="shuffle", noise_at=place)
        with model.clean(image, QUESTION) as clean:
            pass
        with model.corrupt(clean, nu=1, noise="shuffle", noise_at=place) as run:
            pass
        assert run.logit_difference == pytest.approx(clean.logit_difference, abs=1e-4), "why it is refused"
        with model.corrupt(clean, nu=0.5, noise="shuffle", noise_at=place) as run:
            pass
        assert abs(run.logit_difference - clean.logit_difference) > 0.1
    pixels = nnblip.causal_trace(model, [(image, QUESTION)], nu=1, draws=4, noise="shuffle", noise_at="pixels")
    assert float(abs(nnblip.total_effect(pixels)["corrupted"].logit_difference).max()) > 0.1
    # a single embedding from another place is another one, and so are all of them to a cut that tells places apart
    parts = dict(components=["image_encoder"], regions=2, direction="noising")
    noised = nnblip.causal_trace(model, [(image, QUESTION)], nu=1, draws=2, noise="shuffle", **parts)
    assert float(abs(nnblip.indirect_effect(noised)["image_encoder"].logit_difference).max()) > 0.1
    half = nnblip.knock_out("image_to_question", source=range(33))
    cut = nnblip.causal_trace(model, [(image, QUESTION)], nu=1, draws=2, noise="shuffle", knock_out=half)
    assert float(abs(nnblip.total_effect(cut)["corrupted"].logit_difference).max()) > 0.1


def test_a_scale_of_1_does_nothing_and_is_refused():
    with pytest.raises(SettingError, match="not 1, which does nothing"):
        nnblip.noise.Scale(1.0)
