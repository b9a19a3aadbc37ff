"""Heads, cells of several sites and the other direction, against the oracle and exact identities."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from helpers.cells import agree, numbers
from helpers.scenes import VISIBLE, visible
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import nnblip
from nnblip.errors import SiteError
from nnblip.results import VARIABLES
from nnblip.sites import HEAD_KINDS, KINDS, TEXT_COMPONENTS, WITHIN, Site, all_tokens, describe, pairs, windows


@pytest.fixture(scope="module")
def seen(model):
    return visible(model)


@pytest.mark.parametrize("kind", HEAD_KINDS)
@pytest.mark.parametrize("component", TEXT_COMPONENTS)
def test_heads_agree_with_the_oracle(model, seen, component, kind):
    image, question, truth = seen
    tree = nnblip.causal_trace(model, [(image, question)], draws=1, kinds=["block", kind], max_rows=100)
    node = component + "_heads"
    assert tree[node].probability.dims == ("example", "nu", "draw", "kind", "layer", "head", "token")
    assert list(tree[component].kind.values) == ["block"] and list(tree[node].kind.values) == [kind]
    noisy, rng = truth.noisy(5.0), np.random.default_rng(0)
    for _ in range(12):
        where = {name: int(rng.integers(tree[node].sizes[name])) for name in ("layer", "token", "head")}
        expected = truth.restored(noisy, Site(component, kind, **where))
        agree(numbers(tree, node, nu=5, draw=0, kind=kind, **where), expected)


sites = st.builds(
    lambda component, kind, layer, token, head: Site(
        component, kind, layer, token if component == "question_encoder" else 0, head if kind in HEAD_KINDS else None
    ),
    st.sampled_from(TEXT_COMPONENTS),
    st.sampled_from(KINDS),
    st.integers(0, 5),
    st.integers(0, 8),
    st.integers(0, 3),
)


@pytest.mark.slow
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(cells=st.lists(st.sets(sites, min_size=1, max_size=6), min_size=3, max_size=8, unique_by=frozenset))
def test_random_sets_of_sites_agree_with_the_oracle(model, seen, cells):
    image, question, truth = seen
    cells = [sorted(cell, key=str) for cell in cells]
    names = [describe(tuple(cell))["cell"] for cell in cells]
    denoised = nnblip.causal_trace(model, [(image, question)], draws=1, cells=cells)
    noised = nnblip.causal_trace(model, [(image, question)], draws=1, cells=cells, direction="noising")
    assert list(denoised["cells"].cell.values) == names
    noisy = truth.noisy(5.0)
    damaged = oracle.states(model._module, noisy, truth.ids, truth.answer)
    agree(numbers(noised, "corrupted", nu=5, draw=0), truth.restored(noisy))
    for cell, name in zip(cells, names, strict=True):
        agree(numbers(denoised, "cells", nu=5, draw=0, cell=name), truth.restored(noisy, *cell))
        expected = oracle.noising(model._module, truth.embeds, truth.ids, truth.answer, truth.rival, damaged, cell)
        agree(numbers(noised, "cells", nu=5, draw=0, cell=name), expected)


whole_sites = sites.filter(lambda site: site.head is None)


@pytest.mark.slow
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    cells=st.lists(st.sets(whole_sites, min_size=1, max_size=3), min_size=3, max_size=8, unique_by=frozenset),
    freeze=st.sets(st.sampled_from(["attention", "crossattention", "mlp_out"]), min_size=1),
)
def test_frozen_sublayers_agree_with_the_oracle(model, seen, cells, freeze):
    image, question, truth = seen
    cells = [sorted((site for site in cell if WITHIN.get(site.kind) not in freeze), key=str) for cell in cells]
    cells = [cell for number, cell in enumerate(cells) if cell and cell not in cells[:number]] or [
        [Site("answer_decoder")]
    ]
    frozen = [f"{name.removesuffix('_out')}_out" for name in sorted(freeze)]
    noisy = truth.noisy(5.0)
    tree = nnblip.causal_trace(model, [(image, question)], draws=1, cells=cells, freeze=freeze, max_rows=6)
    agree(numbers(tree, "corrupted", nu=5, draw=0), truth.restored(noisy))
    for cell in cells:
        expected = oracle.restored(
            model._module, noisy, truth.ids, truth.answer, truth.rival, truth.states, cell, frozen
        )
        agree(numbers(tree, "cells", nu=5, draw=0, cell=describe(tuple(cell))["cell"]), expected)


def test_freezing_cross_attention_changes_what_a_restored_state_can_do(model, seen):
    image, question, _ = seen
    free = nnblip.causal_trace(model, [(image, question)], draws=5)
    kept = nnblip.causal_trace(model, [(image, question)], draws=5, freeze={"crossattention"})
    assert kept.attrs["freeze"] == "crossattention" and free.attrs["freeze"] == ""
    difference = abs(free["question_encoder"].probability - kept["question_encoder"].probability)
    assert difference.sel(layer=5).max() < 1e-6, "after the last layer there is nothing left to freeze"
    assert difference.sel(layer=slice(0, 4)).max() > 0.01


@pytest.mark.parametrize(("kind", "sublayer"), WITHIN.items())
def test_a_part_of_a_sublayer_that_is_frozen_is_refused(model, seen, kind, sublayer):
    image, question, _ = seen
    with pytest.raises(SiteError, match="its own sublayer is frozen"):
        nnblip.causal_trace(model, [(image, question)], draws=1, kinds=[kind], freeze=[sublayer])


def test_kinds_that_are_the_same_state_have_the_same_numbers(model, seen):
    """What a layer reads is the block before; all heads are what attention adds, all neurons what the MLP adds."""
    image, question, _ = seen
    kinds = ["block", "block_input", "attention_value_output", "attention_out", "mlp_activation", "mlp_out"]
    tree = nnblip.causal_trace(model, [(image, question)], draws=3, kinds=kinds)
    for component in TEXT_COMPONENTS:
        found = tree[component].probability
        assert float(abs(found - tree["corrupted"].probability).max()) >= VISIBLE
        before, after = (
            found.sel(kind="block").isel(layer=slice(-1)),
            found.sel(kind="block_input").isel(layer=slice(1, None)),
        )
        assert np.abs(before.values - after.values).max() < 1e-6
        for part, whole in (("attention_value_output", "attention_out"), ("mlp_activation", "mlp_out")):
            assert float(abs(found.sel(kind=part) - found.sel(kind=whole)).max()) < 1e-6
    words = tree["question_encoder"].probability.sel(kind="block_input", layer=0)
    assert float(abs(words - tree["corrupted"].probability).max()) == 0, "the embedded words know nothing of the image"


def test_all_heads_of_a_layer_are_what_the_sublayer_adds(model, seen):
    image, question, _ = seen
    cells = []
    for component in TEXT_COMPONENTS:
        for sublayer in ("attention", "crossattention"):
            for layer in (1, 4):
                cells.append([Site(component, f"{sublayer}_head", layer, 0, head) for head in range(4)])
                cells.append([Site(component, f"{sublayer}_out", layer, 0)])
    tree = nnblip.causal_trace(model, [(image, question)], draws=3, cells=cells)
    found = tree["cells"].probability.values.reshape(-1, len(cells) // 2, 2)
    assert np.abs(found[..., 0] - found[..., 1]).max() < 1e-6
    assert np.abs(found - tree["corrupted"].probability.values.reshape(-1, 1, 1)).max() > 0.01


def test_noising_everything_is_the_corrupted_run_and_denoising_everything_the_clean_one(model, seen):
    image, question, _ = seen
    for direction, expected in (("denoising", "clean"), ("noising", "corrupted")):
        tree = nnblip.causal_trace(model, [(image, question)], draws=2, cells=all_tokens(5), direction=direction)
        assert tree.attrs["direction"] == direction
        gap = tree["clean"].probability - tree["corrupted"].probability
        assert gap.min() >= VISIBLE
        assert (abs(tree["cells"].probability - tree[expected].probability) < 1e-6).all()
        share = nnblip.relevance(tree)["cells"].probability
        assert (abs(share - 1) < 1e-4).all(), "all of the total effect, in either direction"
        assert float(nnblip.indirect_effect(tree)["cells"].probability.min()) >= VISIBLE


def test_a_window_of_one_layer_is_the_heatmap(model, seen):
    image, question, _ = seen
    tree = nnblip.causal_trace(
        model, [(image, question)], draws=1, kinds=["crossattention"], cells=windows([1, 3], kind="crossattention")
    )
    cells = tree["cells"]
    single = cells.probability.isel(cell=cells["width"].values == 1).values.reshape(6, 9)
    np.testing.assert_array_equal(single, tree["question_encoder"].probability.values.reshape(6, 9))
    assert set(cells["width"].values) == {1, 3} and int((cells["width"] == 3).sum()) == 4 * 9


def test_cells_of_questions_of_different_lengths_stand_side_by_side(model):
    examples = [visible(model, kind=kind)[:2] for kind in ("color", "location")]
    tree = nnblip.causal_trace(model, examples, draws=1, cells=windows(2))
    alone = [nnblip.causal_trace(model, [example], draws=1, cells=windows(2)) for example in examples]
    for number, one in enumerate(alone):
        labels = one["cells"].cell.values
        for name in VARIABLES:
            here = tree["cells"][name].isel(example=number)
            np.testing.assert_array_equal(here.sel(cell=labels), one["cells"][name].isel(example=0))
            assert here.drop_sel(cell=labels).isnull().all()


def test_the_sites_of_a_cell_are_coordinates(model, seen, tmp_path):
    image, question, _ = seen
    head = Site("question_encoder", "crossattention_head", layer=2, token=7, head=1)
    cells = [[head, Site("answer_decoder", "mlp_out", layer=3)], [Site("question_encoder", layer=5, token=4)]]
    tree = nnblip.causal_trace(model, [(image, question)], draws=1, cells=cells)
    tree = nnblip.results.open_result(nnblip.results.save(tree, tmp_path / "result.zarr"))
    node = tree["cells"].to_dataset()
    expected = {
        "component": [["question_encoder", "answer_decoder"], ["question_encoder", ""]],
        "kind": [["crossattention_head", "mlp_out"], ["block", ""]],
        "layer": [[2, 3], [5, -1]],
        "token": [[7, 0], [4, -1]],
        "head": [[1, -1], [-1, -1]],
    }
    for part, values in expected.items():
        assert node[f"site_{part}"].dims == ("cell", "site") and node[f"site_{part}"].values.tolist() == values


def test_interaction_is_the_effect_of_both_minus_the_sum_of_each(model, seen):
    image, question, truth = seen
    three = [Site("question_encoder", layer=4, token=t) for t in (2, 7)] + [Site("answer_decoder", layer=1)]
    tree = nnblip.causal_trace(model, [(image, question)], draws=1, cells=pairs(three))
    found = nnblip.effects.interaction(tree)
    noisy = truth.noisy(5.0)
    base = truth.restored(noisy).probability

    def effect(*given):
        return truth.restored(noisy, *given).probability - base

    assert found.sizes["cell"] == 3
    for a, b in ((0, 1), (0, 2), (1, 2)):
        value = found.probability.sel(cell=f"{three[a]}; {three[b]}").item()
        both, each = effect(three[a], three[b]), effect(three[a]) + effect(three[b])
        assert value == pytest.approx(both - each, abs=3e-5)
    with pytest.raises(nnblip.NnblipError, match="no pair"):
        nnblip.effects.interaction(nnblip.causal_trace(model, [(image, question)], draws=1, cells=windows(1)))


def test_a_head_is_restored_by_name_in_a_context(model, seen):
    image, question, truth = seen
    with model.clean(image, question) as clean:
        pass
    site = Site("question_encoder", "crossattention_head", 4, 7, 2)
    with model.corrupt(clean, nu=5.0, restore=site) as run:
        pass
    assert run.probability == pytest.approx(truth.restored(truth.noisy(5.0), site).probability, abs=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [{"direction": "noisin"}, {"cells": []}, {"cells": [[]]}, {"cells": 3}, {"kinds": []}, {"freeze": ["cross"]}],
)
def test_bad_cells_and_directions_are_refused(model, seen, wrong):
    image, question, _ = seen
    with pytest.raises(nnblip.NnblipError):
        nnblip.causal_trace(model, [(image, question)], draws=1, **wrong)


def test_a_site_outside_the_model_is_named(model, seen):
    image, question, _ = seen
    with pytest.raises(SiteError, match="example 0: layer 6 of question_encoder: there are 6"):
        nnblip.causal_trace(model, [(image, question)], draws=1, cells=[Site("question_encoder", layer=6)])
