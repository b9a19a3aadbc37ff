"""What speaks against the numbers of a result: `diagnose`, and the checks that it makes.

findings.py   a finding, many of them, and what a check is
look.py       a result as plain arrays
damage.py     is the damage of a strength, and what it makes an image?
ratios.py     can effects be divided, and is their mean one of more than one?
maps.py       do the maps say where?
agreement.py  would metrics, noises and draws rank alike?
data.py       are there enough draws and examples?
answers.py    is the answer the model's, right, and one that numbers can hold?
"""

from __future__ import annotations

import xarray as xr

from nnblip.diagnosis import agreement, answers, damage, data, maps, ratios
from nnblip.diagnosis.findings import ATTRIBUTE, LEVELS, Check, Finding, Findings
from nnblip.diagnosis.look import Look
from nnblip.errors import SettingError

#: All checks, in the order in which findings of one level stand.
CHECKS: tuple[Check, ...] = (
    damage.weak, damage.saturated, damage.unlike,
    ratios.undefined, ratios.unstable, ratios.dominated,
    maps.uniform, maps.negative, maps.low, maps.by_construction,
    agreement.metrics, agreement.noises, agreement.halves,
    data.too_few, data.unfinished,
    answers.wrong, answers.first_token, answers.precision,
)  # fmt: skip

__all__ = ["ATTRIBUTE", "CHECKS", "LEVELS", "Check", "Finding", "Findings", "diagnose"]


def diagnose(result: xr.DataTree, other: xr.DataTree | None = None, *, width: float | None = None) -> Findings:
    """What speaks against the numbers of a result, or must be known to read them.

    Each check, its limit and what to try is on the diagnostics page of the documentation. Limits are held against what
    draws and examples leave of uncertainty where they can be; what cannot be told (of one draw, without a node) is not
    found. Changes nothing, and reads the whole result.

    Args:
        result: of `causal_trace`, `sweep` or `attribution_trace`; of one ν or example if it is selected first.
        other: a result of the same examples under another noise, to hold the maps of both against each other, ν by ν
            where both have several.
        width: how wide the intervals of indirect effects may be: are there enough draws, or of several examples
            enough examples? (See `effects.draws_needed`.)

    Returns:
        The findings, the gravest first: none is a sound result.

    Raises:
        NnblipError: if `result` or `other` is no result, or `width` is no positive number.
    """
    if width is not None and (
        isinstance(width, bool) or not isinstance(width, (int, float)) or not 0 < width < float("inf")
    ):
        raise SettingError(f"width is {width!r}: expected how wide intervals may be, a positive number such as 0.1.")
    look = Look(result, None if other is None else Look(other), width)
    return Findings(finding for check in CHECKS for finding in check(look))
