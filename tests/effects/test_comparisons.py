"""Comparisons against scipy and plain enumeration."""

import numpy as np
import pytest
import xarray as xr
from helpers import words
from helpers.trees import random_tree
from scipy import stats

from nnblip import effects
from nnblip.errors import NnblipError


def array(n, cells=6, seed=0, shift=0.0, first=0):
    rng = np.random.default_rng(seed)
    names = [f"e{i}" for i in range(first, first + n)]
    return xr.DataArray(rng.gamma(0.5, 1, (n, cells)) + shift, {"example": names}, ("example", "cell"))


def t_of(x, axis=0):
    return np.abs(np.mean(x, axis) / (np.std(x, axis, ddof=1) / np.sqrt(np.shape(x)[axis])))


@pytest.mark.parametrize("n", [5, 9])
def test_a_paired_test_is_scipys_exact_one(n):
    a, b = array(n), array(n, seed=1)
    found = effects.compare(a, b)
    for cell in range(a.sizes["cell"]):
        d = (a - b).values[:, cell]
        wanted = stats.permutation_test(
            (d,), t_of, permutation_type="samples", n_resamples=np.inf, alternative="greater"
        )
        assert float(found.p[cell]) == pytest.approx(wanted.pvalue)
        assert float(found.difference[cell]) == pytest.approx(d.mean())
    assert found.attrs["paired"] == 1 and found.low.isnull().all() == (n < 8)


def test_a_test_of_two_groups_is_scipys_exact_one():
    a, b = array(4), array(5, seed=1, first=10, shift=0.5)

    def welch(x, y, axis=0):
        return np.abs(stats.ttest_ind(x, y, axis=axis, equal_var=False).statistic)

    found = effects.compare(a, b)
    for cell in range(a.sizes["cell"]):
        x, y = a.values[:, cell], b.values[:, cell]
        wanted = stats.permutation_test((x, y), welch, n_resamples=np.inf, alternative="greater")
        assert float(found.p[cell]) == pytest.approx(wanted.pvalue)
        assert float(found.difference[cell]) == pytest.approx(x.mean() - y.mean())
        pooled = np.sqrt((3 * x.var(ddof=1) + 4 * y.var(ddof=1)) / 7)
        assert float(found.effect_size[cell]) == pytest.approx((x.mean() - y.mean()) / pooled * (1 - 3 / 27))
    assert found.attrs["paired"] == 0 and (found.units_a == 4).all() and (found.units_b == 5).all()


@pytest.mark.parametrize("paired", [True, False])
def test_drawn_permutations_come_near_all_of_them(paired):
    a, b = array(9, cells=20), array(9, cells=20, seed=1, first=0 if paired else 50, shift=0.4)
    exact = effects.compare(a, b, permutations=100_000)
    drawn = effects.compare(a, b, permutations=400 if paired else 9999)
    assert float(abs(exact.p - drawn.p).max()) < (0.08 if paired else 0.02)


def test_the_largest_statistic_corrects_for_all_cells():
    a, b = array(8, cells=5), array(8, cells=5, seed=1)
    found = effects.compare(a, b)
    d = (a - b).values
    signs = np.array(np.meshgrid(*[[1, -1]] * 8)).reshape(8, -1).T
    largest = np.array([t_of(s[:, None] * d).max() for s in signs])
    for cell in range(5):
        assert float(found.p_corrected[cell]) == pytest.approx(np.mean(largest >= t_of(d)[cell] - 1e-9))
    assert (found.p_corrected >= found.p).all()


def test_a_cell_of_too_few_examples_does_not_hide_the_others():
    a, b = array(12, cells=3, shift=1.0), array(12, cells=3, seed=1)
    alone = effects.compare(a.isel(cell=[0, 1]), b.isel(cell=[0, 1]))
    a.values[3:, 2] = np.nan
    found = effects.compare(a, b)
    np.testing.assert_allclose(found.p_corrected[:2], alone.p_corrected)
    assert float(found.p_corrected[2]) == 1 and float(found.p[2]) >= 0.25 and int(found.units_a[2]) == 3
    a.values[7:, 1] = np.nan  # seven examples: less than the other, and enough
    mixed = effects.compare(a, b)
    assert (mixed.p_corrected[:2] <= 1).all() and float(mixed.p_corrected[0]) >= float(mixed.p[0])


@pytest.mark.parametrize("correction", ["holm", "benjamini-hochberg", "none"])
def test_corrections_by_name(correction):
    a, b = array(10, cells=12, shift=0.3), array(10, cells=12, seed=1)
    found = effects.compare(a, b, correction=correction)
    p = found.p.values
    if correction == "holm":
        order = np.argsort(p)
        wanted = np.empty(12)
        running = 0.0
        for rank, cell in enumerate(order):
            running = max(running, p[cell] * (12 - rank))
            wanted[cell] = min(1, running)
    else:
        wanted = stats.false_discovery_control(p) if correction == "benjamini-hochberg" else p
    np.testing.assert_allclose(found.p_corrected, wanted)


def test_differences_have_the_intervals_of_their_examples():
    a, b = array(20), array(20, seed=1)
    paired = effects.compare(a, b)
    wanted = effects.interval(a - b)
    np.testing.assert_allclose([paired.low, paired.high], [wanted.low, wanted.high])
    assert (paired.effect_low < paired.effect_size).all() and (paired.effect_size < paired.effect_high).all()
    apart = effects.compare(a, b.assign_coords(example=[f"other{i}" for i in range(20)]))
    assert (apart.low < apart.difference).all() and (apart.difference < apart.high).all()
    assert float((apart.high - apart.low).mean()) == pytest.approx(float((paired.high - paired.low).mean()), rel=0.4)


def test_no_difference_at_all_and_the_same_difference_everywhere():
    a = array(10)
    nothing = effects.compare(a, a)
    assert (nothing.difference == 0).all() and (nothing.p == 1).all() and (nothing.p_corrected == 1).all()
    b = a + 1.0
    always = effects.compare(b, a)
    np.testing.assert_allclose(always.p, 2 / 2**10)
    np.testing.assert_allclose(always.difference, 1)


# --- results --------------------------------------------------------------------------------

SMALL = {"layers": 2, "draws": 2, "kinds": ("block", "attention")}


def test_results_are_compared_node_by_node_and_by_label():
    a, b = random_tree(examples=9, **SMALL), random_tree(seed=1, examples=9, **SMALL)
    shuffled = b.isel(example=[3, 1, 2, 0, 4, 5, 8, 7, 6])
    found = effects.compare(a, shuffled)
    xr.testing.assert_allclose(
        found["answer_decoder"].to_dataset(), effects.compare(a, b)["answer_decoder"].to_dataset()
    )
    node = found["question_encoder"].to_dataset()
    assert node.p.dims == ("nu", "kind", "layer", "token") and found.attrs["paired"] == 1
    first, second = (effects.indirect_effect(tree)["question_encoder"].probability.mean("draw") for tree in (a, b))
    np.testing.assert_allclose(node.difference, (first - second).mean("example"))
    kinds = effects.compare(a.sel(kind="block"), a.sel(kind="attention"))
    assert kinds["answer_decoder"].p.dims == ("nu", "layer", "token") and "kind" not in kinds["answer_decoder"].coords
    curve = effects.compare(a, b, "gamma")
    assert curve["answer_decoder"].p.dims == ("nu", "kind")
    ratio = effects.compare(a, b, "relevance")["answer_decoder"].to_dataset()
    wanted = [effects.relevance(tree)["answer_decoder"].probability.mean("example") for tree in (a, b)]
    np.testing.assert_allclose(ratio.difference, wanted[0] - wanted[1], rtol=1e-5, atol=1e-8)


def test_types_are_compared_by_role():
    tree = effects.by_role(words.result(12))
    of = tree.question_type.values
    color, number = (tree.isel(example=np.flatnonzero(of == kind)) for kind in ("color", "number"))
    found = effects.compare(color, number)["question_encoder"].to_dataset()
    assert found.p.dims == ("nu", "kind", "layer", "role") and found.attrs["paired"] == 0
    role = found.role.values[0]
    means = [
        effects.indirect_effect(t)["question_encoder"].probability.sel(role=role).mean(("draw", "example"))
        for t in (color, number)
    ]
    np.testing.assert_allclose(found.difference.sel(role=role), means[0] - means[1])


def test_only_what_both_have_is_compared():
    a = random_tree(examples=9, **SMALL)
    b = random_tree(seed=1, examples=9, **SMALL).sel(kind=["attention"], layer=[1])
    del b["question_encoder"]
    found = effects.compare(a, b)
    assert list(found.children) == ["answer_decoder"]
    assert found["answer_decoder"].kind.values.tolist() == ["attention"] and found[
        "answer_decoder"
    ].layer.values.tolist() == [1]
    same = effects.compare(a.sel(kind=["attention"], layer=[1]), b)
    np.testing.assert_allclose(found["answer_decoder"].p, same["answer_decoder"].p)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda a, b: effects.compare(a, b.isel(example=range(5))),
            "5 examples are in both, 9 and 5 in all: say paired=True",
        ),
        (
            lambda a, b: effects.compare(a.isel(example=[0, 1]), b.isel(example=[5, 6]), paired=True),
            "no example is in both",
        ),
        (lambda a, b: effects.compare(a, b, correction="bonferroni"), "Expected one of: max, holm"),
        (lambda a, b: effects.compare(a, b.isel(nu=0)), "expected the same; select one label"),
        (lambda a, b: effects.compare(a.sel(nu=[1.0]), b.sel(nu=[5.0])), "no nu is in both"),
        (lambda a, b: effects.compare(a.isel(example=0), b), "expected the dimension example in both"),
        (lambda a, b: effects.compare(a, b["clean"].probability), "not one of each"),
        (lambda a, b: effects.compare(a, b, level=2), "level is 2"),
        (lambda a, b: effects.compare(a, b, permutations=3), "permutations 3"),
    ],
)
def test_what_cannot_be_compared_is_said(change, message):
    a, b = random_tree(examples=9, **SMALL), random_tree(seed=1, examples=9, **SMALL)
    with pytest.raises(NnblipError, match=message):
        change(a, b)
