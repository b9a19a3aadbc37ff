"""Split-half reliability against plain loops and known truths; drawing until it is reached."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import xarray as xr
from helpers.scenes import visible

import nnblip
from nnblip.errors import SettingError
from nnblip.passes import settings as limits
from nnblip.passes.reliability import maps_of, reliability, split_half
from nnblip.passes.settings import Settings
from nnblip.results import DAMAGE
from nnblip.sites import KINDS, Extent, windows
from nnblip.sweeps.verify import check_stored


def maps(draws, signal, cells=40, seed=0):
    """Maps that share a pattern of this standard deviation, in noise of 1."""
    rng = np.random.default_rng(seed)
    return signal * rng.standard_normal(cells) + rng.standard_normal((draws, cells))


@pytest.mark.parametrize("draws", [4, 6])
def test_the_mean_over_random_halves_comes_near_that_over_all_halves(draws):
    x = maps(draws, 0.7)
    every = []
    for half in combinations(range(draws), draws // 2):
        other = [d for d in range(draws) if d not in half]
        every.append(np.corrcoef(x[list(half)].mean(0), x[other].mean(0))[0, 1])
    r = np.mean(every)
    assert split_half(x, splits=4000) == pytest.approx(2 * r / (1 + r), abs=0.01)


@pytest.mark.parametrize(("signal", "draws"), [(1.0, 9), (0.3, 20), (0.0, 20)])
def test_it_is_the_correlation_of_two_sets_of_draws(signal, draws):
    truth = signal**2 / (signal**2 + 1 / draws)
    found = [split_half(maps(draws, signal, cells=300, seed=seed)) for seed in range(30)]
    assert np.mean(found) == pytest.approx(truth, abs=0.05)


def test_its_interval_holds_it():
    inside, draws, signal = 0, 10, 0.5
    for seed in range(150):
        rng = np.random.default_rng(seed)
        pattern = signal * rng.standard_normal(60)
        truth = np.mean(
            [np.corrcoef(*(pattern + rng.standard_normal((2, draws, 60)).mean(1)))[0, 1] for _ in range(40)]
        )
        found = reliability(pattern + rng.standard_normal((draws, 60)))
        inside += found.low <= truth <= found.high
    assert inside >= 0.88 * 150


def test_what_cannot_be_told():
    assert np.isnan(reliability(maps(3, 1.0))).all() and np.isnan(reliability(maps(9, 1.0, cells=2))).all()
    assert np.isnan(reliability(np.ones((9, 9)))).all()
    assert reliability(np.tile(np.arange(9.0), (8, 1))) == (1, 1, 1), "draws that are all alike"
    x = maps(9, 1.0)
    padded = np.pad(x, ((0, 3), (0, 5)), constant_values=np.nan)
    assert reliability(padded) == reliability(x)


def test_the_maps_of_a_trace_are_its_nodes_and_kinds():
    extent = Extent(layers=2, question_tokens=3, answer_tokens=1, heads=2)
    nodes = Settings.of(kinds=["block", "attention_head", "mlp_out"], cells=windows(2)).nodes(extent)
    found = list(maps_of(nodes))
    assert [(node, kind) for node, kind, _ in found] == [
        ("question_encoder", "block"), ("question_encoder", "mlp_out"), ("answer_decoder", "block"),
        ("answer_decoder", "mlp_out"), ("question_encoder_heads", "attention_head"),
        ("answer_decoder_heads", "attention_head"), ("cells", ""),
    ]  # fmt: skip
    every = [cell for cells in nodes.values() for cell in cells]
    assert sorted(place for *_, places in found for place in places) == list(range(len(every)))
    for _, kind, places in found[:-1]:
        assert {every[place][0].kind for place in places} == {kind}


# --- traces ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seen(model):
    return visible(model)[:2]


@pytest.mark.slow
def test_every_map_says_its_reliability(model, seen):
    tree = nnblip.causal_trace(model, [seen], nu=[1, 3], draws=6, kinds=[*KINDS])
    for name in ("question_encoder", "answer_decoder", "question_encoder_heads"):
        node = tree[name].to_dataset()
        assert node.reliability.dims == ("example", "nu", "kind")
        for kind in node.kind.values:
            here = node.sel(nu=3.0, kind=kind).isel(example=0)
            wanted = reliability(here.probability.values.reshape(6, -1))
            found = [here[label].item() for label in ("reliability", "reliability_low", "reliability_high")]
            np.testing.assert_allclose(found, wanted)
    few = nnblip.causal_trace(model, [seen], draws=3)
    assert few["question_encoder"].reliability.isnull().all()


@pytest.mark.slow
def test_draws_go_on_until_every_map_is_reliable(model, seen):
    other = nnblip.demo.examples()[3]
    examples = [seen, (other.image, other.question)]
    tree = nnblip.causal_trace(model, examples, nu=[0.5], draws="auto", noise="shuffle")
    counts = tree.coords["draws"].values
    assert tree.attrs["draws"] == "auto" and set(counts) <= set(range(10, 101, 10))
    assert tree.sizes["draw"] == counts.max() < 100
    plain = nnblip.causal_trace(model, examples, nu=[0.5], draws=int(counts.max()), noise="shuffle")
    for example, count in enumerate(counts):
        for node in ("question_encoder", "answer_decoder", "corrupted"):
            found, wanted = (t[node].probability.isel(example=example) for t in (tree, plain))
            assert found.isel(draw=slice(count)).equals(wanted.isel(draw=slice(count))), "the same numbers bit for bit"
            assert found.isel(draw=slice(count, None)).isnull().all()
        for name in DAMAGE:
            found, wanted = (t["corrupted"][name].isel(example=example, nu=0).values for t in (tree, plain))
            np.testing.assert_array_equal(found[:count], wanted[:count])
            assert np.isnan(found[count:]).all()
        assert least(tree, example, count) >= 0.9
        assert count == 10 or least(tree, example, count - 10) < 0.9


def least(tree, example, draws):
    """The reliability of the least reliable map of so many draws."""
    found = []
    for node in ("question_encoder", "answer_decoder"):
        cells = tree[node].probability.isel(example=example, nu=0, kind=0).values[:draws].reshape(draws, -1)
        found.append(split_half(cells[:, ~np.isnan(cells).any(0)]))
    return min(found)


@pytest.mark.slow
def test_a_wish_that_is_not_reached_ends_at_the_bound_and_is_told(model, seen, monkeypatch):
    monkeypatch.setattr(limits, "MOST_AUTO", 30)
    tree = nnblip.causal_trace(model, [seen], nu=0.5, draws="auto", reliability=0.9999)
    assert tree.sizes["draw"] == 30 and tree.coords["draws"].values.tolist() == [30]
    assert float(tree["question_encoder"].reliability.min()) < 0.9999


@pytest.mark.slow
def test_a_result_with_different_numbers_of_draws_is_stored_checked_and_averaged(model, seen, tmp_path):
    still = nnblip.demo.examples()[3]
    tree = nnblip.causal_trace(model, [seen, (still.image, still.question)], nu=3, draws="auto", reliability=0.5)
    path, said = nnblip.results.save(tree, tmp_path / "result.zarr"), []
    assert check_stored(path, said.append), said
    share = nnblip.relevance(tree)["question_encoder"].probability
    for example, count in enumerate(tree.coords["draws"].values):
        alone = tree.isel(example=[example], draw=slice(count))
        wanted = nnblip.relevance(alone)["question_encoder"].probability
        xr.testing.assert_allclose(share.isel(example=[example]), wanted)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"draws": "many"}, "draws 'many': expected a whole number of at least 1 or 'auto'"),
        ({"draws": "auto", "reliability": 1}, "reliability 1: expected a number between 0 and 1"),
        ({"reliability": "0.9"}, "reliability '0.9': expected a number between 0 and 1"),
    ],
)
def test_bad_wishes_are_refused(wrong, message):
    with pytest.raises(SettingError, match=message):
        Settings.of(**wrong)


def test_sweeps_and_estimates_have_a_fixed_number_of_draws(model, seen, tmp_path):
    with pytest.raises(SettingError, match="the examples of a sweep have the same number of draws"):
        nnblip.sweep(model, [seen], tmp_path / "results.zarr", draws="auto")
    with pytest.raises(SettingError, match="estimates are to search with"):
        nnblip.attribution_trace(model, [seen], draws="auto")
