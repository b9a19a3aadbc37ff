"""Intervals against scipy, exact identities and plain loops; how often they hold is counted in test_calibration.py."""

import math

import numpy as np
import pytest
import xarray as xr
from helpers import words
from helpers.trees import random_tree, set_probability
from scipy import stats

from nnblip import effects, results
from nnblip.effects import resampling
from nnblip.errors import NnblipError

LEVEL = 0.95


def sample(n=15, cells=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.beta(0.7, 2, (n, cells)), rng.uniform(0.3, 1, (n, cells))


# --- plain arrays ---------------------------------------------------------------------------


def test_student_is_scipys():
    a, _ = sample()
    low, high = resampling.student(a, np.ones(a.shape), LEVEL)
    wanted = stats.t.interval(LEVEL, len(a) - 1, a.mean(0), stats.sem(a))
    np.testing.assert_allclose([low, high], wanted)


def test_percentile_t_is_a_plain_loop():
    a, b = sample()
    low, high = resampling.percentile_t(a, b, LEVEL, 200, np.random.default_rng(3))
    counts = np.random.default_rng(3).multinomial(len(a), np.full(len(a), 1 / len(a)), 200)
    for cell in range(a.shape[1]):
        x, y = a[:, cell], b[:, cell]
        r = x.sum() / y.sum()
        error = math.sqrt(((x - r * y) ** 2).sum()) / y.sum()
        t = []
        for count in counts:
            some = np.repeat(np.arange(len(x)), count)
            again = x[some].sum() / y[some].sum()
            t.append((again - r) / (math.sqrt(((x[some] - again * y[some]) ** 2).sum()) / y[some].sum()))
        wanted = r - np.quantile(t, 0.975) * error, r - np.quantile(t, 0.025) * error
        np.testing.assert_allclose([low[cell], high[cell]], wanted, rtol=1e-9)


def test_bca_is_scipys_up_to_the_resamples():
    a, _ = sample(20)
    low, high = resampling.bca(a, np.ones(a.shape), LEVEL, 20000, np.random.default_rng(0))
    for cell in range(a.shape[1]):
        wanted = stats.bootstrap((a[:, cell],), np.mean, n_resamples=20000, rng=1).confidence_interval
        np.testing.assert_allclose([low[cell], high[cell]], wanted, atol=0.01)


@pytest.mark.parametrize(("ones", "n"), [(0, 10), (1, 10), (5, 10), (10, 10), (3, 25)])
def test_with_all_of_the_range_the_bound_beyond_is_clopper_and_pearsons(ones, n):
    """Gaffke's bound of draws that are 0 or 1 is the exact binomial interval."""
    a = np.zeros((n, 2))
    a[:ones, 0] = 1
    a[:, 1] = np.linspace(0.2, 0.8, n)
    low, high = resampling.beyond(a, np.ones(a.shape), LEVEL, 40000, np.random.default_rng(0), 1e3, (0.0, 1.0))
    wanted = stats.binomtest(ones, n).proportion_ci(LEVEL, "exact")
    if 0 < ones < n:
        np.testing.assert_allclose([low[0], high[0]], wanted, atol=0.01)
    else:
        assert low[0] == high[0] == ones / n, "draws that are all alike are no sample of anything"
    assert low[1] < 0.5 < high[1]


def test_the_bound_beyond_is_wide_where_draws_differ_and_narrow_where_they_hardly_do():
    rng = np.random.default_rng(0)
    wide, narrow = rng.uniform(0, 1, (10, 500)), 0.5 + 1e-4 * rng.standard_normal((10, 500))
    ones = np.ones(wide.shape)
    widths = []
    for a in (wide, narrow):
        low, high = resampling.beyond(a, ones, LEVEL, 1000, rng, resampling.LEAST, (-1.0, 1.0))
        widths.append(np.median(high - low))
    assert widths[1] < 0.1 < widths[0] < 1


def test_beales_ratio_has_less_bias_than_the_ratio_itself():
    rng = np.random.default_rng(0)
    total = rng.beta(0.5, 0.5, (200_000, 4))
    back = 0.3 * total * rng.uniform(0, 2, total.shape) + 0.05
    truth = 0.3 * 0.5 + 0.05
    plain = back.mean(1) / total.mean(1)
    keep = total.mean(1) > 0.05
    fair = resampling.unbiased_ratio(back[keep], total[keep])
    assert abs(fair.mean() - truth / 0.5) < 0.4 * abs(plain[keep].mean() - truth / 0.5)


def test_unknown_units_are_left_out():
    a, b = sample(30)
    a[:10, 0] = b[:10, 0] = 0
    a[:, 1] = b[:, 1] = 0
    for function in (resampling.percentile_t, resampling.bca, resampling.beyond):
        low, high = function(a, b, LEVEL, 4000, np.random.default_rng(0))
        alone = function(a[10:, :1], b[10:, :1], LEVEL, 4000, np.random.default_rng(1))
        np.testing.assert_allclose([low[0], high[0]], np.ravel(alone), rtol=0.1)
        assert np.isnan(low[1]) and np.isnan(high[1])
    low, high = resampling.student(a, b, LEVEL)
    np.testing.assert_allclose([low[0], high[0]], np.ravel(resampling.student(a[10:, :1], b[10:, :1], LEVEL)))


# --- results --------------------------------------------------------------------------------

SMALL = {"layers": 2, "draws": 3, "kinds": ("block",)}


def many(examples=12, **changes):
    tree = random_tree(examples=examples, **(SMALL | changes))
    types = ["color" if i % 3 else "number" for i in range(examples)]
    tree.dataset = tree.to_dataset().assign_coords(question_type=("example", types))
    return tree


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("value", ["probability", "total_effect", "indirect_effect", "relevance", "gamma"])
def test_the_value_is_that_of_the_functions_that_average(value, pooled):
    tree = many()
    if pooled and value not in ("relevance", "gamma"):
        with pytest.raises(NnblipError, match="which is no ratio"):
            effects.interval(tree, value, pooled=True)
        return
    found = effects.interval(tree, value, pooled=pooled)
    if value == "gamma":
        curve = effects.gamma(tree, pooled=pooled)
        wanted = {name: curve[name] if pooled else curve[name].mean("example") for name in curve}
    elif value == "relevance":
        shares = effects.relevance(tree, pooled=pooled)
        wanted = {n: s.probability if pooled else s.probability.mean("example") for n, s in shares.children.items()}
    else:
        trees = {"probability": tree, "total_effect": effects.total_effect(tree)}
        nodes = trees.get(value, effects.indirect_effect(tree)).children
        names = ["corrupted"] if value == "total_effect" else ["question_encoder", "answer_decoder"]
        wanted = {name: nodes[name].probability.mean("draw").mean("example") for name in names}
    assert set(found.children) == set(wanted)
    for name, numbers in wanted.items():
        node = found[name].to_dataset()
        np.testing.assert_allclose(node.value.transpose(*numbers.dims), numbers, rtol=1e-6)
        there = node.low.notnull() & node.high.notnull()
        assert (there == (node.reason == "")).all() and there.any()
        assert (node.low <= node.high).where(there, True).all()
        if value != "relevance":  # whose bounds are without the bias of few draws
            assert ((node.low <= node.value) & (node.value <= node.high)).where(there, True).all()
        assert set(node.reason.values.ravel()) <= {
            "",
            "too few examples: at least 8",
            "no numbers",
            "total effect below the threshold",
            *(["too few draws for a mean of ratios: take pooled=True"] if value in ("relevance", "gamma") else []),
        }
    assert found.attrs["method"] == "percentile-t" and "draw" not in found.coords


def test_too_few_examples_or_draws_are_said_and_have_no_bounds():
    found = effects.interval(many(7))["answer_decoder"].to_dataset()
    assert found.low.isnull().all() and set(found.reason.values.ravel()) >= {"too few examples: at least 8"}
    assert (found.units.max() == 7) and found.value.notnull().any()
    one = many(1, draws=9)
    found = effects.interval(one)["question_encoder"].to_dataset()
    assert found.low.isnull().all() and set(found.reason.values.ravel()) <= {"too few draws: at least 10", "no numbers"}
    found = effects.interval(many(1, draws=10))["question_encoder"].to_dataset().isel(token=0)
    assert found.low.notnull().all() and found.attrs["over"] == "draws" and found.attrs["method"] == "beyond"


def test_over_draws_every_example_has_an_interval_of_its_own():
    tree = many(3, draws=12)
    every = effects.interval(tree, "relevance", over="draws")["answer_decoder"].to_dataset()
    assert every.value.dims == ("example", "nu", "kind", "layer", "token")
    np.testing.assert_allclose(every.value, effects.relevance(tree)["answer_decoder"].probability, rtol=1e-6)
    alone = effects.interval(tree.isel(example=[1]), "relevance")["answer_decoder"].to_dataset()
    xr.testing.assert_allclose(every.isel(example=[1]), alone)
    chosen = effects.interval(tree.isel(example=1), "relevance")["answer_decoder"].to_dataset()
    np.testing.assert_array_equal(chosen.low, alone.low[0])
    with pytest.raises(NnblipError, match="groups are of examples"):
        effects.interval(tree, over="draws", by="question_type")


def test_by_type_is_each_type_alone():
    tree = many(30)
    every = effects.interval(tree, "gamma", by="question_type")
    assert every["question_encoder"].value.dims == ("question_type", "nu", "kind")
    assert every["count"].values.tolist() == [20, 10]
    for kind in ("color", "number"):
        some = tree.isel(example=np.flatnonzero(tree.question_type == kind))
        alone = effects.interval(some, "gamma")["question_encoder"].to_dataset()
        here = every["question_encoder"].to_dataset().sel(question_type=kind)
        np.testing.assert_allclose(here.value, alone.value)
        np.testing.assert_allclose(here.low, alone.low)


def test_examples_without_a_defined_relevance_are_left_out_and_counted():
    tree = many(12)
    tree["corrupted"]["probability"].values[:4, 0] = 0.999
    found = effects.interval(tree, "gamma")["answer_decoder"].to_dataset()
    assert found.units.sel(nu=1.0).item() == 8 and found.units.sel(nu=5.0).item() == 12
    below = set_probability(tree, corrupted=0.999)
    node = effects.interval(below, "relevance")["answer_decoder"].to_dataset().isel(token=0)
    assert set(node.reason.values.ravel()) == {"total effect below the threshold"} and node.value.isnull().all()
    pooled = effects.interval(below, "relevance", pooled=True)["answer_decoder"].to_dataset().isel(token=0)
    assert set(pooled.reason.values.ravel()) == {"total effect below the threshold"} and pooled.value.isnull().all()


def test_an_effect_that_is_the_same_everywhere_is_no_sample_and_has_no_interval():
    tree = set_probability(many(12), clean=0.9, corrupted=0.4, answer_decoder=0.4)
    for one in (tree, tree.isel(example=[0])):
        few = effects.interval(one if one is tree else one.isel(draw=[0, 1, 2] * 4))
        node = few["answer_decoder"].to_dataset().isel(token=0)
        assert (node.value == 0).all() and node.low.isnull().all() and node.high.isnull().all()
        assert {*node.reason.values.ravel()} == {"all examples are alike" if one is tree else "all draws are alike"}


def test_an_array_and_a_tree_of_effects():
    tree = many(12)
    effect = effects.indirect_effect(tree)
    of_tree = effects.interval(tree)["answer_decoder"].to_dataset()
    for found in (
        effects.interval(effect)["answer_decoder"].to_dataset(),
        effects.interval(effect["answer_decoder"].probability),
    ):
        for name in ("value", "low", "high", "units"):
            np.testing.assert_allclose(found[name], of_tree[name])
    roles = effects.interval(effects.by_role(effects.indirect_effect(words.result(9))))["question_encoder"]
    assert "role" in roles.dims and roles.low.notnull().any()
    rng = np.random.default_rng(0)
    plain = effects.interval(xr.DataArray(rng.beta(1, 3, 40), dims="example"))
    assert plain.value.dims == () and 0 < float(plain.low) < float(plain.high) < 1
    draws = effects.interval(xr.DataArray(rng.normal(5, 1, 40), dims="draw"), method="student")
    assert draws.attrs["over"] == "draws"
    with pytest.raises(NnblipError, match="expected example or draw among them"):
        effects.interval(xr.DataArray(np.zeros(3), dims="layer"))


def test_the_same_seed_gives_the_same_bounds_of_a_stored_result_too(tmp_path):
    tree = many(12)
    stored = results.open_result(results.save(tree, tmp_path / "result.zarr"))
    first, again, other = (effects.interval(t, "relevance", seed=s) for t, s in ((tree, 0), (stored, 0), (tree, 1)))
    xr.testing.assert_equal(first["answer_decoder"].to_dataset(), again["answer_decoder"].to_dataset())
    assert not first["answer_decoder"].low.equals(other["answer_decoder"].low)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"value": "relevence"}, "did you mean 'relevance'"),
        ({"over": "draw"}, "did you mean 'draws'"),
        ({"method": "bootstrap"}, "Expected one of: percentile-t"),
        ({"level": 95}, "level is 95: expected a number between 0 and 1"),
        ({"resamples": 10}, "resamples 10: expected a whole number of at least 100"),
        ({"by": "question_typ"}, "did you mean 'question_type'"),
        ({"variable": "logit_diff"}, "did you mean 'logit_difference'"),
        ({"threshold": 0, "value": "gamma"}, "a positive number"),
    ],
)
def test_bad_settings_are_refused(wrong, message):
    with pytest.raises(NnblipError, match=message):
        effects.interval(many(), **wrong)
