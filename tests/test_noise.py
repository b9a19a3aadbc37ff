"""Noise, against numpy and scipy."""

import itertools
import math
from typing import Any, ClassVar

import numpy as np
import pytest
import scipy.stats
import torch
from helpers.scenes import visible

import nnblip
from nnblip.errors import NnblipError
from nnblip.noise import NOISES, Scale, check_nu, corrupt, get_noise, unit_noise

SHAPE = (1, 577, 768)  # the vision model's output in blip-vqa-base
COUNT = math.prod(SHAPE)
HUGE = pytest.param(10**400, id="too large for a float")
RANDOM = ("multiplicative", "additive", "uniform")


@pytest.fixture(scope="module")
def embeds():
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.normal(0.3, 1.7, (1, 50, 64)).astype(np.float32))


def unit_like(noise, embeds, draw=0):
    return unit_noise(get_noise(noise), tuple(embeds.shape), seed=3, example="e", draw=draw)


def by_hand(name, embeds, unit, nu):
    """In float64, from the formulas of the papers."""
    x, z = embeds.double().numpy(), unit.double().numpy()
    return x * (1 + nu * z) if name == "multiplicative" else x + nu * np.std(x, ddof=1) * z


@pytest.mark.parametrize("nu", [0.5, 5.0])
@pytest.mark.parametrize("name", RANDOM)
def test_noise_is_the_formula_of_the_paper(name, nu, embeds):
    unit = unit_like(name, embeds)
    noisy = corrupt(get_noise(name), embeds, unit, nu)
    assert noisy.dtype == torch.float32 and noisy.shape == embeds.shape
    np.testing.assert_allclose(noisy.numpy(), by_hand(name, embeds, unit, nu), rtol=2e-6, atol=2e-6)


def test_multiplicative_noise_multiplies_by_normal_numbers_of_mean_1_and_std_nu():
    ones = torch.ones(SHAPE)
    factors = (
        corrupt(get_noise("multiplicative"), ones, unit_like("multiplicative", ones), 5.0).double().numpy().ravel()
    )
    assert abs(factors.mean() - 1) < 4 * 5 / math.sqrt(COUNT)
    assert abs(factors.std() - 5) < 4 * 5 / math.sqrt(2 * COUNT)
    assert scipy.stats.kstest(factors, scipy.stats.norm(1, 5).cdf).pvalue > 1e-3


@pytest.mark.parametrize("name", ["additive", "uniform"])
def test_added_noise_has_nu_times_the_spread_of_the_embeddings(name):
    embeds = torch.from_numpy(np.random.default_rng(1).normal(2, 0.25, SHAPE).astype(np.float32))
    added = (corrupt(get_noise(name), embeds, unit_like(name, embeds), 3.0) - embeds).double().numpy()
    assert abs(added.std() / (3 * embeds.double().numpy().std()) - 1) < 0.01


@pytest.mark.parametrize("name", RANDOM)
def test_the_damage_grows_in_proportion_to_nu(name, embeds):
    noise, unit = get_noise(name), unit_like(name, embeds)
    once, tenfold = (corrupt(noise, embeds, unit, nu) - embeds for nu in (1.0, 10.0))
    torch.testing.assert_close(tenfold, 10 * once, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NOISES)
def test_nu_zero_leaves_the_embeddings_as_they_are(name, dtype, embeds):
    clean = embeds.to(dtype)
    assert torch.equal(corrupt(get_noise(name), clean, unit_like(name, clean), 0.0), clean)


def test_scale_is_the_factor_of_the_papers_second_notebook(embeds):
    scale = get_noise("scale")
    assert torch.equal(corrupt(scale, embeds, unit_like("scale", embeds), 1.0), embeds * 0.7691)
    twice = corrupt(scale, embeds, unit_like("scale", embeds), 2.0)
    torch.testing.assert_close(twice, embeds * 0.59151481)  # 0.7691 squared
    half = corrupt(Scale(0.5), embeds, unit_like("scale", embeds), 3.0)
    assert torch.equal(half, embeds / 8)


def test_scale_is_the_same_for_every_draw(embeds):
    first, second = (corrupt(Scale(), embeds, unit_like("scale", embeds, draw), 1.0) for draw in (0, 1))
    assert torch.equal(first, second)


@pytest.mark.parametrize("factor", [0, -0.5, math.nan, math.inf, "0.5", "half", None, HUGE])
def test_scale_factor_must_be_a_number_above_zero(factor):
    with pytest.raises(NnblipError, match=r"scale factor .*: expected a number above 0"):
        Scale(factor)


@pytest.mark.parametrize("name", ["multiplicative", "additive"])
def test_gaussian_unit_noise_is_standard_normal(name):
    unit = unit_noise(get_noise(name), SHAPE, seed=0, example="abc", draw=0)
    assert unit.dtype == torch.float32 and tuple(unit.shape) == SHAPE
    z = unit.double().numpy().ravel()
    assert abs(z.mean()) < 4 / math.sqrt(COUNT)
    assert abs(z.std() - 1) < 4 / math.sqrt(2 * COUNT)
    assert scipy.stats.kstest(z, "norm").pvalue > 1e-3


def test_uniform_unit_noise_is_bounded_and_has_variance_1():
    unit = unit_noise(get_noise("uniform"), SHAPE, seed=0, example="abc", draw=0)
    assert unit.dtype == torch.float32 and tuple(unit.shape) == SHAPE
    z = unit.double().numpy().ravel()
    assert np.abs(z).max() <= np.float32(math.sqrt(3))
    assert z.min() < -1.73 and z.max() > 1.73
    assert abs(z.mean()) < 4 / math.sqrt(COUNT)
    # the variance of z² is 9/5 - 1
    assert abs((z**2).mean() - 1) < 4 * math.sqrt(0.8 / COUNT)
    assert scipy.stats.kstest(z, scipy.stats.uniform(-math.sqrt(3), 2 * math.sqrt(3)).cdf).pvalue > 1e-3


@pytest.mark.parametrize("name", RANDOM)
def test_neighbouring_elements_of_unit_noise_are_independent(name):
    z = unit_noise(get_noise(name), SHAPE, seed=0, example="abc", draw=0)[0].double().numpy()
    for one, other in ((z[:, 1:], z[:, :-1]), (z[1:], z[:-1])):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 4 / math.sqrt(one.size)


@pytest.mark.parametrize("name", RANDOM)
def test_unit_noise_is_fixed_by_seed_example_and_draw_and_any_of_them_changes_all_of_it(name):
    noise = get_noise(name)
    given: dict[str, Any] = {"seed": 7, "example": "0f3a", "draw": 2}
    first = unit_noise(noise, SHAPE, **given)
    assert torch.equal(first, unit_noise(noise, SHAPE, **given))
    for change in ({"seed": 8}, {"seed": 2, "draw": 7}, {"example": "0f3b"}, {"draw": 3}, {"draw": 0}):
        other = unit_noise(noise, SHAPE, **{**given, **change})
        assert (first == other).float().mean() < 1e-3
        assert abs(np.corrcoef(first.numpy().ravel(), other.numpy().ravel())[0, 1]) < 4 / math.sqrt(COUNT)


def test_no_two_of_many_seeds_examples_and_draws_share_their_noise():
    noise = get_noise("multiplicative")
    grid = list(itertools.product([0, 1, 2, 11, 12], ["0", "1", "2", "11", "ab"], [0, 1, 2, 11, 12]))
    first = {tuple(unit_noise(noise, (1, 1, 4), *where).ravel().tolist()) for where in grid}
    assert len(first) == len(grid)


@pytest.mark.parametrize("name", RANDOM)
def test_the_order_of_draws_and_foreign_random_numbers_do_not_matter(name):
    noise, shape = get_noise(name), (1, 5, 8)
    forward = [unit_noise(noise, shape, seed=0, example="e", draw=draw) for draw in range(4)]
    np.random.seed(1)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    backward = [unit_noise(noise, shape, seed=0, example="e", draw=draw) for draw in reversed(range(4))]
    assert all(torch.equal(one, other) for one, other in zip(forward, reversed(backward), strict=True))
    assert torch.equal(torch.get_rng_state(), state), "the user's own random numbers were consumed"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", RANDOM)
def test_half_precision_gets_the_rounded_float32_result(name, dtype, embeds):
    half = embeds.to(dtype)
    unit = unit_like(name, half)
    noisy = corrupt(get_noise(name), half, unit, 5.0)
    assert noisy.dtype == dtype
    full = torch.from_numpy(by_hand(name, half, unit, 5.0).astype(np.float32))
    # numpy's float64 and torch's float32 may fall on two sides of a rounding step
    wrong = noisy != full.to(dtype)
    assert wrong.float().mean() < 2e-3
    torch.testing.assert_close(noisy, full.to(dtype))
    # and the comparison can tell: arithmetic in half precision gives other numbers
    spread = 1 if name == "multiplicative" else half.std()
    low = half * (1 + 5.0 * unit.to(dtype)) if name == "multiplicative" else half + 5.0 * spread * unit.to(dtype)
    assert (low != full.to(dtype)).float().mean() > 0.1


class Blackout:
    """A noise of a user's own: zeroes patches at random; ν is their share."""

    name: ClassVar[str] = "blackout"

    def unit(self, shape, rng):
        return np.broadcast_to(rng.random((*shape[:2], 1), dtype=np.float32), shape).copy()

    def apply(self, embeds, unit, nu):
        return torch.where(unit < nu, 0.0, embeds)


def test_a_noise_of_ones_own_works(embeds):
    mine = Blackout()
    noise = get_noise(mine)
    assert noise is mine
    unit = unit_noise(noise, tuple(embeds.shape), seed=0, example="e", draw=0)
    noisy = corrupt(noise, embeds.bfloat16(), unit, 0.5)
    dark = (noisy == 0).all(-1)[0]
    assert 10 < int(dark.sum()) < 40  # of 50 patches
    assert torch.equal(noisy[0, ~dark], embeds.bfloat16()[0, ~dark])


@pytest.mark.parametrize("given", ["multiplicativ", "Multiplicative", "aditive", "uniforms", "scal"])
def test_a_misspelt_noise_suggests_the_nearest(given):
    meant = {"m": "multiplicative", "a": "additive", "u": "uniform", "s": "scale"}[given[0].lower()]
    with pytest.raises(NnblipError, match=f"noise '{given}' is unknown; did you mean '{meant}'"):
        get_noise(given)


@pytest.mark.parametrize("given", ["", "xyzzy", None, 5, object(), Scale, Blackout, {"name": "scale"}])
def test_what_is_no_noise_is_refused_and_the_names_are_listed(given):
    with pytest.raises(NnblipError, match="multiplicative, additive, uniform, scale"):
        get_noise(given)


def test_several_noises_are_for_a_trace():
    with pytest.raises(
        NnblipError, match=r"noise \['additive'\]: expected one here; several at once are for causal_trace"
    ):
        get_noise(["additive"])


@pytest.mark.parametrize("nu", [0, 5, 2.5, np.float32(0.5), np.int64(3), np.float64(10)])
def test_nu_is_a_number_of_at_least_zero(nu):
    checked = check_nu(nu)
    assert type(checked) is float and checked == nu


@pytest.mark.parametrize(
    "nu",
    [
        -1, -1e-9, math.nan, math.inf, -math.inf, "five", "5", "", b"5", True, False, np.True_, None, [5], (1, 2), 1j,
        {}, np.nan, np.array([1.0, 2.0]), HUGE,
    ],
)  # fmt: skip
def test_bad_nu_is_refused(nu):
    with pytest.raises(NnblipError) as caught:
        check_nu(nu)
    assert "expected a number of at least 0" in str(caught.value)


# --- noise of one's own ------------------------------------------------------------------


class Own:
    """Noise of a user's: what it gives is set by the test."""

    name = "own"

    def __init__(self, unit=None, damaged=None):
        self._unit, self._damaged = unit, damaged

    def unit(self, shape, rng):
        return rng.random(shape, dtype=np.float32) if self._unit is None else self._unit

    def apply(self, embeds, unit, nu):
        return embeds + nu * unit if self._damaged is None else self._damaged


def test_noise_of_ones_own_is_called_by_its_name(model):
    image, question, _ = visible(model)
    tree = nnblip.causal_trace(model, [(image, question)], noise=Own(), draws=1)
    assert tree.attrs["noise"] == "own(_damaged=None, _unit=None)"
    for wrong in (None, "", 3):
        noise = Own()
        noise.name = wrong
        with pytest.raises(NnblipError, match=f"its name is {wrong!r}, expected a text"):
            nnblip.causal_trace(model, [(image, question)], noise=noise, draws=1)


@pytest.mark.parametrize(
    ("noise", "says"),
    [
        (Own(unit=np.zeros((1, 2, 3), np.float32)), r"unit gave shape \(1, 2, 3\), .* array of shape \(1, 65, 128\)"),
        (Own(unit=[1.0]), "unit gave a list"),
        (Own(damaged=torch.zeros(1, 64, 128)), r"apply gave shape \(1, 64, 128\), .* tensor of shape \(1, 65, 128\)"),
        (Own(damaged=torch.full((1, 65, 128), torch.nan)), "at ν = 5 it gives numbers that are NaN or infinite"),
        (Own(damaged=torch.full((1, 65, 128), torch.inf)), "at ν = 5 it gives numbers that are NaN or infinite"),
        (Own(damaged=0.0), "apply gave a float"),
    ],
)  # fmt: skip
def test_what_noise_of_ones_own_gives_is_checked(model, noise, says):
    with pytest.raises(NnblipError, match=f"example 0: noise 'own': {says}"):
        nnblip.causal_trace(model, [visible(model)[:2]], noise=noise, draws=1)
