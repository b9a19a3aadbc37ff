"""A small run of scripts/calibrate.py: intervals hold the truth as often as they say, tests rarely reject a true null.

The limits are three standard errors of so many trials around what the full run found (docs/calibration.md), and an
interval that is 30 % narrower lies outside of them.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from nnblip import effects
from nnblip.effects import intervals

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import calibrate
import simulated
from simulated import Counted, means, ratios, rejected, singles, together

TRIALS = 1000
#: What is counted, and the share of intervals that should hold the truth.
EXPECTED = {
    "means, symmetric": (partial(means, "symmetric", (20, 3), TRIALS), 0.955),
    "means, skewed": (partial(means, "skewed", (20, 10), TRIALS), 0.957),
    "means, very skewed": (partial(means, "very skewed", (50, 3), TRIALS), 0.963),
    "relevance": (partial(ratios, "strong", (20, 3), TRIALS, pooled=False), 0.95),
    "relevance, pooled": (partial(ratios, "all or nothing", (50, 10), TRIALS, pooled=True), 0.953),
    "draws, very skewed": (partial(singles, "very skewed", 10, TRIALS), 0.94),
    "draws, many": (partial(singles, "mostly none", 80, TRIALS), 0.97),
}


def far_from(share: float, expected: float) -> bool:
    return abs(share - expected) > 3 * (expected * (1 - expected) / TRIALS) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize("case", EXPECTED)
def test_intervals_hold_the_truth_as_often_as_they_say(case):
    count, expected = EXPECTED[case]
    found = count()
    assert found.none == 0 and not far_from(found.covered, expected), found


@pytest.mark.parametrize("case", EXPECTED)
def test_intervals_that_are_narrower_are_found_out(case, monkeypatch):
    whole = intervals._Way.bounds

    def narrower(self, a, b, quantity):
        low, high = whole(self, a, b, quantity)
        return low + 0.15 * (high - low), high - 0.15 * (high - low)

    monkeypatch.setattr(intervals._Way, "bounds", narrower)
    count, expected = EXPECTED[case]
    found = count()
    assert far_from(found.covered, expected) and found.covered < expected, found


def test_what_no_method_holds_has_no_interval():
    assert means("skewed", (7, 10), 50).none == 1 == singles("skewed", 9, 50).none
    tree, *_ = simulated.shares("near the threshold", 200, 3, 50)
    found = effects.interval(tree, "relevance", resamples=500)["question_encoder"]
    assert (found.reason == "too few draws for a mean of ratios: take pooled=True").mean() > 0.5


@pytest.mark.parametrize(("test", "sizes"), [("paired", (12, 12)), ("groups", (12, 60))])
def test_a_true_null_is_rejected_at_5_percent(test, sizes):
    assert not far_from(rejected(test, "skewed", sizes, TRIALS), 0.05)


def test_counts_of_parts_are_counts_of_all():
    some, none = Counted(0.9, 0.5, 1.0), Counted(np.nan, 1.0, np.nan)
    assert together([some, Counted(0.6, 0.0, 3.0)]) == (pytest.approx(0.7), 0.25, 2.0)
    assert together([some, none])[:2] == (0.9, 0.75) and together([none, none]).none == 1


def test_real_draws_are_taken_again_as_they_were(monkeypatch):
    tree, *_ = simulated.shares("strong", 1, 40, 1)
    chosen = np.array([[0, 5, 5], [39, 1, 2]])
    again = calibrate._resampled(tree, chosen)
    for node in ("corrupted", "question_encoder"):
        wanted = tree[node].probability.values[0, 0][chosen]
        np.testing.assert_array_equal(again[node].probability.values[:, 0], wanted)


def test_the_tables_stand_between_the_marks_of_their_page():
    page = "a\n<!-- real -->\nold\n<!-- end of real -->\nb\n"
    assert calibrate.written(page, "real", "new") == "a\n<!-- real -->\n\nnew\n\n<!-- end of real -->\nb\n"
    with pytest.raises(SystemExit, match="no marks <!-- tests -->"):
        calibrate.written(page, "tests", "new")
    pages = Path(__file__).parents[2] / "docs" / "calibration.md"
    assert all(f"<!-- {part} -->" in pages.read_text() for part in calibrate.PARTS)
