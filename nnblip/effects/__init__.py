"""xarray in, xarray out: what the probabilities of a result say about where an answer comes from.

differences.py  total and indirect effect, interaction
shares.py       relevance and Γ: what is divided
ranking.py      the strongest sites, and which cells restore by construction
averages.py     means over the words of a role and the questions of a type
units.py        what is averaged: a number of each example or draw
intervals.py    means with intervals
comparisons.py  two results side by side
picking.py      the strongest of many, measured on other examples than those that chose it
planning.py     how many draws or examples an interval needs
reading.py      the nodes, examples and texts of a result
numbers.py      ratios, means and Student's intervals on plain arrays
resampling.py   bounds by resampling, on plain arrays
"""

from nnblip.effects.averages import by_role, by_type, with_roles
from nnblip.effects.comparisons import compare
from nnblip.effects.differences import indirect_effect, interaction, knock_out_effect, total_effect
from nnblip.effects.intervals import interval
from nnblip.effects.numbers import half_width, mean_interval, mean_of_ratios, ratio_of_means
from nnblip.effects.picking import Picked, picked
from nnblip.effects.planning import draws_needed, examples_needed
from nnblip.effects.ranking import SiteEffect, strongest, structural
from nnblip.effects.shares import ESTIMATORS, THRESHOLD, gamma, relevance, thresholds

__all__ = [
    "ESTIMATORS", "THRESHOLD", "Picked", "SiteEffect", "by_role", "by_type", "compare", "draws_needed",
    "examples_needed", "gamma", "half_width", "indirect_effect", "interaction", "interval", "knock_out_effect",
    "mean_interval", "mean_of_ratios", "picked", "ratio_of_means", "relevance", "strongest", "structural",
    "thresholds", "total_effect", "with_roles",
]  # fmt: skip
