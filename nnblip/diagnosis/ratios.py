"""Can the effects be divided, and is their mean one of more than a single draw or example?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from nnblip.diagnosis.findings import Seen, check
from nnblip.diagnosis.look import MOST, PROBABILITY, Array, Look, graver, of_one, shares
from nnblip.diagnosis.maps import LOW, relevances
from nnblip.effects import interval, resampling
from nnblip.effects.intervals import MIN_DRAWS, MIN_EXAMPLES
from nnblip.effects.numbers import mean_known, quotient
from nnblip.effects.shares import THRESHOLD
from nnblip.sites import TEXT_COMPONENTS

#: More than all others together.
HALF = 0.5
#: Of fewer units one often has more than half of a sum, and it would mean little.
LEAST_UNITS = 5
#: Γ below it is none, and its interval may well be wider than that.
SOME = 0.05
#: A few draws in which nothing happened are in every trace; a fifth of them are worth a line.
IDLE = 0.2


@check(
    "undefined share",
    limits=f"a mean total effect of at least {THRESHOLD:g} in all examples, and such a total effect in all but"
    f" {IDLE:g} of the"
    f" draws; a warning where more than {MOST:g} of the examples have no relevance at any ν",
    why="Relevance is undefined where nothing was taken away. Means are then of the other examples, which"
    " are those that"
    " the damage hurts; and where most draws do nothing, the map is that of the few that do.",
    reference="Palit et al. 2023 (2308.14179), whose notebook divides by whatever there is",
    remedy="Take a larger ν or another noise, or `relevance(..., pooled=True)`, which leaves no example out.",
)
def undefined(look: Look) -> Iterator[Seen]:
    known = ~np.isnan(look.mean_total)
    gone = known & ~look.visible
    if gone.any():
        share = shares(gone, known)
        level = "warning" if np.nanmin(share) > MOST else "note"
        said = ", ".join(f"{gone[:, k].sum()} of {known[:, k].sum()} at ν = {look.nus[k]:g}" for k in range(len(share)))
        limit = f"total effects of at least {THRESHOLD:g}"
        yield Seen(level, f"examples without a defined relevance: {said}", limit, look.at(gone))
    total = look.total[PROBABILITY]
    there = ~np.isnan(total) & look.visible[..., None]
    idle = quotient(((total < THRESHOLD) & there).sum((0, 2)).astype(float), there.sum((0, 2)))
    if look.varied and (idle > IDLE).any():
        said = ", ".join(f"{share:.2f} at ν = {nu:g}" for share, nu in zip(idle, look.nus, strict=True) if share > IDLE)
        idly = f"share of draws with a total effect below {THRESHOLD:g}: {said}"
        yield Seen("note", idly, f"at most {IDLE:g}", look.nu_texts(idle > IDLE))


@check(
    "unstable ratio",
    limits="a 95 % interval of the strongest cell's relevance over the draws, or of Γ over"
    f" {MIN_EXAMPLES} and more examples, that is no wider than its value (or than {LOW:g}); a warning where it, or that"
    " of the total effect, reaches 0",
    why="A ratio whose interval is wider than itself could as well be half or twice as large.",
    reference="Fieller 1954; `effects.interval`",
    remedy="Take more draws (`effects.draws_needed`) or examples (`effects.examples_needed`), or a steadier noise.",
)
def unstable(look: Look) -> Iterator[Seen]:
    if look.varied and look.maps and len(look.examples) < MIN_EXAMPLES:
        strongest = look.once(_strongest)
        known = ~np.isnan(strongest.relevance) & (strongest.count >= MIN_DRAWS)
        with np.errstate(invalid="ignore"):
            width = strongest.high - strongest.low
            wide = known & (width > np.maximum(np.abs(strongest.relevance), LOW))
            lost = known & (strongest.least_total <= 0)
        if wide.any():
            at = np.unravel_index(np.argmax(np.where(wide, width, -1)), wide.shape)
            value, low, high = (one[at] for one in (strongest.relevance, strongest.low, strongest.high))
            said = f"relevance of the strongest cell is {value:.2f}, its interval {low:.2f} to {high:.2f}"
            yield Seen(
                of_one(look, graver(wide & (strongest.low <= 0), known)), said, "narrower than the value", look.at(wide)
            )
        if lost.any():
            said = "the interval of the total effect reaches 0"
            yield Seen(of_one(look, graver(lost, known)), said, "above 0", look.at(lost))
    if len(look.examples) >= MIN_EXAMPLES and any(one.layers.max(initial=-1) >= 0 for one in look.maps):
        for name, node in interval(look.tree, "gamma").children.items():
            value, low, high = (node.to_dataset()[key].values for key in ("value", "low", "high"))
            with np.errstate(invalid="ignore"):
                some = (np.abs(value) >= SOME) & (high - low > np.abs(value))
                lost = some & (low <= 0) & (high >= 0)
            if some.any():
                told = "reaches 0" if lost.any() else "is wider than its value"
                level = "warning" if lost.any() and name in TEXT_COMPONENTS else "note"
                said = f"Γ of {name}: its interval over examples {told}"
                yield Seen(level, said, "narrower, and without 0", (name,))


@dataclass(frozen=True)
class _Strongest:
    """Of the cell with the largest relevance, (example, nu).

    Attributes:
        relevance, low, high: its relevance, and the interval of that.
        count: how many draws are known.
        largest: which share of the sum of its effects the largest draw has.
        least_total: lower bound of the total effect.
    """

    relevance: Array
    low: Array
    high: Array
    count: Array
    largest: Array
    least_total: Array


def _strongest(look: Look) -> _Strongest:
    outer = look.mean_total.shape
    total = look.total[PROBABILITY].reshape(-1, look.total[PROBABILITY].shape[2])
    relevance, effect = np.full(outer, -np.inf), np.full(total.shape, np.nan)
    for one in look.maps:
        share = np.where(np.isnan(found := relevances(one, look)), -np.inf, found)
        if not share.size:
            continue
        cell = share.argmax(-1)
        own = np.take_along_axis(one.effects[PROBABILITY], cell[:, :, None, None], 3)[..., 0].reshape(total.shape)
        value = np.take_along_axis(share, cell[..., None], 2)[..., 0]
        effect = np.where((value > relevance).reshape(-1, 1), own, effect)
        relevance = np.fmax(relevance, value)
    known = ~(np.isnan(effect) | np.isnan(total))
    a, b = (np.where(known, values, 0).T for values in (effect, total))
    bound = partial(resampling.beyond, level=0.95, resamples=1000, least=resampling.LEAST)

    def block(cells: slice) -> tuple[Array, Array]:
        return bound(a[:, cells], b[:, cells], rng=np.random.default_rng(0))

    def of_total(cells: slice) -> tuple[Array, Array]:
        ones = known.T[:, cells].astype(float)
        return bound(b[:, cells], ones, rng=np.random.default_rng(0), support=(-1.0, 1.0))

    low, high = resampling.in_blocks(block, a.shape[1])
    least, _ = resampling.in_blocks(of_total, a.shape[1])
    whole = np.abs(a).sum(0)
    largest = np.abs(a).max(0) / np.where(whole > 0, whole, np.nan)
    relevance = np.where(np.isinf(relevance), np.nan, relevance)
    columns = (low, high, known.sum(1).astype(float), largest, least)
    return _Strongest(relevance, *(one.reshape(outer) for one in columns))


@check(
    "dominated mean",
    limits=f"no draw, and no example, with more than {HALF:g} of the sum of a mean (of {LEAST_UNITS} and more)",
    why="A mean that is one draw's or one example's says what that did, and not what happens in general.",
    reference="Efron and Tibshirani 1993, on influence and the jackknife",
    remedy="Look at that draw or example by itself; take more of them, a steadier noise, or a median.",
)
def dominated(look: Look) -> Iterator[Seen]:
    total = np.abs(np.where(look.visible[..., None], look.total[PROBABILITY], np.nan))
    count = (~np.isnan(total)).sum(2)
    known = look.visible & (count >= LEAST_UNITS)
    if look.varied and known.any():
        largest = quotient(np.where(np.isnan(total), 0, total).max(2), np.nansum(total, 2))
        where = "total effect"
        if look.maps:
            of_cell = look.once(_strongest).largest
            where = "total effect" if np.nanmax(largest) > HALF else "strongest cell"
            largest = np.fmax(largest, of_cell)
        one = known & (largest > HALF)
        if one.any():
            said = f"one draw has {np.nanmax(largest[one]):.2f} of the {where}"
            yield Seen(of_one(look, graver(one, known)), said, f"at most {HALF:g}", look.at(one))
    for what, values in (("total effect", look.mean_total), *_profiles(look)):
        there = np.where(np.isnan(values), 0, np.abs(values))
        enough = (there > 0).sum(0) >= LEAST_UNITS
        share = quotient(there.max(0), there.sum(0)) if len(there) else np.zeros(0)
        one_of = enough & (share > HALF) & (mean_known(np.abs(values), 0) >= THRESHOLD / 10)
        if one_of.any():
            said = f"one of {len(look.examples)} examples has {np.nanmax(share[one_of]):.2f} of the {what}"
            places = (there >= there.max(0)) & one_of
            level = "note" if "image_encoder" in what else "warning"
            yield Seen(level, said, f"at most {HALF:g}", look.at(places))
            return  # what is a share of the total effect follows it


def _profiles(look: Look) -> Iterator[tuple[str, Array]]:
    """Means over the cells of each map, (example, nu): of effects, which make pooled Γ, and of relevance."""
    for one in look.maps:
        yield f"effects of {one}", mean_known(one.mean(), 2)
        yield f"relevance of {one}", mean_known(relevances(one, look), 2)
