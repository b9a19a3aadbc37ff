"""What is said of a claim: that it holds, that it fails, or that it is not established."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr

from nnblip.experiments.numbers import Mean
from nnblip.experiments.texts import listed

HOLDS, FAILS, OPEN = "holds", "fails", "not established"
#: p below which a corrected test finds a difference.
ALPHA = 0.05


class Verdict(NamedTuple):
    """Of one claim: one of HOLDS, FAILS, OPEN, and the numbers that say so."""

    said: str
    because: str


def above(found: Mean, limit: float, what: str) -> Verdict:
    """Whether a mean is above a limit: its whole interval is, or is not, or holds the limit.

    Args:
        found: the mean.
        limit: what the claim says it is above.
        what: what it is the mean of, "the share that is lost".
    """
    said = HOLDS if found.low > limit else FAILS if found.high < limit else OPEN
    against = "" if limit == 0 else f" (limit {limit:g})"
    return Verdict(said, f"{what}: {found}{against}")


def below(found: Mean, limit: float, what: str) -> Verdict:
    """Whether a mean is below a limit, see `above`."""
    turned = {HOLDS: FAILS, FAILS: HOLDS, OPEN: OPEN}
    said, because = above(found, limit, what)
    return Verdict(turned[said], because)


def everywhere(parts: Mapping[str, Verdict]) -> Verdict:
    """A claim about several groups: it holds if it does in each, and fails if it does in one.

    That it holds in each needs no correction for many; so that it fails in one has the promise of 95 %, make the
    intervals of k groups with `level=of_several(k)`. What of each group is said belongs into a table.
    """
    if not parts:
        return Verdict(OPEN, "no group has enough examples")
    found = {said: [name for name, part in parts.items() if part.said == said] for said in (HOLDS, OPEN, FAILS)}
    counts = [f"{said} for {_some(names)}" for said, names in found.items() if names]
    verdict = FAILS if found[FAILS] else OPEN if found[OPEN] else HOLDS
    told = next(iter(parts.values())).because if len(parts) == 1 else "; ".join(counts)
    return Verdict(verdict, told)


def of_several(count: int) -> float:
    """The level of each of so many intervals that together have 95 % (Bonferroni)."""
    return 1 - ALPHA / max(1, count)


def differ(compared: Mapping[str, xr.Dataset], what: str) -> Verdict:
    """Whether anything differs in pairs that `effects.compare` compared, with its corrected p, by Holm over the pairs.

    That nothing differs cannot be shown by a test that finds nothing: it is then not established.

    Args:
        compared: of each pair what `compare` gave, with `p_corrected` for its own many cells.
        what: what they are the tests of, "two types".
    """
    smallest = {name: _least(data) for name, data in compared.items()}
    if not smallest:
        return Verdict(OPEN, f"{what}: there is nothing to compare")
    corrected = holm(smallest)
    found = [name for name, p in corrected.items() if p < ALPHA]
    best = min(corrected, key=lambda name: corrected[name])
    told = f"{len(found)} of {len(smallest)} {what} differ somewhere; the smallest corrected p is {corrected[best]:.3g}"
    return Verdict(HOLDS if found else OPEN, f"{told} ({best})")


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """p corrected by Holm 1979; what has none (NaN) stays without and counts as 1."""
    names = sorted(p, key=lambda name: np.nan_to_num(p[name], nan=1.0))
    found, largest = {}, 0.0
    for rank, name in enumerate(names):
        largest = max(largest, min(1.0, float(np.nan_to_num(p[name], nan=1.0)) * (len(names) - rank)))
        found[name] = largest
    return {name: found[name] for name in p}


def alike(compared: xr.Dataset, margin: float, what: str) -> Verdict:
    """Whether two things are the same within a margin: every interval of their differences lies in it.

    It fails if one lies outside of it, with intervals that hold together.

    Args:
        compared: `difference`, `low` and `high` of each cell.
        margin: how large a difference is taken for none.
        what: what is compared.
    """
    low, high = compared["low"].values, compared["high"].values
    if np.isnan(low).any() or not low.size:
        return Verdict(OPEN, f"{what}: too few examples for intervals")
    inside = (low > -margin).all() and (high < margin).all()
    outside = (low > margin).any() or (high < -margin).any()
    largest = compared["difference"].values.flat[np.abs(compared["difference"].values).argmax()]
    widest = float(np.maximum(np.abs(low), np.abs(high)).max())
    said = HOLDS if inside else FAILS if outside else OPEN
    return Verdict(said, f"{what}: largest difference {largest:+.3f}, intervals reach {widest:.3f} (margin {margin:g})")


def sentence(name: str, verdict: Verdict) -> str:
    """One line of a summary."""
    return f"- **{verdict.said}**: {name} ({verdict.because})"


def _some(names: Sequence[str]) -> str:
    return listed(names) if len(names) <= 3 else f"{len(names)}, such as {listed(names[:2])}"


def _least(data: xr.Dataset) -> float:
    p = data["p_corrected"].values
    return float(np.nanmin(p)) if p.size and not np.isnan(p).all() else np.nan
