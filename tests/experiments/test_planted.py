"""Methods against plants: what theory says of two plants, and what AUROC is."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from nnblip.experiments import index

PLANTED = index.load("planted")


@pytest.fixture(scope="module")
def planted():
    import sys

    return sys.modules["nnblip_experiment_planted"]


def test_auroc_is_the_share_of_pairs_in_order(planted):
    rng = np.random.default_rng(0)
    numbers, truth = rng.integers(0, 5, 40).astype(float), rng.random(40) < 0.3
    pairs = [(one > other) + 0.5 * (one == other) for one in numbers[truth] for other in numbers[~truth]]
    assert planted.auroc(numbers, truth) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert planted.auroc(truth.astype(float), truth) == 1 and planted.auroc(1 - truth, truth) == 0
    assert planted.auroc(np.where(truth, 1e-9, 0), truth) == 0.5, "rounding finds nothing"


def test_of_the_strongest_equal_ones_count_by_chance(planted):
    truth = np.array([True, False, True, False, False])
    assert planted.among_strongest(np.array([5.0, 4, 3, 2, 1]), truth) == 0.5
    assert planted.among_strongest(np.array([5.0, 1, 3, 1, 1]), truth) == 1
    assert planted.among_strongest(np.array([5.0, 3, 3, 3, 1]), truth) == pytest.approx((1 + 1 / 3) / 2)
    assert planted.among_strongest(np.zeros(5), truth) == pytest.approx(2 / 5)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "seen", "unseen"), [("layer", "denoising", None), ("or", "denoising", "noising")])
def test_exact_methods_find_what_can_be_shown_and_the_rest_by_chance(planted, kind, seen, unseen):
    """Of a plant of which a share s can be shown, and nothing else has an effect, AUROC is s + (1 - s) / 2."""
    plant = planted.nnblip.planted(kind, 3, examples=1, dtype="float64")
    sort = planted.sorts_of(plant)["edges"]
    few = np.flatnonzero(sort.planted | (np.random.default_rng(0).random(len(sort.candidates)) < 0.05))
    candidates, truth = [sort.candidates[place] for place in few], sort.planted[few]
    for direction in ("denoising", "noising"):
        numbers = planted.exact(plant, candidates, direction)
        share = sort.shown[direction][few].sum() / truth.sum()
        assert (share < 1) == (direction == unseen)
        assert planted.auroc(numbers, truth) == pytest.approx(share + (1 - share) / 2, abs=1e-12)
        assert planted.auroc(numbers, sort.shown[direction][few]) == 1
    gradients = planted.auroc(planted.estimated(plant, candidates), truth)
    assert gradients == 1 if kind == "layer" else gradients < 0.7


@pytest.mark.slow
def test_attention_looks_at_a_distractor_and_cutting_does_not(planted):
    plant = planted.nnblip.planted("distractor", 2, examples=1, dtype="float64")
    sort = planted.sorts_of(plant)["cross-attention"]
    weights, cut = planted.looked(plant, sort.candidates), planted.exact(plant, sort.candidates)
    assert planted.auroc(cut, sort.planted) == 1
    assert planted.auroc(weights, sort.planted) < 1
    # where it looks most is not where the answer comes from
    assert not sort.planted[int(weights.argmax())] and sort.planted[int(cut.argmax())]


def test_what_is_said_of_a_method_is_of_that_method(planted):
    """`method` is also the name of an argument of `sel`, which then selects nothing and says nothing."""
    names, level = list(planted.METHODS), 0.95
    rng = np.random.default_rng(0)
    numbers = rng.uniform(0.2, 0.8, (6, len(names)))
    numbers[:, names.index("knock-out map")] += 0.1
    numbers[:, names.index("Grad-CAM")] = 1  # finds all: nothing is said of it where edges are asked about
    exact = np.array([method.exact for method in planted.METHODS.values()])
    shown = np.where(exact, 1.0, np.nan)[None].repeat(6, 0)
    found = xr.Dataset(
        {"auroc": (("plant", "method"), numbers), "auroc_of_shown": (("plant", "method"), shown)},
        {"method": names, "kind": ("plant", ["layer"] * 3 + ["or"] * 3), "seed": ("plant", np.arange(6))},
    )
    for place, name in enumerate(names):
        assert planted._mean(found["auroc"], name).value == pytest.approx(numbers[:, place].mean(), abs=1e-12)
    gap = planted._gap(found["auroc"], "knock-out map", "attention weights", level)
    a, b = (numbers[:, names.index(name)].mean() for name in ("knock-out map", "attention weights"))
    assert abs(a - b) > 0.01
    assert gap.value == pytest.approx(a - b, abs=1e-12)
    assert planted._whole(found).said == planted.FAILS
    assert planted._whole(found).because == "not for layer, or"
    assert f"{6 * exact.sum()} of {6 * exact.sum()} pairs" in planted._exactly(found).because


def test_it_takes_no_model_and_no_data():
    from nnblip.errors import SettingError

    for given in ({"model": "folder"}, {"dataset": ("scenes",)}, {"nu": (3.0,)}):
        with pytest.raises(SettingError, match="planted brings its models and examples itself"):
            PLANTED.options("out", **given)
