"""attribution_trace: gradients against finite differences of the oracle, and against exact maps."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import xarray as xr
from helpers.scenes import visible
from scipy.stats import spearmanr

import nnblip
from nnblip.errors import SettingError
from nnblip.passes import engine
from nnblip.passes.gradients import quadrature
from nnblip.passes.measure import Asked, Ready
from nnblip.passes.plan import make_plans
from nnblip.passes.room import least_rows
from nnblip.passes.sending import Sent, send
from nnblip.passes.settings import Settings
from nnblip.results import VARIABLES
from nnblip.sites import HEAD_KINDS, TEXT_COMPONENTS, WHOLE_KINDS, Site, edges, knock_outs

KINDS = [*WHOLE_KINDS, *HEAD_KINDS]


@pytest.fixture(scope="module")
def seen(model):
    return visible(model, nu=2.0, kind="location")


def towards(model, truth, noisy, site, share):
    """The oracle's outcome with a state moved by a share of the way from corrupted to clean."""
    corrupted = oracle.states(model._module, noisy, truth.ids, truth.answer)
    moved = {key: value + share * (truth.states[key] - value) for key, value in corrupted.items()}
    return oracle.restored(model._module, noisy, truth.ids, truth.answer, truth.rival, moved, [site])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("component", TEXT_COMPONENTS)
def test_an_attribution_is_the_slope_towards_the_clean_state(model, seen, component, kind):
    image, question, truth = seen
    tree = nnblip.attribution_trace(model, [(image, question)], nu=2.0, draws=1, kinds=[kind])
    noisy, base = truth.noisy(2.0), truth.restored(truth.noisy(2.0))
    head = {"head": 1} if kind in HEAD_KINDS else {}
    node = tree[component + ("_heads" if head else "")]
    checked = 0
    for layer in (0, 3, 5):
        site = Site(component, kind, layer, 0, **head)
        found = node.isel(example=0).sel(nu=2.0, draw=0, kind=kind, layer=layer, token=0, **head)
        step = 1e-3
        up, down = towards(model, truth, noisy, site, step), towards(model, truth, noisy, site, -step)
        for name in ("log_probability", "logit_difference"):
            slope = (getattr(up, name) - getattr(down, name)) / (2 * step)
            estimate = float(found[name]) - getattr(base, name)
            assert estimate == pytest.approx(slope, abs=0.02, rel=0.05)
            checked += abs(slope) > 0.1
    assert checked or component == "question_encoder", "a slope of 0 everywhere would prove nothing"


def test_cells_of_several_sites_are_the_sum_of_their_sites(model, seen):
    image, question, _ = seen
    sites = [Site("question_encoder", layer=2, token=t) for t in (1, 4)]
    tree = nnblip.attribution_trace(model, [(image, question)], nu=2.0, draws=2, cells=[sites, *sites])
    effect = nnblip.indirect_effect(tree)["cells"].log_probability
    assert effect[..., 0].values == pytest.approx(effect[..., 1:].sum("cell").values, abs=1e-4)
    assert abs(effect).max() > 0.01


@pytest.mark.slow
def test_the_schema_is_that_of_causal_trace_with_a_method(model, seen):
    image, question, _ = seen
    exact = nnblip.causal_trace(model, [(image, question)], nu=[1, 2], draws=2)
    tree = nnblip.attribution_trace(model, [(image, question)], nu=[1, 2], draws=2, steps=3)
    for node in ("clean", "corrupted"):
        assert float(abs(tree[node].probability - exact[node].probability).max()) < 1e-6
    for component in TEXT_COMPONENTS:
        assert tree[component].probability.dims == exact[component].probability.dims
        assert tree[component]["method"].item() == "integrated gradients, 3 steps"
    assert nnblip.relevance(tree)["question_encoder"].probability.shape[-1] == exact["question_encoder"].sizes["token"]


def test_the_rank_correlation_it_reports_is_that_with_the_exact_map(model, seen):
    image, question, _ = seen
    exact = nnblip.indirect_effect(nnblip.causal_trace(model, [(image, question)], nu=2.0, draws=2))
    tree = nnblip.attribution_trace(model, [(image, question)], nu=2.0, draws=2, sample=1000)
    guess = nnblip.indirect_effect(tree)
    for draw in range(2):
        pairs = [[e[c].probability.sel(draw=draw).values.ravel() for c in TEXT_COMPONENTS] for e in (exact, guess)]
        expected = spearmanr(*([x for part in side for x in part] for side in pairs)).statistic
        reported = tree["check"].rank_correlation.sel(draw=draw).item()
        assert reported == pytest.approx(expected, abs=0.02)
    few = nnblip.attribution_trace(model, [(image, question)], nu=2.0, draws=2, sample=10)
    again = nnblip.attribution_trace(model, [(image, question)], nu=2.0, draws=2, sample=10)
    xr.testing.assert_equal(few["check"].rank_correlation, again["check"].rank_correlation)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"sample": 1}, {"nu": -1}, {"kinds": ["blok"]}])
def test_bad_settings_are_refused(model, seen, wrong):
    image, question, _ = seen
    with pytest.raises(nnblip.NnblipError):
        nnblip.attribution_trace(model, [(image, question)], **wrong)


@pytest.mark.slow
def test_integrated_gradients_of_the_image_embeddings_sum_to_the_total_effect(model, seen):
    image, question, _ = seen
    off = {}
    for steps in (1, 3, 10):
        tree = nnblip.attribution_trace(model, [(image, question)], nu=[1, 2], draws=3, steps=steps, sample=2)
        check, total = tree["check"].to_dataset(), nnblip.total_effect(tree)["corrupted"].to_dataset()
        assert check.summed_effect.dims == ("example", "nu", "draw", "variable")
        for name in VARIABLES:
            assert check.total_effect.sel(variable=name).values == pytest.approx(total[name].values)
        gap = abs(check.summed_effect - check.total_effect).mean(("example", "draw"))
        off[steps] = gap / abs(check.total_effect).mean(("example", "draw"))
    assert float(off[10].max()) < 0.05 and float(off[10].sel(nu=1).max()) < 0.005
    assert (off[3] < off[1]).all() and (off[10] < off[3]).all()


@pytest.mark.parametrize("steps", [2, 3, 7])
def test_the_gradient_is_taken_where_gauss_and_legendre_say(steps):
    places, weights = quadrature(steps)
    for power in range(2 * steps):
        assert weights @ places**power == pytest.approx(1 / (power + 1))
    assert [one.tolist() for one in quadrature(1)] == [[0], [1]], "attribution patching: in the corrupted run"


def test_an_edge_is_scored_by_the_slope_of_what_its_receiver_adds(model, seen):
    """Against finite differences: passes in which the receiver adds a thousandth of the change more, or less."""
    image, question, _ = seen
    family = edges(("attention_out", "crossattention_head", "mlp_out"), senders=("attention_head", "mlp_out"), layer=4)
    tree = nnblip.attribution_trace(model, [(image, question)], 2.0, 1, cells=family, sample=40)
    assert tree.check.rank_correlation.item() > 0.6
    settings = Settings.of(nu=2.0, draws=1, cells=family)
    ready = Ready.of(model, Asked.of(model, nnblip.Example(image, question), settings), settings)
    noisy = ready.noisy(model, settings, [(0, 2.0)])
    states, logits = engine.run_alone(model, noisy)
    base = model.task.outcome(logits, ready.answer_ids, ready.rival)
    sent, step = send(model, dict(enumerate(ready.edges)), states, ready.clean), 1e-3
    (plan,) = make_plans(ready.edges, ready.extent.layers, least=least_rows(ready.extent))

    def moved(share):
        own = {n: states[(s := e.lands).component, s.kind, s.layer][:, s.token] for n, e in enumerate(ready.edges)}
        some = Sent({n: own[n] + share * (sent[n] - own[n]) for n in own})
        rows = engine.run_plan(model, noisy, ready.rival, some, plan).logit_difference
        return {cell: float(rows[row]) for row, cell in enumerate(plan.cells) if cell is not None}

    up, down, found = moved(step), moved(-step), tree["edges"].logit_difference.squeeze().values
    slopes = np.array([(up[n] - down[n]) / (2 * step) for n in range(len(found))])
    assert np.abs(slopes).max() > 0.1
    np.testing.assert_allclose(found - float(base.logit_difference[0]), slopes, atol=0.02, rtol=0.05)


def test_knock_outs_are_not_estimated(model, seen):
    with pytest.raises(SettingError, match="trace knock-outs with"):
        nnblip.attribution_trace(model, [seen[:2]], 2.0, 1, cells=knock_outs())
