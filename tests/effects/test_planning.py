"""How many draws and examples: what is asked for, taken, and measured."""

import numpy as np
import pytest
from helpers.trees import random_tree

from nnblip import effects
from nnblip.errors import NnblipError

SMALL = {"layers": 2, "kinds": ("block",), "nus": (5.0,)}


def test_so_many_draws_give_an_interval_of_that_width():
    every = random_tree(examples=2, draws=4000, **SMALL)
    pilot = every.isel(draw=range(40))
    needed = effects.draws_needed(pilot, 0.15)["question_encoder"].draws
    assert needed.dims == ("example", "nu", "kind", "layer", "token")
    padded = pilot["question_encoder"].probability.isnull().all("draw")
    assert (needed.isnull() == padded).all() and (needed.min() >= 10) and needed.max() < 400
    for example in range(2):
        here = needed.isel(example=example, nu=0, kind=0, layer=0, token=1)
        draws = int(here)
        widths = []
        for start in range(0, 20 * draws, draws):
            some = every.isel(example=[example], draw=slice(start, start + draws))
            found = (
                effects.interval(some)["question_encoder"].to_dataset().isel(example=0, nu=0, kind=0, layer=0, token=1)
            )
            widths.append(float(found.high - found.low))
        assert 0.09 < np.median(widths) < 0.17


def test_fewer_draws_for_a_wider_interval_and_more_than_were_ever_tried():
    tree = random_tree(examples=1, draws=20, **SMALL)
    counts = [effects.draws_needed(tree, width)["answer_decoder"].draws.max().item() for width in (0.5, 0.1, 0.02)]
    assert counts == sorted(counts) and counts[0] >= 10 and counts[-1] > 320
    by_curve = effects.draws_needed(tree, 0.1, "gamma")["question_encoder"].draws
    assert by_curve.dims == ("example", "nu", "kind")
    assert float(by_curve.max()) < float(effects.draws_needed(tree, 0.1)["question_encoder"].draws.max())


def test_so_many_examples_give_an_interval_of_that_width():
    tree = random_tree(examples=900, draws=2, **SMALL)
    found = effects.examples_needed(tree.isel(example=range(100)), 0.08)["answer_decoder"].to_dataset().isel(token=0)
    for layer in range(2):
        n = int(found.examples.isel(nu=0, kind=0, layer=layer))
        some = effects.interval(tree.isel(example=range(n)))["answer_decoder"].to_dataset().isel(token=0, nu=0, kind=0)
        assert float((some.high - some.low).isel(layer=layer)) == pytest.approx(0.08, rel=0.3)


def test_the_two_components_of_variance_are_those_of_the_truth():
    tree = random_tree(examples=400, draws=5, **SMALL)
    rng = np.random.default_rng(0)
    tree["corrupted"]["probability"].values[...] = 0.2
    numbers = tree["answer_decoder"]["probability"].values
    numbers[...] = 0.5 + 0.1 * rng.standard_normal((400, 1, 1, 1, 1, 1)) + 0.3 * rng.standard_normal(numbers.shape)
    found = effects.examples_needed(tree)["answer_decoder"].to_dataset()
    np.testing.assert_allclose(found.within, 0.09, rtol=0.1)
    np.testing.assert_allclose(found.between, 0.01, rtol=0.6)
    few, many = (effects.examples_needed(tree, draws=draws)["answer_decoder"].examples for draws in (1, 100))
    assert (few > 3 * many).all()
    again = effects.examples_needed(tree, draws=5)["answer_decoder"].examples
    assert again.equals(found.examples)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: effects.draws_needed(t, 0), "width is 0: expected how wide"),
        (lambda t: effects.draws_needed(t.isel(draw=[0, 1])), "a pilot of 2 draws: expected at least 3"),
        (lambda t: effects.examples_needed(t.isel(example=[0])), "a pilot of one example"),
        (lambda t: effects.examples_needed(t, draws=0), "draws 0: expected a whole number"),
        (lambda t: effects.draws_needed(t, value="effect"), "value 'effect' is unknown"),
    ],
)
def test_what_cannot_be_planned_is_said(call, message):
    with pytest.raises(NnblipError, match=message):
        call(random_tree(examples=3, draws=4, **SMALL))
