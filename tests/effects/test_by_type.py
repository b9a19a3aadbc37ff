"""Averages by type against pandas."""

import math

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from helpers.trees import VARIABLES
from helpers.words import ENDINGS, holes, quick, result, trees
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nnblip import effects
from nnblip.errors import NnblipError

# --- types ----------------------------------------------------------------------------------


def by_pandas(values, labels):
    """Mean, bounds and count of each type for a (example, draw) table."""
    units = pd.DataFrame({"type": labels, "unit": pd.DataFrame(values).mean(axis=1)})
    rows = {}
    for label, group in units.groupby("type")["unit"]:
        known = group.dropna()
        low, high = math.nan, math.nan
        if len(known) >= 8:
            low, high = stats.t.interval(0.95, len(known) - 1, known.mean(), stats.sem(known))
            low, high = max(low, 0.0), min(high, 1.0)  # a probability
        rows[label] = (known.mean(), low, high, len(known))
    return rows


@settings(quick, max_examples=8)  # pandas is slow
@given(tree=trees, seed=st.none() | st.integers(0, 99), role=st.booleans())
def test_by_type_is_the_groupby_of_pandas(tree, seed, role):
    tree = tree if seed is None else holes(tree, seed)
    tree = effects.by_role(tree) if role else tree
    found, labels = effects.by_type(tree), tree.question_type.values.tolist()
    assert set(found.children) == set(tree.children)
    counts = pd.Series(labels).value_counts()
    assert {str(t): int(n) for t, n in zip(found.question_type.values, found["count"].values, strict=True)} == dict(
        counts
    )
    assert found.question_type.values.tolist() == sorted(set(labels), key=lambda label: (label == "", label))
    for name in tree.children:
        node, before = found[name].to_dataset(), tree[name].to_dataset()
        inner = [dim for dim in before.probability.dims if dim not in ("example", "draw")]
        values = before.probability.expand_dims([dim for dim in ["draw"] if dim not in before.probability.dims])
        values = values.transpose("example", "draw", *inner).values
        means = [node[f"probability{end}"].transpose("question_type", *inner).values for end in ("", *ENDINGS)]
        for at in np.ndindex(values.shape[2:]):
            wanted = by_pandas(values[(..., *at)], labels)
            for number, label in enumerate(found.question_type.values.tolist()):
                here = [mean[(number, *at)] for mean in means]
                np.testing.assert_allclose(here, wanted[label], rtol=1e-9, atol=1e-9)


def test_bounds_are_those_of_what_is_possible():
    tree = result(40)  # 12 examples of a type, with probabilities of 0 or 1 only: Student's bounds go beyond them
    rare = lambda a: xr.where(a.notnull(), (a > a.quantile(0.9)).astype(float), np.nan)  # noqa: E731
    tree = tree.map_over_datasets(lambda node: node.map(rare) if node.data_vars else node)
    found = effects.by_type(tree)["question_encoder"]
    assert float(found.probability_low.min()) == 0 and float(found.probability_high.max()) <= 1
    assert float(found.logit_difference_low.min()) < 0, "a logit difference has no bounds"
    effect = effects.by_type(effects.indirect_effect(tree))["question_encoder"]
    assert float(effect.probability_low.min()) >= -1 and float(effect.probability_high.max()) <= 1


def test_a_type_of_several_examples_has_the_interval_of_mean_interval():
    tree = holes(result(40), 3)
    node, of = effects.by_type(tree)["question_encoder"], tree["question_encoder"].probability
    at = {"nu": 1.0, "kind": "block", "layer": 1, "token": 4}
    wanted = effects.mean_interval(
        of.sel(at)[(tree.question_type == "color").values].transpose("example", "draw").values
    )
    here = node.to_dataset().sel({**at, "question_type": "color"})
    found = [float(here[name]) for name in ("probability", "probability_low", "probability_high")]
    np.testing.assert_allclose(found, wanted)
    assert found[1] < found[0] < found[2]
    # one example alone has no interval: its draws do not say how others would be
    alone = effects.by_type(result(2))["corrupted"]
    assert alone.probability.notnull().all() and alone.probability_low.isnull().all()


def test_dimensions_coordinates_and_attributes():
    tree = result(40)
    found = effects.by_type(effects.relevance(tree), level=0.9)
    node = found["question_encoder"].to_dataset()
    assert node.probability.dims == ("question_type", "nu", "kind", "layer", "token")
    assert set(found.coords) == {"question_type", "count", "nu"}
    assert set(node.data_vars) == {f"{name}{end}" for name in VARIABLES for end in ("", *ENDINGS)}
    assert node.probability.attrs["units"] == "1" and node.probability.attrs["threshold"] == 0.05
    assert node.probability.attrs["long_name"] == "mean of relevance by probability"
    assert "90 %" in node.probability_low.attrs["long_name"]
    assert node.probability_count.dtype.kind == "i"
    assert found.attrs == tree.attrs | {"level": 0.9}
    wide = effects.by_type(effects.relevance(tree), level=0.99)["question_encoder"]
    width, wider = (x.probability_high - x.probability_low for x in (node, wide.to_dataset()))
    assert width.notnull().any() and (wider > width).where(width.notnull(), True).all()
    assert "count" not in effects.by_type(effects.by_role(tree))["question_encoder"].to_dataset(inherit=False).coords


def test_any_coordinate_on_example():
    tree = result(5)
    numbers = [2.0, math.nan, 2.0, 1.0, math.nan]
    tree.dataset = tree.to_dataset().assign_coords(
        words=("example", numbers), mixed=("example", np.array(["b", None, math.nan, "b", "a"], object))
    )
    found = effects.by_type(tree, "words")
    np.testing.assert_array_equal(found.words.values, [1.0, 2.0, math.nan])
    assert found["count"].values.tolist() == [1, 2, 2]
    np.testing.assert_allclose(found["clean"].probability.values[2], tree["clean"].probability.values[[1, 4]].mean())
    found = effects.by_type(tree, by="mixed")
    assert found.mixed.values.tolist() == ["a", "b", ""] and found["count"].values.tolist() == [1, 2, 2]
    found = effects.by_type(tree, by="example")
    np.testing.assert_allclose(found["clean"].probability, tree["clean"].probability)
    np.testing.assert_allclose(found["corrupted"].probability, tree["corrupted"].probability.mean("draw"))


def test_the_dataset_of_gamma():
    tree = result(5)
    curve = effects.gamma(tree)
    found = effects.by_type(curve)
    assert found.question_encoder.dims == ("question_type", "nu", "kind")
    wanted = curve.question_encoder[[0, 3]].mean("example")
    np.testing.assert_allclose(found.question_encoder.sel(question_type="color"), wanted)
    assert found["count"].values.tolist() == [2, 1, 1, 1] and found.attrs == curve.attrs | {"level": 0.95}


@pytest.mark.parametrize("level", [0, 1, 95, -0.5, math.nan, "0.95", None, True])
def test_the_level_lies_between_0_and_1(level):
    with pytest.raises(NnblipError, match=r"level is .* expected a number between 0 and 1"):
        effects.by_type(result(), level=level)


def test_an_unknown_coordinate_is_named():
    with pytest.raises(
        NnblipError, match="coordinate on example 'question_typ' is unknown; did you mean 'question_type'"
    ):
        effects.by_type(result(), by="question_typ")
    with pytest.raises(NnblipError, match="no coordinate on example"):
        effects.by_type(result().isel(example=0))
