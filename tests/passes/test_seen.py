"""How far damage leads from clean runs: length of the image embeddings and evenness of the attention to them."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import torch
import xarray as xr
from helpers.errands import Server
from helpers.scenes import visible

import nnblip
from nnblip import results
from nnblip.blip.places import clean_at, patch_embeds
from nnblip.noise import Multiplicative, unit_noise
from nnblip.passes import measure
from nnblip.remote import client
from nnblip.sites import image_regions
from nnblip.sweeps.verify import check_stored

NU, DRAWS = (1.0, 3.0), 2


@pytest.fixture(scope="module")
def seen(model):
    return visible(model)


@pytest.fixture(scope="module")
def tree(model, seen):
    return nnblip.causal_trace(model, [seen[:2]], NU, DRAWS)


def length(embeds: torch.Tensor) -> float:
    return float((embeds.double() ** 2).sum(-1).sqrt().mean())


def agrees(tree: xr.DataTree, truth, noisy, unseen=()) -> None:
    """`noisy` gives the damaged image embeddings of a ν and draw."""
    clean, changes = oracle.looking(truth.module, truth.embeds, truth.ids, unseen), []
    node = tree["corrupted"].to_dataset().isel(example=0)
    for nu in NU:
        for draw in range(DRAWS):
            embeds, found = noisy(nu, draw), node.sel(nu=nu, draw=draw)
            changes.append(oracle.looking(truth.module, embeds, truth.ids, unseen) - clean)
            assert float(found.norm_ratio) == pytest.approx(length(embeds) / length(truth.embeds), rel=1e-5)
            assert float(found.entropy_change) == pytest.approx(changes[-1], abs=1e-5)
    assert np.ptp(changes) > 0.01 and np.abs(changes).min() > 0.001, "there is something to tell"


def test_both_are_those_of_plain_runs(tree, seen):
    agrees(tree, seen[2], lambda nu, draw: seen[2].noisy(nu, draw=draw))
    assert tree["corrupted"].norm_ratio.dims == ("example", "nu", "draw") == tree["corrupted"].entropy_change.dims


@pytest.mark.slow
@pytest.mark.parametrize(
    "other",
    [
        dict(direction="noising"),
        dict(max_rows=9),  # in several passes
        dict(components=["image_encoder"], regions=2),  # rows that see other image embeddings
        dict(components=["answer_decoder"], cells=image_regions(2)),
        dict(freeze=["crossattention"]),
    ],
)
def test_what_is_restored_changes_neither(model, seen, tree, other):
    found = nnblip.causal_trace(model, [seen[:2]], NU, DRAWS, **other)["corrupted"]
    for name in results.DAMAGE:
        np.testing.assert_allclose(found[name], tree["corrupted"][name], atol=2e-6)


@pytest.mark.slow
def test_noise_before_the_image_encoder(model, seen):
    image, question, truth = seen
    parts = ["image_encoder", "question_encoder"]
    tree = nnblip.causal_trace(model, [(image, question)], NU, DRAWS, noise_at="patch_embeds", components=parts)
    undamaged = clean_at(model, truth.encoded, "patch_embeds")

    def noisy(nu, draw):
        unit = unit_noise(Multiplicative(), tuple(undamaged.shape), 0, truth.encoded.key, draw)
        patches = patch_embeds(model, undamaged * (1 + nu * unit), "patch_embeds")
        return oracle.see(truth.module, truth.encoded.pixel_values, patches)[0]

    agrees(tree, truth, noisy)


def test_patches_that_no_token_sees_do_not_count(model, seen):
    image, question, truth = seen
    cut = nnblip.knock_out("image_to_question", source=range(1, 40))
    tree = nnblip.causal_trace(model, [(image, question)], NU, DRAWS, knock_out=cut)
    with oracle.without(
        truth.module, *(oracle.cut("question_encoder", "crossattention", n, range(1, 40), range(99)) for n in range(6))
    ):
        agrees(tree, truth, lambda nu, draw: truth.noisy(nu, draw=draw), unseen=range(1, 40))


def test_of_embeddings_that_fade_or_stay_the_ratio_is_known(model, seen):
    found = nnblip.causal_trace(model, [seen[:2]], [0, 1, 2], 1, "scale")["corrupted"].to_dataset().squeeze()
    np.testing.assert_allclose(found.norm_ratio, [1, 0.7691, 0.7691**2], rtol=1e-6)
    assert found.entropy_change.values[0] == 0 and found.entropy_change.values[2] > 0.001


# --- everything that carries results carries them -----------------------------------------------


def test_estimates_and_servers_have_them(model, seen, there, tree, monkeypatch):
    estimated = nnblip.attribution_trace(model, [seen[:2]], nu=NU, draws=DRAWS, sample=2)
    monkeypatch.setattr(client, "ask", Server(model))
    far = nnblip.causal_trace(there, [seen[:2]], NU, DRAWS)
    assert results.DAMAGE == measure.DAMAGE
    for name in results.DAMAGE:
        np.testing.assert_allclose(estimated["corrupted"][name], tree["corrupted"][name], atol=2e-6)
        assert far["corrupted"][name].equals(tree["corrupted"][name])


def test_stores_and_sweeps_have_them(model, seen, tree, tmp_path):
    path, said = results.save(tree, tmp_path / "one.zarr"), []
    nnblip.sweep(model, [seen[:2]], tmp_path / "sweep.zarr", nu=NU, draws=DRAWS)
    assert check_stored(path, said.append) and check_stored(tmp_path / "sweep.zarr", said.append), said
    for name in results.DAMAGE:
        wanted = tree["corrupted"][name]
        assert results.open_result(path)["corrupted"][name].equals(wanted)
        found = results.open_result(tmp_path / "sweep.zarr")["corrupted"][name]
        np.testing.assert_array_equal(found, wanted)
        assert name in results.open_result(tmp_path / "sweep.zarr")["corrupted"].coords
