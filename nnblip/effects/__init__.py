"""xarray in, xarray out: what the probabilities of a result say about where an answer comes from.

shares.py    total and indirect effect, relevance, Γ, the strongest sites
averages.py  means over the words of a role and the questions of a type
reading.py   the nodes, examples and texts of a result
numbers.py   the same on plain arrays
"""

from nnblip.effects.averages import by_role, by_type, with_roles
from nnblip.effects.numbers import half_width, mean_interval, ratio
from nnblip.effects.shares import (
    THRESHOLD,
    SiteEffect,
    gamma,
    indirect_effect,
    interaction,
    relevance,
    strongest,
    total_effect,
)

__all__ = [
    "THRESHOLD", "SiteEffect", "by_role", "by_type", "gamma", "half_width", "indirect_effect", "interaction",
    "mean_interval", "ratio", "relevance", "strongest", "total_effect", "with_roles",
]  # fmt: skip
