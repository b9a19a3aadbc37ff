"""Many draws and ν in one pass: against the oracle one by one, and however the map is cut."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import oracle
import pytest
import torch
from helpers.cells import agree, numbers
from helpers.scenes import VISIBLE, visible

import nnblip
from nnblip.errors import InputError, SettingError
from nnblip.passes import engine, room
from nnblip.results import VARIABLES
from nnblip.sites import HEAD_KINDS, KINDS, TEXT_COMPONENTS, Site, describe, image_regions

NU, DRAWS = (0.5, 3.0, 5.0), 3


@pytest.fixture(scope="module")
def seen(model):
    return visible(model)


@pytest.fixture
def grids(monkeypatch):
    """(rows, bases) of each pass that is run."""
    found, run_plan = [], engine.run_plan

    def watched(model, forward, rival, donor, plan, *rest):
        found.append((plan.rows, forward.bases))
        return run_plan(model, forward, rival, donor, plan, *rest)

    monkeypatch.setattr(engine, "run_plan", watched)
    return found


def random_cells(seed: int, tokens: int, count: int = 12) -> list[list[Site]]:
    rng, cells = random.Random(seed), []
    for _ in range(count):
        kind, component = rng.choice(KINDS), rng.choice(TEXT_COMPONENTS)
        token = rng.randrange(tokens) if component == "question_encoder" else 0
        head = rng.randrange(4) if kind in HEAD_KINDS else None
        cells.append([Site(component, kind, rng.randrange(6), token, head)])
    return [*cells, [*cells[0], *cells[1]]]


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("freeze", [(), ("crossattention",)])
def test_every_base_agrees_with_the_oracle(model, seen, grids, direction, freeze):
    image, question, truth = seen
    cells = [c for c in random_cells(1, len(truth.encoded.tokens)) if not freeze or "crossattention" not in c[0].kind]
    cells = [cell for number, cell in enumerate(cells) if cell not in cells[:number]]
    tree = nnblip.causal_trace(
        model, [(image, question)], NU, DRAWS, cells=cells, kinds=["block"], direction=direction, freeze=freeze
    )
    assert [bases for _, bases in grids] == [len(NU) * DRAWS], "all of it in one pass"
    effects, frozen = [], [f"{name}_out" for name in freeze]
    for nu in NU:
        for draw in range(DRAWS):
            noisy = truth.noisy(nu, draw=draw)
            corrupted = truth.restored(noisy)
            agree(numbers(tree, "corrupted", nu=nu, draw=draw), corrupted)
            effects.append(truth.clean.probability - corrupted.probability)
            start, donor = noisy, truth.states
            if direction == "noising":
                start, donor = truth.embeds, oracle.states(model._module, noisy, truth.ids, truth.answer)
            for cell in cells[:: 1 if draw == 1 else 5]:
                expected = oracle.restored(
                    model._module, start, truth.ids, truth.answer, truth.rival, donor, cell, frozen
                )
                agree(numbers(tree, "cells", nu=nu, draw=draw, cell=describe(tuple(cell))["cell"]), expected)
    assert max(effects) >= VISIBLE and np.ptp(effects) > 0.05, "the bases differ"


@pytest.mark.parametrize("place", ["image_embeds", "patch_embeds"])
@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_however_it_is_cut_the_numbers_are_the_same(model, seen, grids, place, direction):
    image, question, _ = seen
    cut = nnblip.knock_out("image_to_question", layers=[4], source=range(30, 40))

    def traced(max_rows):
        return nnblip.causal_trace(
            model, [(image, question)], (1.0, 3.0), 3, cells=[image_regions(2), *random_cells(2, 9)], noise_at=place,
            components=["image_encoder", *TEXT_COMPONENTS], kinds=["block"], regions=2, direction=direction,
            knock_out=cut, max_rows=max_rows,
        )  # fmt: skip

    whole, again = traced(None), traced(None)
    assert (
        max(bases for _, bases in grids) > 1
        and float((whole["clean"].probability - whole["corrupted"].probability).max()) >= VISIBLE
    )
    for max_rows in (40, 400) if place == "image_embeds" else (200,):  # through the image encoder, rows are dear
        grids.clear()
        parts = traced(max_rows)
        if place == "image_embeds":
            # a pass of one base may have some rows more, without which its numbers would be rounded otherwise
            assert all(rows * bases <= max_rows + 16 * (bases == 1) for rows, bases in grids)
        for name in ("corrupted", "image_encoder", *TEXT_COMPONENTS, "cells"):
            for variable, close in zip(VARIABLES, (1e-6, 1e-5, 1e-5), strict=True):
                gap = np.abs(parts[name][variable].values - whole[name][variable].values)
                assert gap.max() <= close * 10, (max_rows, name, variable)
    for name in ("corrupted", "image_encoder", *TEXT_COMPONENTS, "cells"):
        for variable in VARIABLES:
            np.testing.assert_array_equal(whole[name][variable], again[name][variable])


def test_draws_until_they_are_reliable_are_the_first_of_as_many(model, seen):
    image, question, _ = seen
    asked = dict(nu=3.0, noise="shuffle", noise_at="patch_embeds")
    auto = nnblip.causal_trace(model, [(image, question)], draws="auto", reliability=0.5, **asked)
    count = int(auto.draws.values[0])
    fixed = nnblip.causal_trace(model, [(image, question)], draws=count, **asked)
    for name in TEXT_COMPONENTS:
        assert np.abs(auto[name].probability.values - fixed[name].probability.values).max() < 1e-5


def test_the_result_says_what_bounds_a_pass(model, seen):
    image, question, _ = seen
    chosen = nnblip.causal_trace(model, [(image, question)], draws=1)
    assert chosen.attrs["max_rows"] == "chosen: 16384 rows of tokens, 1 GiB"
    assert nnblip.causal_trace(model, [(image, question)], draws=1, max_rows=30).attrs["max_rows"] == 30


def test_rows_for_which_there_is_no_memory_are_refused_before_they_run(model, seen, grids, monkeypatch):
    image, question, _ = seen
    monkeypatch.setattr(room, "_free", lambda model: 2**20)
    with pytest.raises(SettingError, match=r"max_rows 100000: a pass of \d+ rows takes about .* GiB.*expected at most"):
        nnblip.causal_trace(model, [(image, question)], draws=1, max_rows=100_000)
    assert not grids


def test_a_cell_for_which_there_is_no_memory_is_refused(model, seen, grids, monkeypatch):
    image, question, _ = seen
    small = dataclasses.replace(room.Room.of(model), nbytes=2**10)
    monkeypatch.setattr(room.Room, "of", lambda model: small)
    with pytest.raises(InputError, match=r"a pass of one cell takes .* GiB .* expected a shorter question"):
        nnblip.causal_trace(model, [(image, question)], draws=1)
    assert not grids


def test_as_many_bases_share_a_pass_as_there_is_room_for(model, seen, grids):
    image, question, _ = seen
    nnblip.causal_trace(model, [(image, question)], NU, 4, max_rows=300)
    (rows,) = {rows for rows, _ in grids}
    assert [bases for _, bases in grids] == [300 // rows, 300 // rows, 12 - 2 * (300 // rows)]


def test_a_batch_of_bases_is_each_of_them_alone(model, seen):
    """The engine by itself: the states and logits of bases are those of passes of their own."""
    _, _, truth = seen
    noisy = torch.cat([truth.noisy(nu) for nu in NU])
    forward = engine.Forward(truth.encoded, noisy, truth.answer, bases=len(NU))
    states, logits = engine.run_alone(model, forward)
    assert logits.shape[0] == len(NU) and np.ptp(logits[:, 0, truth.answer[0]].numpy()) > 0.1
    for base in range(len(NU)):
        alone = dataclasses.replace(forward, image=noisy[base : base + 1], bases=1)
        one, its = engine.run_alone(model, alone)
        assert (logits[base] - its[0]).abs().max() < 1e-4
        for key, state in states.items():
            assert (state[base] - one[key][0]).abs().max() < 1e-4, key
