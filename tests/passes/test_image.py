"""Image tokens: regions of the image embeddings, noise before the image encoder and its layers."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import torch
from helpers.cells import agree, numbers
from helpers.scenes import visible

import nnblip
from nnblip.blip.places import clean_at, patch_embeds
from nnblip.errors import NnblipError, SiteError
from nnblip.noise import NOISES, Multiplicative, unit_noise
from nnblip.sites import Site, image_regions

SIDE, LAYERS = 8, 4  # of the bundled model: 8 x 8 patches, 4 vision layers
IMAGE = "image_encoder"


@pytest.fixture(scope="module")
def seen(model):
    return visible(model)


def patches(row: int, column: int, grid: int) -> list[int]:
    """Written out: the patches of a region, [CLS] being 0."""
    size = SIDE // grid
    return [1 + y * SIDE + x for y in range(SIDE) for x in range(SIDE) if (y // size, x // size) == (row, column)]


def with_tokens(noisy: torch.Tensor, clean: torch.Tensor, tokens: list[int]) -> torch.Tensor:
    mixed = noisy.clone()
    mixed[:, tokens] = clean[:, tokens]
    return mixed


@pytest.mark.parametrize("grid", [2, 4])
def test_regions_of_the_image_embeddings_agree_with_plain_runs(model, grid):
    # weaker noise than elsewhere: a single region is little against much noise
    image, question, truth = visible(model, nu=3.0, start=1)
    tree = nnblip.causal_trace(model, [(image, question)], nu=3, draws=1, components=[IMAGE], regions=grid)
    node = tree[IMAGE]
    assert node.probability.dims == ("example", "nu", "draw", "kind", "layer", "token")
    assert list(node.layer.values) == [LAYERS - 1] and node.sizes["token"] == 1 + grid**2
    noisy, effects = truth.noisy(3.0), []
    for token in range(1 + grid**2):
        tokens = [0] if token == 0 else patches(*divmod(token - 1, grid), grid)
        expected = truth.restored(with_tokens(noisy, truth.embeds, tokens))
        agree(numbers(tree, IMAGE, nu=3, draw=0, kind="block", layer=LAYERS - 1, token=token), expected)
        effects.append(expected.probability - truth.restored(noisy).probability)
    assert np.ptp(effects) > 0.1, "the regions differ"
    texts = node.token_text.values[0]
    assert texts[0] == "[CLS]" and texts[1] == f"row 0-{SIDE // grid - 1} column 0-{SIDE // grid - 1}"


def test_patches_one_by_one_and_regions_as_cells_among_other_sites(model, seen):
    image, question, truth = seen
    last = LAYERS - 1
    cells = [
        [Site(IMAGE, layer=last, token=9)],
        [*(Site(IMAGE, layer=last, token=t) for t in range(20, 40)), Site("question_encoder", layer=2, token=4)],
        [Site("question_encoder", "attention_out", layer=0, token=3)],
        [Site("answer_decoder", layer=3, token=0), Site(IMAGE, layer=last, token=0)],
    ]
    noisy = truth.noisy(5.0)
    tree = nnblip.causal_trace(model, [(image, question)], draws=1, cells=[image_regions(4), *cells])["cells"]
    assert tree.sizes["cell"] == 17 + len(cells) and tree.component.values[0] == IMAGE
    assert str(tree.cell.values[1]) == f"image_encoder block layer {last} tokens 1-2,9-10"
    for number, cell in enumerate(cells):
        mixed = with_tokens(noisy, truth.embeds, [s.token for s in cell if s.component == IMAGE])
        expected = truth.restored(mixed, *(s for s in cell if s.component != IMAGE))
        agree([float(tree[name][0, 0, 0, 17 + number]) for name in tree.data_vars], expected)
    single = nnblip.causal_trace(model, [(image, question)], draws=1, components=[IMAGE])[IMAGE].probability
    assert single.sizes["token"] == 1 + SIDE**2
    assert float(single[..., 9].squeeze()) == pytest.approx(float(tree.probability[0, 0, 0, 17]), abs=1e-6)


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_all_regions_together_are_the_whole_image(model, seen, direction):
    image, question, _ = seen
    every = [[Site(IMAGE, layer=LAYERS - 1, token=t) for t in range(1 + SIDE**2)]]
    tree = nnblip.causal_trace(model, [(image, question)], draws=2, cells=every, direction=direction)
    ends = {"denoising": tree["clean"].probability, "noising": tree["corrupted"].probability.squeeze()}
    found = tree["cells"].probability.squeeze()
    assert abs(float((tree["clean"].probability - tree["corrupted"].probability).mean())) > 0.1
    assert found.values == pytest.approx(np.broadcast_to(ends[direction].values, found.shape), abs=1e-5)


def damaged(truth, place: str, nu: float = 2.0) -> torch.Tensor:
    """Patch embeddings after multiplicative noise at a place, written out; the unit noise is the package's."""
    module, pixels = truth.module, truth.encoded.pixel_values
    side = pixels.shape[-1]
    clean = oracle.patch_embeds(module, pixels) if place == "patch_embeds" else oracle.patches_of(pixels, side // SIDE)
    noisy = clean * (1 + nu * unit_noise(Multiplicative(), tuple(clean.shape), 0, truth.encoded.key, 0))
    if place == "patch_embeds":
        return noisy
    return oracle.patch_embeds(module, oracle.picture_of(noisy, side // SIDE, side))


@pytest.mark.slow
@pytest.mark.parametrize("place", ["patch_embeds", "pixels"])
@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_layers_of_the_image_encoder_agree_with_hooks(model, seen, place, direction):
    image, question, truth = seen
    pixels = truth.encoded.pixel_values
    tree = nnblip.causal_trace(
        model, [(image, question)], nu=2, draws=1, components=[IMAGE, "question_encoder"], regions=2,
        noise_at=place, direction=direction, max_rows=40,
    )  # fmt: skip
    assert tree[IMAGE].sizes["layer"] == LAYERS and tree.attrs["noise_at"] == place
    noisy, donors = oracle.see(model._module, pixels, damaged(truth, place))
    corrupted = truth.restored(noisy)
    agree(numbers(tree, "corrupted", nu=2, draw=0), corrupted)
    assert abs(truth.clean.probability - corrupted.probability) > 0.1
    start, states = damaged(truth, place), truth.states
    if direction == "denoising":
        _, donors = oracle.see(model._module, pixels, oracle.patch_embeds(model._module, pixels))
    else:
        states = oracle.states(model._module, noisy, truth.ids, truth.answer)
        start, noisy = oracle.patch_embeds(model._module, pixels), truth.embeds
    for layer in range(LAYERS):
        for token in (0, 2):
            tokens = [0] if token == 0 else patches(0, 1, 2)
            sites = [Site(IMAGE, layer=layer, token=t) for t in tokens]
            mixed, _ = oracle.see(model._module, pixels, start, donors, sites)
            agree(numbers(tree, IMAGE, nu=2, draw=0, kind="block", layer=layer, token=token), truth.restored(mixed))
    site = Site("question_encoder", layer=3, token=7)
    expected = oracle.restored(model._module, noisy, truth.ids, truth.answer, truth.rival, states, [site])
    agree(numbers(tree, "question_encoder", nu=2, draw=0, kind="block", layer=3, token=7), expected)


@pytest.mark.slow
@pytest.mark.parametrize("noise", sorted(set(NOISES) - {"swap"}))
@pytest.mark.parametrize("place", ["image_embeds", "patch_embeds", "pixels"])
def test_without_noise_nothing_changes_anywhere(model, seen, place, noise):
    image, question, truth = seen
    tree = nnblip.causal_trace(model, [(image, question)], nu=0, draws=1, noise=noise, noise_at=place)
    assert tree["corrupted"].probability.values == pytest.approx(truth.clean.probability, abs=1e-5)


@pytest.mark.parametrize("place", ["image_embeds", "pixels"])
def test_with_frozen_sublayers_cut_edges_and_heads_it_still_agrees(model, seen, place):
    """Everything at once: image tokens in one cell with a head, attention frozen, edges cut."""
    image, question, truth = seen
    module, ids, answer = truth.module, truth.ids, truth.answer
    late = nnblip.knock_out("image_to_question", layers=[4, 5], source=range(20, 40))
    tokens, nu = patches(1, 1, 2), 2.0
    cell = [Site(IMAGE, layer=LAYERS - 1, token=t) for t in tokens]
    cell.append(Site("question_encoder", "crossattention_head", layer=2, token=7, head=1))
    tree = nnblip.causal_trace(
        model, [(image, question)], nu=nu, draws=1, noise_at=place, cells=[cell, cell[:-1], cell[-1:]],
        freeze=["attention"], knock_out=late,
    )  # fmt: skip
    noisy, start = truth.noisy(nu), None
    if place == "pixels":
        start = damaged(truth, place, nu)
        noisy, _ = oracle.see(module, truth.encoded.pixel_values, start)
    mixed = with_tokens(noisy, truth.embeds, tokens)  # a LayerNorm of each token is all that comes after the last layer
    cuts = [oracle.cut("question_encoder", "crossattention", n, range(20, 40), range(9)) for n in (4, 5)]
    with oracle.without(module, *cuts):
        logits = oracle.run(module, truth.embeds, ids, answer)
        rival, states = oracle.rival(logits, answer), oracle.states(module, truth.embeds, ids, answer)
        alone = oracle.states(module, noisy, ids, answer)

        def kept(layer):
            return lambda submodule, args, output: alone["question_encoder", "attention_out", layer]

        def restored(embeds, sites):
            layers = oracle.COMPONENTS["question_encoder"](module)
            handles = [layer.attention.output.dense.register_forward_hook(kept(n)) for n, layer in enumerate(layers)]
            try:
                return oracle.restored(module, embeds, ids, answer, rival, states, sites)
            finally:
                for handle in handles:
                    handle.remove()

        expected = [restored(mixed, cell[-1:]), restored(mixed, []), restored(noisy, cell[-1:])]
    assert np.ptp([one.probability for one in expected]) > 1e-4
    for number, one in enumerate(expected):
        agree([float(tree["cells"][name][0, 0, 0, number]) for name in tree["cells"].data_vars], one)


def test_pixels_and_patches_are_the_same_picture(model, seen):
    truth = seen[2]
    pixels = truth.encoded.pixel_values
    patches = oracle.patches_of(pixels, pixels.shape[-1] // SIDE)
    torch.testing.assert_close(clean_at(model, truth.encoded, "pixels"), patches)
    assert torch.equal(patch_embeds(model, patches, "pixels"), oracle.patch_embeds(model._module, pixels))


def test_swapped_pixels_at_one_are_the_other_picture(model, seen):
    image, question, truth = seen
    for start in range(1, 60):
        other, asked, _ = visible(model, start=start)
        if asked == question and model.answer(other, asked).ids[0] != truth.answer[0]:
            break
    example = nnblip.Example(image, question, partner=other)
    found = [
        nnblip.causal_trace(model, [example], nu=1, draws=1, noise="swap", noise_at=place)["corrupted"].probability
        for place in ("image_embeds", "pixels")
    ]
    assert found[0].item() == pytest.approx(found[1].item(), abs=1e-5)
    assert truth.clean.probability - found[0].item() > 0.1


def test_by_hand_it_is_the_same(model, seen):
    image, question, truth = seen
    example, last, pixels = [(image, question)], LAYERS - 1, truth.encoded.pixel_values
    with model.clean(image, question) as clean:
        pass
    _, states = oracle.see(model._module, pixels, oracle.patch_embeds(model._module, pixels))
    for layer in range(LAYERS):
        assert clean.states[IMAGE, "block", layer] == pytest.approx(states[layer].numpy(), abs=1e-5)
    sites = [Site(IMAGE, layer=last, token=t) for t in range(30)]
    tree = nnblip.causal_trace(model, example, draws=1, cells=[sites])
    with model.corrupt(clean, 5.0, restore=sites) as run:
        pass
    assert run.probability == pytest.approx(tree["cells"].probability.item(), abs=1e-5)
    assert torch.equal(run.image_embeds[:, :30], clean.image_embeds[:, :30])
    sites = [Site(IMAGE, layer=1, token=t) for t in range(30)]
    tree = nnblip.causal_trace(model, example, nu=2, draws=1, cells=[sites], noise_at="pixels")
    with model.corrupt(clean, 2.0, restore=sites, noise_at="pixels") as run:
        pass
    assert run.probability == pytest.approx(tree["cells"].probability.item(), abs=1e-5)
    with model.corrupt(clean, 2.0, noise_at="pixels") as run:
        pass
    assert run.probability == pytest.approx(tree["corrupted"].probability.item(), abs=1e-5)


def test_gradients_know_image_tokens(model, seen):
    image, question, _ = seen
    tree = nnblip.attribution_trace(
        model, [(image, question)], nu=1, draws=1, components=[IMAGE], steps=8, regions=4, sample=17
    )
    assert tree["check"].rank_correlation.item() > 0.5


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (dict(components=[IMAGE], regions=3), "does not divide the 8 x 8 patches; expected one of 1, 2, 4, 8"),
        (dict(components=[IMAGE], regions=0), "grid 0: expected a whole number of at least 1"),
        (dict(components=[IMAGE], regions=(2, 2, 2)), "expected a whole number"),
        (dict(regions=2), "name it in components"),
        (dict(components=[IMAGE], kinds=["attention"]), "kind block only"),
        (dict(cells=[Site(IMAGE, layer=1, token=3)]), "or let the noise fall earlier with noise_at"),
        (dict(cells=[Site(IMAGE, layer=4, token=3)]), "there are 4, 0 to 3"),
        (dict(cells=[Site(IMAGE, layer=3, token=65)]), "there are 65, 0 to 64"),
        (dict(cells=image_regions(5)), "expected one of 1, 2, 4, 8"),
        (dict(components=[IMAGE], freeze=["crossattention"]), "nothing of the image reaches the question"),
        (dict(noise_at="pixel"), "did you mean 'pixels'"),
    ],
)
def test_what_cannot_be_asked_of_image_tokens_is_said(model, seen, asked, says):
    image, question, _ = seen
    with pytest.raises(NnblipError, match=says):
        nnblip.causal_trace(model, [(image, question)], draws=1, **asked)


def test_the_image_encoder_has_no_other_kinds():
    with pytest.raises(SiteError, match="kind of image_encoder 'attention' is unknown"):
        Site(IMAGE, "attention", layer=0, token=0)
