"""Several noises in one result: each is exactly the result under that noise alone."""

from __future__ import annotations

import re

import pytest
import xarray as xr
from helpers.scenes import VISIBLE, visible

import nnblip
from nnblip import effects, sites
from nnblip.errors import NnblipError, ResultError, SettingError
from nnblip.noise import Scale

NOISES = ("multiplicative", "mean")
ASKED = dict(nu=[1, 5], draws=4, kinds=["block"], cells=[sites.windows(6), sites.knock_outs("question_to_answer")])


@pytest.fixture(scope="module")
def traced(model):
    examples = [visible(model)[:2], visible(model, start=50)[:2]]
    alone = {noise: nnblip.causal_trace(model, examples, noise=noise, **ASKED) for noise in NOISES}
    for result in alone.values():
        lost = effects.total_effect(result)["corrupted"].probability.sel(nu=5).mean()
        assert lost > VISIBLE, "this noise takes nothing away"
    assert not alone["mean"]["corrupted"].equals(alone["multiplicative"]["corrupted"])
    return nnblip.causal_trace(model, examples, noise=list(NOISES), **ASKED), alone


def same(one, other):
    """Every variable and coordinate of a tree or Dataset, bit for bit, but for which noise it is."""
    if isinstance(other, xr.DataTree):
        assert set(one.children) == set(other.children)
        pairs = [(one[name].to_dataset(), other[name].to_dataset()) for name in other.children]
    else:
        pairs = [(one, other)]
    for left, right in pairs:
        xr.testing.assert_identical(
            *(part.drop_vars(["noise", "noise_setting"], errors="ignore").drop_attrs() for part in (left, right))
        )


@pytest.mark.slow
def test_each_noise_is_the_result_under_it_alone(traced):
    several, alone = traced
    for name, node in several.children.items():
        noise_first = name not in ("clean", "knock_outs")
        assert (node.probability.dims[0] == "noise") is noise_first, name
    for noise, result in alone.items():
        same(several.sel(noise=noise), result)
    assert several.coords["noise_setting"].values.tolist() == ["Multiplicative()", "Mean()"]
    assert several.attrs["noise"] == "Multiplicative(); Mean()"


@pytest.mark.slow
@pytest.mark.parametrize(
    "effect",
    [
        effects.total_effect, effects.indirect_effect, effects.relevance, effects.gamma, effects.by_role,
        effects.structural, effects.by_type, lambda tree: effects.relevance(tree, pooled=True),
        lambda tree: effects.gamma(tree, pooled="question_type"), lambda tree: effects.interval(tree, over="draws"),
        lambda tree: effects.interval(tree, "gamma", over="draws"),
    ],
)  # fmt: skip
def test_effects_keep_the_dimension(traced, effect):
    several, alone = traced
    found = effect(typed(several))
    for noise, result in alone.items():
        chosen = found.sel(noise=noise) if "noise" in found.dims else found
        same(chosen, effect(typed(result)))


def typed(tree):
    """The same whose two examples are of two types."""
    nodes = {f"/{name}": node.to_dataset(inherit=False) for name, node in tree.children.items()}
    root = tree.to_dataset().assign_coords(question_type=("example", ["a", "b"]))
    return xr.DataTree.from_dict({"/": root, **nodes})


@pytest.mark.slow
def test_stored_and_opened_it_is_the_same(traced, tmp_path):
    several, _ = traced
    nnblip.save(several, tmp_path / "several.zarr")
    opened = nnblip.open(tmp_path / "several.zarr")
    assert opened.coords["noise"].values.tolist() == list(NOISES)
    for name in several.children:
        xr.testing.assert_equal(opened[name].to_dataset(), several[name].to_dataset())


@pytest.mark.slow
def test_what_ranks_or_judges_wants_one_noise(traced):
    several, alone = traced
    name = str(several.coords["example"].values[0])
    asked = (
        lambda tree: nnblip.diagnose(tree),
        lambda tree: effects.strongest(tree, nu=5, example=name),
        lambda tree: nnblip.plot.heatmap(tree, "question_encoder", nu=5, example=name),
    )
    for ask in asked:
        with pytest.raises(NnblipError, match="noise"):
            ask(several)
        ask(several.sel(noise="mean"))
    with pytest.raises(ResultError, match=re.escape("'multiplicative', 'mean': choose one, result.sel(noise='multi")):
        nnblip.diagnose(several)
    assert effects.strongest(several.sel(noise="mean"), nu=5, example=name) == effects.strongest(
        alone["mean"], nu=5, example=name
    )
    assert nnblip.diagnose(several.sel(noise="mean")) == nnblip.diagnose(alone["mean"])


@pytest.mark.slow
def test_two_of_one_name_are_told_apart_by_their_settings(model):
    image, question, _ = visible(model)
    result = nnblip.causal_trace(model, [(image, question)], nu=1, draws=1, noise=[Scale(), Scale(0.5)])
    assert result.coords["noise"].values.tolist() == ["Scale(factor=0.7691)", "Scale(factor=0.5)"]
    stronger = result["corrupted"].norm_ratio.squeeze()
    assert stronger.values == pytest.approx([0.7691, 0.5], rel=1e-5)
    one = nnblip.causal_trace(model, [(image, question)], nu=1, draws=1, noise=["mean"])
    assert one["corrupted"].sizes["noise"] == 1


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (dict(noise=[]), "expected at least one"),
        (dict(noise=["mean", "mean"]), "noise Mean() is given twice"),
        (dict(noise=["mean", "aditive"]), "did you mean 'additive'?"),
        (dict(noise=["mean", "swap"]), "give rival=, the same for all"),
        (dict(noise=["mean", "additive"], draws="auto"), "each would have its own: expected a whole number"),
    ],
)
def test_noises_that_cannot_stand_beside_each_other_are_refused_before_anything_runs(model, asked, said):
    with pytest.raises(SettingError, match=re.escape(said)):
        nnblip.causal_trace(model, [("no picture.png", "what is it")], **asked)


def test_what_takes_one_noise_says_so(model, there, tmp_path):
    example = visible(model)[:2]
    refused = "several at once are for causal_trace"
    with pytest.raises(SettingError, match=refused):
        nnblip.attribution_trace(model, [example], noise=["mean", "additive"])
    with pytest.raises(SettingError, match=refused):
        nnblip.sweep(model, [example], tmp_path / "sweep.zarr", noise=["mean", "additive"])
    assert not list(tmp_path.iterdir())
    with pytest.raises(SettingError, match="a job for each"):
        nnblip.causal_trace(there, [example], noise=["mean", "additive"], blocking=False)
