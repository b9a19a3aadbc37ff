"""CKA against other ways to it, its null against SciPy's, and the jackknife by its own words."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ortho_group, permutation_test

from nnblip.errors import InputError
from nnblip.experiments.similarity import chance, linear_cka, pseudovalues


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    """States of 20 examples that have something in common."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 6))
    return x, np.tanh(x @ rng.normal(size=(6, 9))) + 0.5 * rng.normal(size=(20, 9)) + 3


def song(x: np.ndarray, y: np.ndarray) -> float:
    """HSIC without bias, as Song et al. 2012 (their equation 5) have it."""
    n = len(x)
    k, m = x @ x.T, y @ y.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    one = np.ones(n)
    terms = (
        np.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ k @ m @ one)
    )
    return float(terms / (n * (n - 3)))


def test_debiased_cka_is_made_of_song_and_others_hsic(pair):
    x, y = pair
    expected = song(x, y) / np.sqrt(song(x, x) * song(y, y))
    assert 0.2 < expected < 0.95
    assert linear_cka(x, y) == pytest.approx(expected, abs=1e-10)


def test_the_other_is_kornblith_and_others_by_features(pair):
    x, y = (one - one.mean(0) for one in pair)
    expected = np.linalg.norm(x.T @ y) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
    assert linear_cka(*pair, debiased=False) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("debiased", (True, False))
def test_rotations_one_factor_and_shifts_do_not_matter_and_the_order_of_examples_does(pair, debiased):
    x, y = pair
    moved = 7 * x @ ortho_group.rvs(6, random_state=0) + 2
    assert linear_cka(x, moved, debiased) == pytest.approx(1, abs=1e-9)
    assert linear_cka(moved, y, debiased) == pytest.approx(linear_cka(x, y, debiased), abs=1e-9)
    assert linear_cka(y, x, debiased) == pytest.approx(linear_cka(x, y, debiased), abs=1e-12)
    assert linear_cka(x, y[::-1], debiased) < linear_cka(x, y, debiased) - 0.1


def test_of_few_examples_with_many_hidden_units_only_the_debiased_one_knows_what_is_unrelated():
    rng = np.random.default_rng(1)
    drawn = [(rng.normal(size=(12, 200)), rng.normal(size=(12, 200))) for _ in range(200)]
    assert np.mean([linear_cka(*one, debiased=False) for one in drawn]) > 0.8
    every = np.array([linear_cka(*one) for one in drawn])
    assert abs(every.mean()) < 3 * every.std() / np.sqrt(200) < 0.05


def test_what_does_not_vary_has_no_cka(pair):
    x, _ = pair
    still = np.full((20, 3), 1 / 3)
    assert np.isnan(linear_cka(x, still)) and np.isnan(chance(x, still).p) and np.isnan(pseudovalues(x, still)).all()


def test_chance_is_what_a_permutation_test_of_pairings_says():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(7, 4))
    y = x + rng.normal(size=(7, 4))
    rows = np.arange(7)
    other = permutation_test(
        (rows,), lambda order: linear_cka(x[order], y), permutation_type="pairings", alternative="greater",
        n_resamples=np.inf, vectorized=False,
    )  # fmt: skip
    found = chance(x, y, 2999)
    assert 0.005 < other.pvalue < 0.5
    assert found.p == pytest.approx(other.pvalue, abs=0.03)
    assert found.high == pytest.approx(np.quantile(other.null_distribution, 0.95), abs=0.05)


def test_the_least_p_is_that_of_the_pairing_itself(pair):
    assert chance(*pair, permutations=999).p == pytest.approx(1 / 1000)


def test_pseudovalues_leave_each_example_out_once(pair):
    x, y = pair
    every = [20 * linear_cka(x, y) - 19 * linear_cka(np.delete(x, i, 0), np.delete(y, i, 0)) for i in range(20)]
    assert pseudovalues(x, y) == pytest.approx(every, abs=1e-9)
    assert pseudovalues(x, x) == pytest.approx(np.ones(20), abs=1e-9)
    assert np.mean(every) == pytest.approx(linear_cka(x, y), abs=0.1)


def test_states_that_cannot_be_compared_are_refused(pair):
    x, y = pair
    with pytest.raises(InputError, match=r"shapes \(20, 6\) and \(19, 9\): expected \(example, hidden\) of the same"):
        linear_cka(x, y[1:])
    with pytest.raises(InputError, match="at least 4"):
        linear_cka(x[:3], y[:3])
    with pytest.raises(InputError, match="not finite"):
        linear_cka(x, np.where(y > y.max() - 1e-9, np.nan, y))
    with pytest.raises(InputError, match="4 examples: expected at least 5"):
        pseudovalues(x[:4], y[:4])
