"""Effects against plain loops over plain arrays, written without looking at the package."""

import math
from typing import Any

import numpy as np
import pytest
import xarray as xr
from helpers.trees import QUESTIONS, VARIABLES, random_tree, set_probability
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nnblip import effects, results
from nnblip.errors import NnblipError

SMALL = {"layers": 3, "draws": 3}
# Settings of a random tree in which some total effects are below any threshold, or negative.
trees = st.builds(
    random_tree,
    seed=st.integers(0, 10**6),
    examples=st.integers(1, 4),
    nus=st.sampled_from([(5.0,), (0.5, 1.0), (10.0, 1.0, 5.0)]),
    draws=st.integers(1, 3),
    kinds=st.sampled_from([("block",), ("attention", "block")]),
    layers=st.integers(1, 3),
    dtype=st.sampled_from(["float32", "float64"]),
    clean=st.sampled_from([(0.8, 0.9), (0.2, 0.4)]),
    corrupted=st.sampled_from([(0.1, 0.3), (0.05, 0.95)]),
)
quick = settings(max_examples=25, deadline=None)


def array(tree, node, variable):
    return tree[node].to_dataset()[variable].values


#: The least mean total effect of each variable, by that of the probability.
LIMITS = {
    "probability": lambda t: t,
    "log_probability": lambda t: -math.log(1 - t),
    "logit_difference": lambda t: 4 * t,
}


def expected_effects(tree, node, variable, threshold):
    """Total effect, indirect effect and relevance, number by number."""
    clean, corrupted, restored = (array(tree, name, variable) for name in ("clean", "corrupted", node))
    total = np.full(corrupted.shape, np.nan, corrupted.dtype)
    indirect = np.full(restored.shape, np.nan, restored.dtype)
    share = np.full((*restored.shape[:2], *restored.shape[3:]), np.nan)
    for e, n, d in np.ndindex(corrupted.shape):
        total[e, n, d] = clean[e] - corrupted[e, n, d]
        for site in np.ndindex(restored.shape[3:]):
            indirect[(e, n, d, *site)] = restored[(e, n, d, *site)] - corrupted[e, n, d]
    for at in np.ndindex(share.shape):
        e, n, *site = at
        draws = [d for d in range(total.shape[2]) if not np.isnan(indirect[(e, n, d, *site)] + total[e, n, d])]
        lost = math.fsum(float(total[e, n, d]) for d in draws)
        if draws and lost / len(draws) >= LIMITS[variable](threshold):
            share[at] = math.fsum(float(indirect[(e, n, d, *site)]) for d in draws) / lost
    return total, indirect, share


@quick
@given(tree=trees, threshold=st.sampled_from([0.001, 0.05, 0.3]), holes=st.booleans())
def test_effects_are_those_of_plain_loops(tree, threshold, holes):
    if holes:  # of an example with fewer draws than the others
        tree["corrupted"]["probability"].values[0, :, -1] = np.nan
        tree["question_encoder"]["probability"].values[0, :, -1, 0] = np.nan
    totals, indirects = effects.total_effect(tree), effects.indirect_effect(tree)
    shares = effects.relevance(tree, threshold)
    for node in ("question_encoder", "answer_decoder"):
        for variable in VARIABLES:
            total, indirect, share = expected_effects(tree, node, variable, threshold)
            np.testing.assert_array_equal(array(totals, "corrupted", variable), total)
            np.testing.assert_array_equal(array(totals, node, variable), total)
            np.testing.assert_array_equal(array(indirects, node, variable), indirect)
            np.testing.assert_allclose(array(shares, node, variable), share, rtol=1e-4, atol=1e-5)


def test_the_thresholds_follow_from_that_of_the_probability():
    assert effects.THRESHOLD == 0.05
    for variable, limit in effects.thresholds(0.3).items():
        assert limit == pytest.approx(LIMITS[variable](0.3))
    # the least that a loss of 0.3 can be: in nats from a sure answer, in logits between two answers at one half
    assert math.log(1) - math.log(1 - 0.3) == pytest.approx(effects.thresholds(0.3)["log_probability"])
    tiny = 1e-6
    slope = (stats.logistic.cdf(tiny) - 0.5) / tiny
    assert tiny / (slope * tiny) * 0.3 == pytest.approx(effects.thresholds(0.3)["logit_difference"])


def test_every_variable_has_a_threshold_of_its_own():
    tree = set_probability(random_tree(**SMALL), clean=0.999, corrupted=0.99)  # saturated: next to no total effect
    tree["clean"]["logit_difference"].values[...], tree["corrupted"]["logit_difference"].values[...] = 7.0, 5.0
    tree["clean"]["log_probability"].values[...], tree["corrupted"]["log_probability"].values[...] = -0.1, -0.15
    shares = effects.relevance(tree)["answer_decoder"].to_dataset().isel(token=0)
    assert shares.probability.isnull().all() and shares.log_probability.isnull().all()
    assert shares.logit_difference.notnull().all()
    assert [shares[name].attrs["threshold"] for name in VARIABLES] == list(effects.thresholds().values())


def test_a_ratio_of_means_is_not_moved_by_a_draw_without_effect():
    tree = set_probability(random_tree(examples=1, draws=2, layers=1), clean=1.0)
    tree["corrupted"]["probability"].values[...] = [0.5, 0.9999]
    tree["answer_decoder"]["probability"].values[...] = np.reshape([0.75, 0.9899], (1, 1, 2, 1, 1, 1))
    mean, single = (
        effects.relevance(tree, estimator=name)["answer_decoder"].probability.values[0, 0, 0, 0, 0]
        for name in ("ratio_of_means", "mean_of_ratios")
    )
    assert mean == pytest.approx((0.25 - 0.01) / 0.5001)
    assert single == pytest.approx((0.25 / 0.5 - 0.01 / 0.0001) / 2), "one draw with next to no effect decides"


@quick
@given(tree=trees)
def test_the_mean_of_ratios_is_that_of_the_papers_notebook(tree):
    shares = effects.relevance(tree, estimator="mean_of_ratios")
    for node in ("question_encoder", "answer_decoder"):
        clean, corrupted, restored = (
            array(tree, name, "probability").astype(float) for name in ("clean", "corrupted", node)
        )
        for e, n, *site in np.ndindex(shares[node].probability.shape):
            ten = [
                (restored[(e, n, d, *site)] - corrupted[e, n, d]) / (clean[e] - corrupted[e, n, d])
                for d in range(corrupted.shape[2])
            ]
            found = shares[node].probability.values[(e, n, *site)]
            assert found == pytest.approx(np.mean(ten), rel=1e-3, abs=1e-3, nan_ok=True)
    assert "threshold" not in shares["answer_decoder"].probability.attrs


@pytest.mark.slow
@quick
@given(tree=trees, by_type=st.booleans())
def test_pooled_effects_are_averaged_first_and_divided_last(tree, by_type):
    names = ["even" if e % 2 == 0 else "odd" for e in range(tree.sizes["example"])]
    tree.dataset = tree.to_dataset().assign_coords(question_type=("example", names))
    shares = effects.relevance(tree, pooled="question_type" if by_type else True)
    curve = effects.gamma(tree, pooled="question_type" if by_type else True)
    for node in ("question_encoder", "answer_decoder"):
        clean, corrupted, restored = (
            array(tree, name, "probability").astype(float) for name in ("clean", "corrupted", node)
        )
        total, indirect = clean[:, None, None] - corrupted, restored - corrupted[..., None, None, None]
        for group in sorted(set(names)) if by_type else [None]:
            of = [e for e, name in enumerate(names) if group in (None, name)]
            found = shares[node].probability if group is None else shares[node].probability.sel(question_type=group)
            for n, *site in np.ndindex(found.shape):
                there = [e for e in of if not np.isnan(indirect[(e, n, 0, *site)])]
                lost = np.mean([total[e, n].mean() for e in there]) if there else math.nan
                back = np.mean([indirect[(e, n, slice(None), *site)].mean() for e in there]) if there else math.nan
                wanted = back / lost if there and lost >= 0.05 else math.nan
                assert found.values[(n, *site)] == pytest.approx(wanted, rel=1e-4, abs=1e-5, nan_ok=True)
            line = curve[node] if group is None else curve[node].sel(question_type=group)
            for n, kind in np.ndindex(line.shape):
                lost = np.mean([total[e, n].mean() for e in of])
                back = np.mean([np.nanmean(indirect[e, n, :, kind]) for e in of])
                wanted = back / lost if lost >= 0.05 else math.nan
                assert line.values[n, kind] == pytest.approx(wanted, rel=1e-4, abs=1e-5, nan_ok=True)


@pytest.mark.slow
@quick
@given(tree=trees)
def test_of_one_example_pooled_and_not_are_the_same(tree):
    one = tree.isel(example=[0])
    each, pooled = effects.relevance(one), effects.relevance(one, pooled=True)
    assert "example" not in pooled["answer_decoder"].dims and "draw" not in pooled.coords
    for node in each.children:
        np.testing.assert_allclose(each[node].probability[0], pooled[node].probability, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        effects.gamma(one).question_encoder[0], effects.gamma(one, pooled=True).question_encoder, rtol=1e-5
    )


@pytest.mark.slow
@quick
@given(tree=trees)
def test_gamma_averages_layers_and_tokens_without_padding(tree):
    result = effects.gamma(tree)
    for node in ("question_encoder", "answer_decoder"):
        assert result[node].dims == ("example", "nu", "kind")
        _, _, share = expected_effects(tree, node, "probability", 0.05)
        for at in np.ndindex(share.shape[:3]):
            defined = [x for x in share[at].ravel().tolist() if not math.isnan(x)]
            wanted = math.fsum(defined) / len(defined) if defined else math.nan
            np.testing.assert_allclose(result[node].values[at], wanted, rtol=1e-4, atol=1e-5)


def test_averages_of_a_result_by_type_divide_where_all_examples_are_alike():
    tree = random_tree(**SMALL)
    tree.dataset = tree.to_dataset().assign_coords(question_type=("example", ["a", "b", "a"]))
    alike = tree.filter(lambda node: node.name != "question_encoder").isel(token=[0])
    found = effects.relevance(effects.by_type(alike))["answer_decoder"].probability
    wanted = effects.relevance(alike, pooled="question_type")["answer_decoder"].probability
    np.testing.assert_allclose(found, wanted)
    for function in (effects.relevance, effects.indirect_effect):
        with pytest.raises(NnblipError, match=r"means over different examples.*average last"):
            function(effects.by_type(tree))


def test_gamma_weighs_every_state_the_same():
    tree = set_probability(random_tree(**SMALL), clean=0.75, corrupted=0.5, answer_decoder=0.5)
    probability = tree["answer_decoder"]["probability"].values
    probability[..., 0, 0] = 0.75  # one state brings all back, and three of nine have no value
    probability[..., 0, 1:] = probability[..., 2, 2] = np.nan
    np.testing.assert_allclose(effects.gamma(tree)["answer_decoder"], 1 / 6)


def test_strongest_of_a_stored_result_are_the_same(tmp_path):
    tree = random_tree()
    stored = results.open_result(results.save(tree, tmp_path / "result.zarr"))
    one = dict(nu=5, example="example-0")
    assert repr(effects.strongest(stored, 5, **one)) == repr(effects.strongest(tree, 5, **one))


@pytest.mark.slow
@quick
@given(tree=trees, n=st.integers(1, 50))
def test_strongest_are_the_largest_of_all_sites(tree, n):
    nu, example = float(tree.nu[-1]), str(tree.example.values[0])
    rows = effects.strongest(tree, n, nu=nu, example=example)
    everything = []
    for node in ("question_encoder", "answer_decoder"):
        _, indirect, share = expected_effects(tree, node, "probability", 0.05)
        probability, dataset = array(tree, node, "probability"), tree[node].to_dataset()
        kinds, last = dataset.kind.values.tolist(), indirect.shape[4] - 1
        single = np.isfinite(indirect[0, 0, 0, 0, 0]).sum() == 1
        for kind, layer, token in np.ndindex(indirect.shape[3:]):
            at = (0, -1, slice(None), kind, layer, token)
            if np.isnan(indirect[at]).any() or (
                node == "answer_decoder" and single and layer == last and kinds[kind] == "block"
            ):
                continue  # the decoder's last layer is the answer
            numbers = (probability[at].mean(), indirect[at].mean(), share[0, -1, kind, layer, token])
            text = dataset.token_text.values[0, token]
            everything.append((node, dataset.kind.values[kind], layer, token, text, *numbers))
    assert len(rows) == min(n, len(everything))
    wanted = sorted((row[6] for row in everything), reverse=True)[: len(rows)]
    np.testing.assert_allclose([row.indirect_effect for row in rows], wanted, rtol=1e-5)
    by_site = {row[:5]: row[5:] for row in everything}
    for row in rows:
        np.testing.assert_allclose(row[5:8], by_site[row[:5]], rtol=1e-4)
        assert row.head is None


def test_padding_stays_nan_and_nothing_else_is():
    tree = random_tree(**SMALL)
    effect = array(effects.indirect_effect(tree), "question_encoder", "probability")
    for i, tokens in enumerate(QUESTIONS):
        assert np.isfinite(effect[i, ..., : len(tokens)]).all()
        assert np.isnan(effect[i, ..., len(tokens) :]).all()


@pytest.mark.parametrize(
    ("corrupted", "defined"), [(0.5, True), (0.625, True), (0.6875, False), (0.75, False), (0.875, False)]
)
def test_relevance_needs_a_total_effect_of_the_threshold(corrupted, defined):
    tree = set_probability(random_tree(**SMALL), clean=0.75, corrupted=corrupted)
    share = array(effects.relevance(tree, threshold=0.125), "answer_decoder", "probability")[0, ..., 0]
    assert np.isfinite(share).all() if defined else np.isnan(share).all()


def test_nothing_is_clipped():
    tree = set_probability(random_tree(**SMALL), clean=0.75, corrupted=0.5)
    probability = tree["answer_decoder"]["probability"].values
    probability[0, ..., 0, 0], probability[0, ..., 1, 0] = 0.25, 1.0
    share = array(effects.relevance(tree), "answer_decoder", "probability")[0]
    assert (share[..., 0, 0] == -1).all() and (share[..., 1, 0] == 2).all()


def test_restoring_everything_is_one_and_nothing_is_zero():
    tree = set_probability(random_tree(**SMALL), clean=0.75, corrupted=0.5, question_encoder=0.75)
    assert (effects.gamma(tree)["question_encoder"] == 1).all()
    tree = set_probability(tree, question_encoder=0.5)
    assert (effects.gamma(tree)["question_encoder"] == 0).all()


@pytest.mark.slow
@settings(quick, max_examples=8)
@given(tree=trees, data=st.data())
def test_order_of_examples_does_not_matter(tree, data):
    order = data.draw(st.permutations(range(tree.sizes["example"])))
    shuffled = tree.isel(example=order)
    names = tree.example.values
    for function in (effects.total_effect, effects.indirect_effect, effects.relevance):
        back = function(shuffled).sel(example=names)
        xr.testing.assert_identical(back, function(tree))
    xr.testing.assert_identical(effects.gamma(shuffled).sel(example=names), effects.gamma(tree))
    one: dict[str, Any] = {"nu": float(tree.nu[0]), "example": str(names[0])}
    assert repr(effects.strongest(shuffled, 5, **one)) == repr(effects.strongest(tree, 5, **one))


@pytest.mark.parametrize("function", [effects.total_effect, effects.indirect_effect, effects.relevance])
def test_attributes_and_coordinates_are_kept(function):
    tree = random_tree(**SMALL)
    before = tree.copy(deep=True)
    result = function(tree)
    assert result.attrs == tree.attrs
    assert set(result.coords) == set(tree.coords) - ({"draw"} if function is effects.relevance else set())
    assert list(result.question.values) == list(tree.question.values)
    nodes = {"question_encoder", "answer_decoder"} | ({"corrupted"} if function is effects.total_effect else set())
    assert set(result.children) == nodes
    for name, node in result.children.items():
        assert node.attrs == {"about": "a node"}
        for variable in VARIABLES:
            assert node[variable].attrs["units"] == "1"
            assert variable.replace("_", " ") in node[variable].attrs["long_name"]
            if function is effects.total_effect:
                assert node[variable].dims == ("example", "nu", "draw")
            else:
                gone = {"draw"} if function is effects.relevance else set()
                assert node[variable].dims == tuple(dim for dim in tree[name][variable].dims if dim not in gone)
                assert set(node[variable].coords) == set(tree[name][variable].coords) - gone
    xr.testing.assert_identical(tree, before)


def test_gamma_keeps_attributes_and_questions():
    tree = random_tree(**SMALL)
    result = effects.gamma(tree, threshold=0.02)
    assert result.attrs == tree.attrs
    assert list(result.question.values) == list(tree.question.values)
    assert result["question_encoder"].attrs["threshold"] == 0.02


def test_coordinates_without_their_own_dimension_in_the_data_are_kept():
    tree = random_tree(**SMALL)
    cells = xr.Dataset(
        {name: (("example", "nu", "draw", "cell"), np.full((3, 2, 3, 4), 0.6)) for name in VARIABLES},
        coords={"cell": range(4), "layer": (("cell", "site"), np.arange(8).reshape(4, 2))},
    )
    tree["cells"] = xr.DataTree(cells)
    for function in (effects.indirect_effect, effects.relevance):
        assert function(tree)["cells"]["layer"].dims == ("cell", "site")
    assert "cells" not in effects.gamma(tree)
    assert {row.component for row in effects.strongest(tree, 999, 1, "example-0")} == {
        "question_encoder",
        "answer_decoder",
    }


def test_heads_are_restored_nodes_with_one_more_dimension():
    tree = random_tree(**SMALL, kinds=("block",))
    node = tree["question_encoder"].to_dataset(inherit=False)
    heads = node.expand_dims(head=2, axis=5).assign_coords(head=[0, 1], kind=["attention_head"]).copy(deep=True)
    heads["probability"].values[:, :, :, 0, 2, 1, 3] = 2.0
    tree["question_encoder_heads"] = xr.DataTree(heads)
    result = effects.gamma(tree)
    assert result["question_encoder_heads"].dims == ("example", "nu", "kind")
    assert list(result.kind.values) == ["block", "attention_head"]
    assert result["question_encoder_heads"].sel(kind="block").isnull().all()
    assert result["question_encoder_heads"].sel(kind="attention_head").notnull().any()
    row = effects.strongest(tree, 1, nu=5, example="example-0")[0]
    assert (row.component, row.kind, row.layer, row.head, row.token) == (
        "question_encoder",
        "attention_head",
        2,
        1,
        3,
    )


def test_a_tree_at_one_example_and_nu_needs_no_choice():
    tree = random_tree(**SMALL)
    one = tree.sel(example="example-1", nu=5.0)
    assert effects.strongest(one, 3) == effects.strongest(tree, 3, nu=5, example="example-1")
    expected = effects.gamma(tree).sel(example="example-1", nu=5.0)
    xr.testing.assert_identical(effects.gamma(one), expected)


@pytest.mark.filterwarnings("ignore:.*does not have a Zarr V3 specification")
def test_a_stored_result_gives_the_same(tmp_path):
    tree = random_tree(**SMALL)
    tree.to_zarr(tmp_path / "result.zarr", consolidated=False)
    stored = xr.open_datatree(tmp_path / "result.zarr", engine="zarr", consolidated=False)
    xr.testing.assert_allclose(effects.relevance(stored), effects.relevance(tree))
    xr.testing.assert_allclose(effects.gamma(stored), effects.gamma(tree))
    one: dict[str, Any] = {"nu": 1, "example": "example-2"}
    assert effects.strongest(stored, 4, **one) == effects.strongest(tree, 4, **one)


def test_interval_over_examples_and_over_draws():
    rng = np.random.default_rng(0)
    table = rng.normal(0.4, 0.1, (12, 5))
    table[3, :2] = table[7] = np.nan
    units = [np.nanmean(row) for i, row in enumerate(table) if i != 7]
    wanted = stats.t.interval(0.95, len(units) - 1, np.mean(units), stats.sem(units))
    np.testing.assert_allclose(effects.mean_interval(table), (np.mean(units), *wanted))
    wanted = stats.t.interval(0.95, 4, table[0].mean(), stats.sem(table[0]))
    np.testing.assert_allclose(effects.mean_interval(table[:1]), (table[0].mean(), *wanted))


def test_interval_of_too_few_numbers_is_nan():
    np.testing.assert_array_equal(effects.mean_interval(np.full((3, 2), np.nan)), [np.nan] * 3)
    np.testing.assert_array_equal(effects.mean_interval(np.array([[0.5]])), [0.5, np.nan, np.nan])
    # Of several examples one is left: its draws say nothing about the others.
    table = np.array([[0.25, 0.75], [np.nan, np.nan]])
    np.testing.assert_array_equal(effects.mean_interval(table), [0.5, np.nan, np.nan])


def without(tree, node, variable=None):
    tree = tree.copy()
    if variable is None:
        del tree[node]
    else:
        tree[node].dataset = tree[node].to_dataset(inherit=False).drop_vars(variable)
    return tree


@pytest.mark.parametrize(
    ("function", "node"),
    [
        (effects.total_effect, "clean"),
        (effects.total_effect, "corrupted"),
        (effects.indirect_effect, "corrupted"),
        (effects.relevance, "clean"),
        (effects.gamma, "corrupted"),
    ],
)
def test_a_missing_node_is_named(function, node):
    with pytest.raises(NnblipError, match=f"no node /{node}; expected .*found .*/question_encoder"):
        function(without(random_tree(**SMALL), node))


def test_a_missing_variable_is_named():
    tree = without(random_tree(**SMALL), "question_encoder", "log_probability")
    with pytest.raises(NnblipError, match="/question_encoder has no variable log_probability; expected prob"):
        effects.relevance(tree)


@pytest.mark.parametrize("function", [effects.indirect_effect, effects.relevance, effects.gamma])
def test_a_result_without_restored_nodes(function):
    tree = random_tree(**SMALL).filter(lambda node: node.name in (None, "clean", "corrupted"))
    assert set(effects.total_effect(tree).children) == {"corrupted"}
    with pytest.raises(NnblipError, match="no restored node; expected at least one such as /question_encoder"):
        function(tree)


def test_gamma_without_layers_and_tokens():
    with pytest.raises(NnblipError, match=r"kind, layer and token; found /question_encoder \(example, nu"):
        effects.gamma(random_tree(**SMALL).isel(layer=0))


def test_something_else_than_a_result():
    with pytest.raises(NnblipError, match=r"expected a result of causal_trace.*not Dataset"):
        effects.relevance(random_tree(**SMALL)["clean"].to_dataset())


def test_labels_that_differ():
    tree = random_tree(**SMALL)
    root = {"/": xr.Dataset(coords={"nu": tree.nu, "draw": tree.draw})}
    nodes = {f"/{name}": node.to_dataset() for name, node in tree.children.items()}
    nodes["/clean"] = nodes["/clean"].assign_coords(example=["a", "b", "c"])
    with pytest.raises(NnblipError, match="labels of /clean and /corrupted differ"):
        effects.total_effect(xr.DataTree.from_dict({**root, **nodes}))


@pytest.mark.parametrize("threshold", [0, -0.1, math.nan, math.inf, 1, True, "0.01", None])
@pytest.mark.parametrize("function", [effects.relevance, effects.gamma])
def test_threshold_must_be_positive(function, threshold):
    with pytest.raises(NnblipError, match="expected a positive number"):
        function(random_tree(**SMALL), threshold)


@pytest.mark.parametrize("n", [0, -1, 2.5, True, "3"])
def test_strongest_needs_a_count(n):
    with pytest.raises(NnblipError, match="a whole number of at least 1"):
        effects.strongest(random_tree(**SMALL), n, nu=5, example="example-0")


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"nu": 5}, "3 values of example: 'example-0', 'example-1', 'example-2'. Choose one with example="),
        ({"example": "example-0"}, "2 values of nu: 1, 5. Choose one with nu="),
        ({"nu": 4.5, "example": "example-0"}, "nu 4.5 is not in the result; did you mean 5.0"),
        ({"nu": "five", "example": "example-0"}, "nu 'five' is not in the result. It has: 1, 5"),
        ({"nu": 5, "example": "exmaple-2"}, "did you mean 'example-2'"),
        ({"nu": 5, "example": "zzz"}, "example 'zzz' is not in the result. It has"),
    ],
)
def test_strongest_says_what_there_is(choice, message):
    with pytest.raises(NnblipError) as error:
        effects.strongest(random_tree(**SMALL), **choice)
    assert message in str(error.value)


def test_a_long_list_of_examples_is_cut():
    with pytest.raises(NnblipError, match=r"'example-9' and 15 more\. Choose"):
        effects.strongest(random_tree(examples=25, **SMALL), nu=5)
